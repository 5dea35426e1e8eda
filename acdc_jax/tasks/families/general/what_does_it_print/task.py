"""Say what a short Python program prints."""

PROGRAMS = {
    "1": (
        "items = [3, 1, 2]\nother = items\nother.sort()\nitems = items + [0]\nprint(items, other)",
        "[1, 2, 3, 0] [1, 2, 3]",
    ),
    "2": (
        "def f(n, seen=[]):\n    seen.append(n)\n    return len(seen)\n"
        "f(1)\nf(2)\nprint(f(3, []), f(4))",
        "1 3",
    ),
    "3": (
        "total = 0\nfor i in range(10):\n    if i % 4 == 1:\n        continue\n"
        "    if i > 7:\n        break\n    total += i\nprint(total)",
        "22",
    ),
}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return {key: {"program": code, "output": out} for key, (code, out) in PROGRAMS.items()}

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f"What does this Python program print?\n\n{t['program']}\n\n"
            "Answer with the output and nothing else."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        return float(submission.strip().strip("`").split() == t["output"].split())
