"""Find a shortest way through a grid: `shortest_path`."""

from typing import Any


def grid_path(submission: str, puzzle: dict[str, Any]) -> bool:
    """Return whether steps lead from * to # through open cells, as few as needed."""
    rows, steps = puzzle["rows"], submission.split()
    moves = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
    if len(steps) != puzzle["steps"] or not all(step in moves for step in steps):
        return False
    i, j = next((i, row.index("*")) for i, row in enumerate(rows) if "*" in row)
    for step in steps:
        down, right = moves[step]
        i, j = i + down, j + right
        if not (0 <= i < len(rows) and 0 <= j < len(rows[i])) or rows[i][j] == "X":
            return False
    return bool(rows[i][j] == "#")
