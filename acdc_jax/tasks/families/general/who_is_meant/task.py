"""Say what a pronoun refers to, where only the sense of the sentence tells."""

SENTENCES = {
    "1": ["The ladder did not fit into the van because it was too long.", "it", "ladder"],
    "2": ["The ladder did not fit into the van because it was too short.", "it", "van"],
    "3": ["Nora thanked Ines because she had watered the plants for her.", "she", "ines"],
    "4": ["The bakers lent the cooks some flour after they had run out.", "they", "cooks"],
}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return {key: {"text": s, "word": w, "meant": m} for key, (s, w, m) in SENTENCES.items()}

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f'{t["text"]}\nWhat or whom does the word "{t["word"]}" refer to? Answer with one '
            "word of the sentence."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        said = submission.lower().strip().strip('."').removeprefix("the ")
        return float(said == t["meant"])
