"""Add a number below 100 and a digit."""

import random


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict[str, int]]:
        rng = random.Random(108)
        return {str(i): {"left": rng.randrange(100), "right": rng.randrange(10)} for i in range(4)}

    @staticmethod
    def get_instructions(t: dict[str, int]) -> str:
        return f"total: {t['left']}+{t['right']}"

    @staticmethod
    def score(t: dict[str, int], submission: str) -> float:
        return float(submission.strip() == str(t["left"] + t["right"]))
