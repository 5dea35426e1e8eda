"""Mark cells of a grid so that rows and columns have weighted sums: `kakurasu`."""

from collections.abc import Iterable


def kakurasu(submission: str, sums: dict[str, list[int]]) -> bool:
    """Return whether rows of 0 and 1 have the sums; the i-th cell of a line weighs i."""
    grid = ["".join(line.split()) for line in submission.strip().splitlines()]
    rows, columns = sums["rows"], sums["columns"]
    if len(grid) != len(rows) or any(len(line) != len(columns) for line in grid):
        return False
    if any(cell not in ("0", "1") for line in grid for cell in line):
        return False
    lines = [weight(line) for line in grid]
    return lines == rows and [weight(line) for line in zip(*grid, strict=True)] == columns


def weight(cells: Iterable[str]) -> int:
    """Return the sum of the positions, from 1, of the ones."""
    return sum(i for i, cell in enumerate(cells, 1) if cell == "1")
