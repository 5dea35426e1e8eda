"""Find the last two digits of a large power."""

POWERS = {"1": (7, 222), "2": (3, 1003), "3": (13, 57), "4": (99, 412)}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return {key: {"base": base, "exponent": e} for key, (base, e) in POWERS.items()}

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f"What are the last two digits of {t['base']}^{t['exponent']}? "
            "Answer with two digits, such as 05."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        right = f"{pow(t['base'], t['exponent'], 100):02d}"
        return float(submission.strip().rstrip(".") == right)
