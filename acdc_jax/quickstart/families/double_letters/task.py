"""Write each of three letters twice."""

import random
from string import ascii_lowercase


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict[str, str]]:
        rng = random.Random(103)
        return {str(i): {"text": "".join(rng.choices(ascii_lowercase, k=3))} for i in range(4)}

    @staticmethod
    def get_instructions(t: dict[str, str]) -> str:
        return f"double: {t['text']}"

    @staticmethod
    def score(t: dict[str, str], submission: str) -> float:
        doubled = "".join(letter + letter for letter in t["text"])
        return float(submission.strip() == doubled)
