"""Questions with one right answer."""

from fractions import Fraction


def one_answer(submission: str, right: str) -> bool:
    """Return whether an answer is the right one, or the same number."""
    ours, right = plain(submission), plain(right)
    value = number(right)
    return ours == right or (value is not None and number(ours) == value)


def plain(text: str) -> str:
    """Return text without differences of case, spacing, and signs around it."""
    return " ".join(text.split()).strip(" .,;:!'\"`$*").casefold()


def number(text: str) -> Fraction | None:
    """Return the value of a number or fraction, such as 1,000 or 3/4."""
    text = text.replace(",", "")
    try:
        return Fraction(text) if len(text) < 40 and "e" not in text else None
    except (ValueError, ZeroDivisionError):
        return None
