"""What the words of the skill language do to a text, and how texts are drawn.

The procedural scientist copies these functions into the task families that it writes, and their
docstrings into the descriptions. So each function stands alone, or names its helper in
`language.OPERATIONS`; and a changed docstring changes which tasks the novelty filter admits, and
with them the results of a run.
"""

import random


def reverse(text: str) -> str:
    """The symbols in the opposite order."""
    return text[::-1]


def rotate_left(text: str) -> str:
    """The first symbol moved to the end."""
    return text[1:] + text[:1]


def rotate_right(text: str) -> str:
    """The last symbol moved to the front."""
    return text[-1:] + text[:-1]


def swap_neighbours(text: str) -> str:
    """Symbols 1 and 2 exchanged, 3 and 4, and so on."""
    return "".join(text[i : i + 2][::-1] for i in range(0, len(text), 2))


def drop_first(text: str) -> str:
    """Everything but the first symbol."""
    return text[1:]


def drop_last(text: str) -> str:
    """Everything but the last symbol."""
    return text[:-1]


def double_each(text: str) -> str:
    """Every symbol twice."""
    return "".join(symbol * 2 for symbol in text)


def upper_case(text: str) -> str:
    """Capitals for small letters."""
    return text.upper()


def move(text: str, by: int) -> str:
    """Each letter and digit replaced by the one `by` places on, around the end."""
    moved = ""
    for symbol in text:
        if symbol.isdigit():
            symbol = str((int(symbol) + by) % 10)
        elif symbol.isalpha():
            first = ord("a" if symbol.islower() else "A")
            symbol = chr(first + (ord(symbol) - first + by) % 26)
        moved += symbol
    return moved


def next_symbol(text: str) -> str:
    """The next symbol of the alphabet for each: a → b, z → a, 9 → 0."""
    return move(text, 1)


def previous_symbol(text: str) -> str:
    """The previous symbol of the alphabet for each: b → a, a → z, 0 → 9."""
    return move(text, -1)


def second_next_symbol(text: str) -> str:
    """The next symbol but one for each: a → c, y → a, 9 → 1."""
    return move(text, 2)


def opposite_symbol(text: str) -> str:
    """Each symbol as far from the other end of its alphabet: a → z, b → y, 0 → 9."""
    opposite = ""
    for symbol in text:
        if symbol.isdigit():
            symbol = str(9 - int(symbol))
        elif symbol.isalpha():
            ends = "az" if symbol.islower() else "AZ"
            symbol = chr(ord(ends[0]) + ord(ends[1]) - ord(symbol))
        opposite += symbol
    return opposite


def hide_odd(text: str) -> str:
    """A star for each vowel and each odd digit."""
    return "".join("*" if symbol in "aeiouAEIOU13579" else symbol for symbol in text)


def ascending(text: str) -> str:
    """The symbols in ascending order."""
    return "".join(sorted(text))


def descending(text: str) -> str:
    """The symbols in descending order."""
    return "".join(sorted(text, reverse=True))


def largest(text: str) -> str:
    """The symbol that sorts last."""
    return max(text)


def smallest(text: str) -> str:
    """The symbol that sorts first."""
    return min(text)


def first_symbol(text: str) -> str:
    """The first symbol alone."""
    return text[:1]


def last_symbol(text: str) -> str:
    """The last symbol alone."""
    return text[-1:]


def count_symbols(text: str) -> str:
    """The number of symbols."""
    return str(len(text))


def add(text: str) -> str:
    """The sum of the two numbers."""
    left, right = text.split("+")
    return str(int(left) + int(right))


def subtract(text: str) -> str:
    """The difference of the two numbers."""
    left, right = text.split("-")
    return str(int(left) - int(right))


def copy(text: str) -> str:
    """The text itself."""
    return text


def draw_text(rng: random.Random, symbols: str, length: int) -> str:
    """A text of `length` symbols, each drawn uniformly."""
    return "".join(rng.choices(symbols, k=length))


def draw_sum(rng: random.Random, below: int) -> str:
    """A sum of a number in [0, below) and a digit."""
    return f"{rng.randrange(below)}+{rng.randrange(10)}"


def draw_difference(rng: random.Random, below: int) -> str:
    """A difference of a number in [0, below) and a digit, the larger first."""
    left, right = rng.randrange(below), rng.randrange(10)
    return f"{max(left, right)}-{min(left, right)}"
