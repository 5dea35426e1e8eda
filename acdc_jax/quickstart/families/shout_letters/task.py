"""Write four letters as capitals."""

import random
from string import ascii_lowercase


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict[str, str]]:
        rng = random.Random(104)
        return {str(i): {"text": "".join(rng.choices(ascii_lowercase, k=4))} for i in range(4)}

    @staticmethod
    def get_instructions(t: dict[str, str]) -> str:
        return f"shout: {t['text']}"

    @staticmethod
    def score(t: dict[str, str], submission: str) -> float:
        return float(submission.strip() == t["text"].upper())
