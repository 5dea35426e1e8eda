"""Colour a graph: `graph_color`."""

import json
from typing import Any


def coloring(submission: str, graph: dict[str, Any]) -> bool:
    """Return whether a JSON map of vertices to colours is complete and parts all neighbours."""
    try:
        colors = json.loads(submission)
    except (ValueError, RecursionError):
        return False
    if not isinstance(colors, dict):
        return False
    chosen = [colors.get(str(vertex)) for vertex in graph["vertices"]]
    if not all(type(color) is int and color in graph["colors"] for color in chosen):
        return False
    return all(colors[str(one)] != colors[str(other)] for one, other in graph["edges"])
