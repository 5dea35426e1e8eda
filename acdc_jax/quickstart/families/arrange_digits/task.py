"""Write six digits in ascending order."""

import random
from string import digits


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict[str, str]]:
        rng = random.Random(106)
        return {str(i): {"text": "".join(rng.choices(digits, k=6))} for i in range(4)}

    @staticmethod
    def get_instructions(t: dict[str, str]) -> str:
        return f"arrange: {t['text']}"

    @staticmethod
    def score(t: dict[str, str], submission: str) -> float:
        return float(submission.strip() == "".join(sorted(t["text"])))
