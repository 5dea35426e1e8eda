"""Replace each of three letters by its opposite in the alphabet: a by z, b by y."""

import random
from string import ascii_lowercase

OPPOSITE = str.maketrans(ascii_lowercase, ascii_lowercase[::-1])


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict[str, str]]:
        rng = random.Random(105)
        return {str(i): {"text": "".join(rng.choices(ascii_lowercase, k=3))} for i in range(4)}

    @staticmethod
    def get_instructions(t: dict[str, str]) -> str:
        return f"invert: {t['text']}"

    @staticmethod
    def score(t: dict[str, str], submission: str) -> float:
        return float(submission.strip() == t["text"].translate(OPPOSITE))
