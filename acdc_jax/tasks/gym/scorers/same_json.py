"""Questions whose one right answer is JSON: `game_of_life`."""

import json
from typing import Any


def same_json(submission: str, right: Any) -> bool:
    """Return whether an answer is this JSON, however it is laid out."""
    try:
        return bool(json.loads(submission) == right)
    except (ValueError, RecursionError):
        return False
