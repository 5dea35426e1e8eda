"""Find the one seating order that satisfies all clues."""

from itertools import permutations

# (kind, one, other): "left" somewhere to the left, "beside", "apart" not beside, "seat" number
CLUES = {
    "1": [
        ["beside", "Di", "Cy"],
        ["left", "Al", "Cy"],
        ["beside", "Al", "Di"],
        ["beside", "Bo", "Cy"],
    ],
    "2": [
        ["apart", "Bo", "Cy"],
        ["left", "Di", "Cy"],
        ["beside", "Al", "Cy"],
        ["beside", "Di", "Al"],
    ],
    "3": [
        ["apart", "Di", "Bo"],
        ["beside", "Cy", "Al"],
        ["beside", "Bo", "Al"],
        ["left", "Di", "Al"],
    ],
    "4": [["seat", "Di", 4], ["beside", "Al", "Cy"], ["left", "Bo", "Cy"], ["left", "Cy", "Al"]],
}
NAMES = ("Al", "Bo", "Cy", "Di")


def holds(clue: list, order: tuple) -> bool:
    kind, one, other = clue
    if kind == "seat":
        return order.index(one) + 1 == other
    distance = order.index(other) - order.index(one)
    return {"left": distance > 0, "beside": abs(distance) == 1, "apart": abs(distance) > 1}[kind]


def say(clue: list) -> str:
    kind, one, other = clue
    return {
        "left": f"{one} sits somewhere to the left of {other}.",
        "beside": f"{one} sits next to {other}.",
        "apart": f"{one} does not sit next to {other}.",
        "seat": f"{one} sits in seat {other}.",
    }[kind]


def orders(clues: list) -> list[list[str]]:
    return [list(o) for o in permutations(NAMES) if all(holds(clue, o) for clue in clues)]


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        # Each has one solution.
        return {key: {"clues": clues, "orders": orders(clues)} for key, clues in CLUES.items()}

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            "Al, Bo, Cy and Di sit in a row of seats numbered 1 to 4 from left to right. "
            f"{' '.join(map(say, t['clues']))} Who sits where? Answer with the four names in the "
            "order of the seats, separated by spaces."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        said = submission.replace(",", " ").strip().rstrip(".").split()
        return float([name.capitalize() for name in said] == t["orders"][0])
