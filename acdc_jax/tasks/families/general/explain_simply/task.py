"""Explain a phenomenon to a child, correctly, without certain words."""

QUESTIONS = {
    "1": {"why": "the sky is blue by day", "banned": ["wavelength", "scatter"]},
    "2": {"why": "ice floats on water", "banned": ["density", "dense", "molecule"]},
}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return QUESTIONS

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f"Explain to a ten-year-old why {t['why']}, in 25 to 80 words and without the words "
            f"{', '.join(t['banned'])}. Answer on one line."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        text = submission.lower()
        if not 25 <= len(text.split()) <= 80 or any(word in text for word in t["banned"]):
            return 0.0
        return eval_with_llm_judge(
            TaskFamily.get_instructions(t),
            submission,
            "Physically correct; gives the actual cause and not only a comparison; a "
            "ten-year-old would know every word.",
        )
