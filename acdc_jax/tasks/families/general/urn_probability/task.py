"""Compute the probability that all balls drawn from an urn are red."""

from fractions import Fraction
from math import comb

URNS = {"1": (5, 4, 2), "2": (6, 3, 3), "3": (7, 5, 4)}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return {key: {"red": r, "blue": b, "drawn": n} for key, (r, b, n) in URNS.items()}

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f"An urn holds {t['red']} red and {t['blue']} blue balls. {t['drawn']} are drawn at "
            "random, and none is put back. What is the probability that all of them are red? "
            "Answer with a fraction, such as 3/8."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        right = Fraction(comb(t["red"], t["drawn"]), comb(t["red"] + t["blue"], t["drawn"]))
        parts = submission.replace(" ", "").rstrip(".").split("/")
        if len(parts) != 2 or not all(part.isdecimal() and len(part) < 10 for part in parts):
            return 0.0
        return float(int(parts[1]) > 0 and Fraction(int(parts[0]), int(parts[1])) == right)
