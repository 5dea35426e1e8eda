"""Invent a use for a worn-out thing that is new, possible and useful."""

THINGS = {
    "1": {"thing": "bicycle tyre", "banned": ["swing", "belt", "planter"]},
    "2": {"thing": "umbrella", "banned": ["kite", "bag", "lampshade"]},
}


class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        return THINGS

    @staticmethod
    def get_instructions(t: dict) -> str:
        return (
            f"Describe in one or two sentences, with 15 to 50 words, a use for a worn-out "
            f"{t['thing']} that few people would think of. It must be possible with household "
            f"tools, and must be no {', no '.join(t['banned'])}. Answer on one line."
        )

    @staticmethod
    def score(t: dict, submission: str) -> float:
        text = submission.lower()
        if not 15 <= len(text.split()) <= 50 or any(word in text for word in t["banned"]):
            return 0.0
        return eval_with_llm_judge(
            TaskFamily.get_instructions(t),
            submission,
            "Describes one definite use of the thing; it would work with household tools; it is "
            "useful to somebody; most people asked would not name it among their first ideas.",
        )
