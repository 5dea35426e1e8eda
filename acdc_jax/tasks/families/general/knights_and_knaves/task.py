"""Find out who tells the truth from what everybody says."""

from itertools import product

# speaker -> (who is spoken of, what they are said to be)
TALKS = {
    "1": {
        "Ada": ("Ben and Cyd", "knights"),
        "Ben": ("Cyd", "knave"),
        "Cyd": ("Ada", "knight"),
    },
    "2": {
        "Dan": ("Fay", "knave"),
        "Eve": ("Dan", "knave"),
        "Fay": ("Dan and Eve", "knaves"),
    },
    "3": {
        "Gus": ("Joe", "knave"),
        "Hal": ("Gus and Ida", "knaves"),
        "Ida": ("Hal and Joe", "knaves"),
        "Joe": ("Hal and Ida", "knaves"),
    },
    "4": {
        "Kim": ("Lea and Ned", "knaves"),
        "Lea": ("Kim", "knight"),
        "Max": ("Kim and Ned", "knights"),
        "Ned": ("Max", "knave"),
    },
}


def solutions(talk: dict) -> list[list[str]]:
    """The knights of every assignment that agrees with what is said."""
    names, found = sorted(talk), []
    for truth in product([True, False], repeat=len(names)):
        honest = dict(zip(names, truth, strict=True))
        if all(
            honest[name] == all(honest[w] == what.startswith("knight") for w in who.split(" and "))
            for name, (who, what) in talk.items()
        ):
            found.append([name for name in names if honest[name]])
    return found


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        # Each has one solution, with at least one knight.
        return {key: {"talk": talk, "knights": solutions(talk)} for key, talk in TALKS.items()}

    @staticmethod
    def get_instructions(t: dict) -> str:
        said = " ".join(
            f'{name} says: "{who} {"is a" if " and " not in who else "are both"} {what}."'
            for name, (who, what) in t["talk"].items()
        )
        return (
            "On an island knights always tell the truth and knaves always lie. "
            f"{said} Who is a knight? Answer with the names of all knights, in alphabetical order, "
            "separated by commas."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        said = [name.strip().lower() for name in submission.strip().rstrip(".").split(",")]
        return float(said == [name.lower() for name in t["knights"][0]])
