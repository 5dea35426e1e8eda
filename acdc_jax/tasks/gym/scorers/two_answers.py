"""Questions that ask two things at once."""

import re


def two_answers(submission: str) -> tuple[str, str]:
    """Return the answers behind `First:` and `Second:`; both are "" if there is not one of each."""
    parts = re.split(r"(?im)^[ \t>*_#-]*(first|second)\b[ \t*_]*:[ \t*_]*", submission)
    if [label.lower() for label in parts[1::2]] != ["first", "second"]:
        return "", ""
    return parts[2].strip(), parts[4].strip()
