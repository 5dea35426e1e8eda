"""Measure water with jugs: `jugs`."""

import json
from typing import Any


def jugs(submission: str, puzzle: dict[str, Any]) -> bool:
    """Return whether a JSON list of moves leaves the target in a jug."""
    try:
        moves = json.loads(submission)
    except (ValueError, RecursionError):
        return False
    if not isinstance(moves, list) or not all(isinstance(move, str) for move in moves):
        return False
    room = {chr(ord("A") + i): size for i, size in enumerate(puzzle["capacities"])}
    water = dict.fromkeys(room, 0)
    for move in moves:
        verb, _, names = " ".join(move.split()).partition(" ")
        jug, _, other = names.partition("->")
        if verb in ("fill", "empty") and names in room:
            water[names] = room[names] if verb == "fill" else 0
        elif verb == "pour" and jug in room and other in room and jug != other:
            poured = min(water[jug], room[other] - water[other])
            water[jug] -= poured
            water[other] += poured
        else:
            return False
    return puzzle["target"] in water.values()
