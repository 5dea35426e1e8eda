"""Reach a number by pressing buttons: `quantum_lock`."""

import re
from typing import Any


def buttons(submission: str, puzzle: dict[str, Any]) -> bool:
    """Return whether buttons, such as A → B, reach the target, as few as needed."""
    presses = re.findall(r"[A-C]", submission)
    if re.sub(r"[\s→,>-]", "", submission) != "".join(presses):
        return False  # it has other words
    number, light = puzzle["start"], puzzle["light"]
    for name in presses:
        button = puzzle["buttons"].get(name)
        if button is None or button["when"] not in (light, "any"):
            continue
        step = {"add": number + button["by"], "subtract": number - button["by"]}
        number = step.get(button["does"], number * button["by"])
        light = "green" if light == "red" else "red"
        if abs(number) > 10**12:
            return False
    return len(presses) == puzzle["presses"] and bool(number == puzzle["target"])
