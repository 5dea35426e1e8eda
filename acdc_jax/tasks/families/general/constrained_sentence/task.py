"""Write one sentence that obeys several formal rules at once."""

RULES = {
    "1": {"words": 9, "about": "rain", "first": "T", "without": "o"},
    "2": {"words": 7, "about": "bread", "first": "S", "without": "i"},
    "3": {"words": 11, "about": "night", "first": "W", "without": "u"},
}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return RULES

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f"Write one English sentence of exactly {t['words']} words that contains the word "
            f'"{t["about"]}", begins with the letter {t["first"]}, ends with a full stop, '
            f'repeats no word, and nowhere uses the letter "{t["without"]}". Answer with the '
            "sentence only."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        text = submission.strip()
        words = [word.strip(",;").lower() for word in text[:-1].split()]
        return float(
            text.endswith(".")
            and text.startswith(t["first"])
            and len(words) == t["words"] == len(set(words))
            and t["about"] in words
            and t["without"] not in text.lower()
            and all(word.replace("'", "").replace("-", "").isalpha() for word in words)
        )
