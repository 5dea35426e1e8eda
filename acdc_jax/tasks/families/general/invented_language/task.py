"""Work out the rules of an invented language from translations, and translate a new sentence."""

LANGUAGES = {
    "1": {
        "pairs": [
            ["tolu mika", "the dog sleeps"],
            ["tolum mika", "the dogs sleep"],
            ["resa mikat", "the girl slept"],
            ["resa pon", "the girl sings"],
        ],
        "question": "the girls sang",
        "answer": "resam pont",
    },
    "2": {
        "pairs": [
            ["kev na ori", "I see a house"],
            ["kev na ta ori", "I see a big house"],
            ["kev lu sim", "you see a tree"],
            ["fel lu ta sim", "you climb a big tree"],
        ],
        "question": "I climb a big house",
        "answer": "fel na ta ori",
    },
    "3": {
        "pairs": [
            ["bado-ri", "my boat"],
            ["bado-ne", "your boat"],
            ["kula-ri", "my net"],
            ["o-kula-ri", "not my net"],
            ["bado bado-ri", "my boats"],
        ],
        "question": "not your nets",
        "answer": "o-kula kula-ne",
        "also": "kula o-kula-ne",
    },
}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return LANGUAGES

    @staticmethod
    def get_instructions(t: dict) -> str:
        listed = "\n".join(f"{foreign} = {english}" for foreign, english in t["pairs"])
        return (
            f"Sentences in an invented language, with their translations:\n{listed}\n"
            f'How do you say "{t["question"]}" in this language? Answer with the sentence only.'
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        said = " ".join(submission.lower().strip().strip('."').split())
        return float(said in (t["answer"], t.get("also")))
