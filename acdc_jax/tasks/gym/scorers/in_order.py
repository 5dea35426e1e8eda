"""Several short questions, all of whose answers must be right."""


def in_order(submission: str, answers: list[str]) -> bool:
    """Return whether a line has the answers in order, with commas between them."""
    return [part.strip(" .'\"`*").casefold() for part in submission.split(",")] == [
        answer.casefold() for answer in answers
    ]
