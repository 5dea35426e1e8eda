"""Write a four-line poem on a theme, with given words and without naming the theme."""

THEMES = {
    "1": {"theme": "autumn", "words": ["gate", "smoke"]},
    "2": {"theme": "the sea", "words": ["window", "salt"]},
}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return THEMES

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f"Write a poem of exactly four lines about {t['theme']}. It uses the words "
            f"{' and '.join(t['words'])}, does not contain the word {t['theme'].split()[-1]}, and "
            "makes its theme felt. Put it behind a line that says only `Answer:`."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        lines = [line for line in submission.splitlines() if line.strip()]
        text = submission.lower()
        if len(lines) != 4 or any(len(line.split()) > 20 for line in lines):
            return 0.0
        if t["theme"].split()[-1] in text or not all(word in text for word in t["words"]):
            return 0.0
        return eval_with_llm_judge(
            TaskFamily.get_instructions(t),
            submission,
            "Coherent English; the theme is evident without being named; at least one image that "
            "is concrete and not a stock phrase.",
        )
