"""Name the chemical element with a given atomic number."""

ELEMENTS = {
    "1": (74, ("tungsten", "wolfram")),
    "2": (51, ("antimony",)),
    "3": (80, ("mercury",)),
    "4": (63, ("europium",)),
}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return {key: {"number": n, "names": list(names)} for key, (n, names) in ELEMENTS.items()}

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f"Which chemical element has the atomic number {t['number']}? "
            "Answer with its English name."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        return float(submission.strip().rstrip(".").lower() in t["names"])
