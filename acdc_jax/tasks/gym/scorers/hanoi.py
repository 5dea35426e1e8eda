"""Move a tower of discs: `tower_of_hanoi`."""

import re
from typing import Any


def hanoi(submission: str, puzzle: dict[str, Any]) -> bool:
    """Return whether moves, one a line, bring all discs to the target, in no more than needed."""
    lines = [line.strip() for line in submission.splitlines() if line.strip()]
    moves = [re.fullmatch(r"Move disk (\d+) from Peg (\d+) to Peg (\d+)", line) for line in lines]
    pegs: dict[int, list[int]] = {peg: [] for peg in range(1, puzzle["pegs"] + 1)}
    tower = list(range(puzzle["disks"], 0, -1))
    pegs[puzzle["start"]] = list(tower)
    for move in moves:
        if move is None or max(map(len, move.groups())) > 3:
            return False
        disk, source, target = map(int, move.groups())
        if source not in pegs or target not in pegs or pegs[source][-1:] != [disk]:
            return False
        if pegs[target] and pegs[target][-1] < disk:
            return False
        pegs[source].pop()
        pegs[target].append(disk)
    return pegs[puzzle["target"]] == tower and len(moves) <= puzzle["most_moves"]
