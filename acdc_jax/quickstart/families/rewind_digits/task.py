"""Move the last of five digits to the front."""

import random
from string import digits


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict[str, str]]:
        rng = random.Random(102)
        return {str(i): {"text": "".join(rng.choices(digits, k=5))} for i in range(4)}

    @staticmethod
    def get_instructions(t: dict[str, str]) -> str:
        return f"rewind: {t['text']}"

    @staticmethod
    def score(t: dict[str, str], submission: str) -> float:
        text = t["text"]
        return float(submission.strip() == text[-1] + text[:-1])
