"""Group words that have the same letters: `group_anagrams`."""

import json


def anagrams(submission: str, groups: list[list[str]]) -> bool:
    """Return whether a JSON list of lists has the same groups, in any order."""
    try:
        answer = json.loads(submission)
    except (ValueError, RecursionError):
        return False
    if not isinstance(answer, list) or not all(isinstance(group, list) for group in answer):
        return False
    if not all(isinstance(word, str) for group in answer for word in group):
        return False
    return sorted(map(sorted, answer)) == sorted(map(sorted, groups))
