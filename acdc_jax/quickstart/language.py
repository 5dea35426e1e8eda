"""The skill language: the answer to `mirror then shout: abcd` is `DCBA`.

Each operation has an own word, which the base learns, and a new word with the same meaning, which
only some experts learn. The tasks of a run use new words, mostly in pairs. No single expert knows
both words of a pair, so that only a merged model can solve it. The pairs are split into three parts
that do not overlap: one for training (fixed), one for the pool and one held out (by PRNG seed).
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

from acdc_jax.quickstart import operations as ops
from acdc_jax.tasks.trial_answers import GUESSES

Words = tuple[str, ...]
Draw = Callable[[random.Random, int], str]  # (rng, below) → a sum or difference
_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One skill.

    Attributes:
        word: Own word, which the base knows.
        new_word: Word that experts learn; "" for `copy`, which has none.
        group: What it changes: "position", "symbol" or "order" (also aggregates and arithmetic).
        apply: Text → answer.
        helpers: Functions that `apply` calls.
        draw: Draws an operand of arithmetic; None for operations that take any text.
    """

    word: str
    new_word: str
    group: str
    apply: Callable[[str], str]
    helpers: tuple[Callable[..., str], ...] = ()
    draw: Draw | None = None


OPERATIONS = (
    Operation("reverse", "mirror", "position", ops.reverse),
    Operation("rotl", "cycle", "position", ops.rotate_left),
    Operation("rotr", "rewind", "position", ops.rotate_right),
    Operation("swap", "trade", "position", ops.swap_neighbours),
    Operation("tail", "behead", "position", ops.drop_first),
    Operation("init", "curtail", "position", ops.drop_last),
    Operation("dup", "double", "position", ops.double_each),
    Operation("upper", "shout", "symbol", ops.upper_case),
    Operation("shift", "advance", "symbol", ops.next_symbol, (ops.move,)),
    Operation("back", "retreat", "symbol", ops.previous_symbol, (ops.move,)),
    Operation("skip", "leap", "symbol", ops.second_next_symbol, (ops.move,)),
    Operation("atbash", "invert", "symbol", ops.opposite_symbol),
    Operation("mask", "censor", "symbol", ops.hide_odd),
    Operation("sort", "arrange", "order", ops.ascending),
    Operation("down", "descend", "order", ops.descending),
    Operation("max", "highest", "order", ops.largest),
    Operation("min", "lowest", "order", ops.smallest),
    Operation("first", "head", "order", ops.first_symbol),
    Operation("last", "final", "order", ops.last_symbol),
    Operation("len", "count", "order", ops.count_symbols),
    Operation("add", "total", "order", ops.add, draw=ops.draw_sum),
    Operation("sub", "deduct", "order", ops.subtract, draw=ops.draw_difference),
)
COPY = Operation("copy", "", "position", ops.copy)

BY_WORD: Mapping[str, Operation] = {o.word: o for o in (*OPERATIONS, COPY)} | {
    o.new_word: o for o in OPERATIONS
}

EXPERTS: tuple[Words, ...] = tuple(
    tuple(words.split())
    for words in (
        "reverse swap rotl",
        "rotl rotr init",
        "tail init dup",
        "upper shift mask",
        "back skip atbash shift",
        "sort down max",
        "max min first last",
        "len add sub first",
    )
)
"""Own words of the operations whose new words each expert learns; some are in two experts."""

ALPHABETS: Mapping[str, str] = {
    "letters": "abcdefghijklmnopqrstuvwxyz",
    "digits": "0123456789",
    "few letters": "abcdefgh",
}
TASK_ALPHABETS = ("letters", "digits")
"""The alphabets of tasks; training also uses the third, in which letters often repeat."""

_MAX_LENGTH = 7
_HELD_OUT_SINGLES, _HELD_OUT_PAIRS = 60, 140
PAIR_LENGTHS = range(2, 7)
_SAMPLES = 40  # answers by which a spec is found to be guessable


@dataclasses.dataclass(frozen=True)
class Spec:
    """The content of a task family: operations in order, on texts of one length and alphabet.

    Arithmetic ignores the alphabet; its first operand has up to two digits from length 4 on.
    """

    words: Words
    length: int
    alphabet: str

    def instruction(self, text: str) -> str:
        """Return the instructions, e.g. `mirror then shout: abcd`."""
        return f"{' then '.join(self.words)}: {text}"


SEED_SPECS = (
    Spec(("mirror",), 4, "letters"),
    Spec(("rewind",), 5, "digits"),
    Spec(("double",), 3, "letters"),
    Spec(("shout",), 4, "letters"),
    Spec(("invert",), 3, "letters"),
    Spec(("arrange",), 6, "digits"),
    Spec(("final",), 5, "letters"),
    Spec(("total",), 4, "digits"),
)
"""The specs of the hand-written seed families, one per expert; they are never held out."""


@dataclasses.dataclass(frozen=True)
class Split:
    """The specs that a run may use, and those that it is measured on, all in new words.

    Attributes:
        pool_singles: Specs of one operation for the pool.
        pool_pairs: Word pairs for the pool, of any length and alphabet. No expert knows both words.
        pool_pair_specs: Those pairs with every length and alphabet.
        held_out: Specs that a run is measured on: 60 of one operation, 140 pairs.
        held_out_pairs: Word pairs that the pool never uses, whatever the length and alphabet.
    """

    pool_singles: tuple[Spec, ...]
    pool_pairs: tuple[Words, ...]
    pool_pair_specs: tuple[Spec, ...]
    held_out: tuple[Spec, ...]
    held_out_pairs: frozenset[Words]

    def is_held_out(self, spec: Spec) -> bool:
        """Return whether the spec, or a pair of neighbouring words in it, is held out."""
        if len(spec.words) == 1:
            return spec in self.held_out
        return any(pair in self.held_out_pairs for pair in pairwise(spec.words))


def answer(words: Words, text: str) -> str:
    """Apply operations, named by own or new words, in order."""
    for word in words:
        text = BY_WORD[word].apply(text)
    return text


def draw_text(words: Words, length: int, alphabet: str, rng: random.Random) -> str:
    """Draw a text that the first word can be applied to."""
    draw = BY_WORD[words[0]].draw
    if draw is not None:
        return draw(rng, operand_limit(length))
    return ops.draw_text(rng, ALPHABETS[alphabet], length)


def operand_limit(length: int) -> int:
    """Return the exclusive upper bound of the first operand of arithmetic of this length."""
    return 100 if length >= 4 else 10


def instances(spec: Spec, n: int, seed: int) -> list[str]:
    """Return the texts of a family's instances; its code draws the same from the same seed."""
    rng = random.Random(seed)
    return [draw_text(spec.words, spec.length, spec.alphabet, rng) for _ in range(n)]


@functools.cache
def is_guessable(spec: Spec) -> bool:
    """Return whether few pairs of answers are different and hard to guess, as digits are not."""
    answers = [answer(spec.words, text) for text in instances(spec, _SAMPLES, 0)]
    pairs = zip(answers[::2], answers[1::2], strict=True)
    good = sum(one != other and not {one, other} & set(GUESSES) for one, other in pairs)
    return good < _SAMPLES / 8


def is_plain(text: str) -> bool:
    """Return whether the tokenizer splits a text into characters; a word would be one token."""
    return text not in BY_WORD


def split(prng_seed: int) -> Split:
    """Return the split of a PRNG seed into specs for the pool and held-out specs."""
    rng = np.random.default_rng(1000 + prng_seed)
    singles = _shuffled(rng, [spec for spec in _single_specs() if spec not in SEED_SPECS])
    pairs = _shuffled(rng, _CROSS_EXPERT_PAIRS)
    half = len(pairs) // 2
    pool_pairs, held_out_pairs = (
        tuple(tuple(BY_WORD[word].new_word for word in pair) for pair in part)
        for part in (pairs[:half], pairs[half:])
    )
    return Split(
        pool_singles=SEED_SPECS + tuple(singles[_HELD_OUT_SINGLES:]),
        pool_pairs=pool_pairs,
        pool_pair_specs=tuple(
            Spec(words, length, alphabet)
            for words in pool_pairs
            for length in PAIR_LENGTHS
            for alphabet in TASK_ALPHABETS
        ),
        held_out=(
            *singles[:_HELD_OUT_SINGLES],
            *_pair_specs(rng, held_out_pairs, _HELD_OUT_PAIRS),
        ),
        held_out_pairs=frozenset(held_out_pairs),
    )


def _single_lengths(word: str) -> tuple[int, ...]:
    """Return the lengths of tasks of one operation; doubling is no longer than in training."""
    operation = BY_WORD[word]
    if operation.draw is not None:
        return (2, 4)
    return tuple(range(2, _MAX_LENGTH if operation.word == "dup" else _MAX_LENGTH + 1))


def _single_specs() -> Iterator[Spec]:
    for operation in OPERATIONS:
        alphabets = ("digits",) if operation.draw is not None else TASK_ALPHABETS
        for length in _single_lengths(operation.word):
            for alphabet in alphabets:
                yield Spec((operation.new_word,), length, alphabet)


def _pair_specs(rng: np.random.Generator, pairs: tuple[Words, ...], n: int) -> list[Spec]:
    """Draw distinct specs that take the pairs in turn."""
    specs: dict[Spec, None] = {}
    while len(specs) < n:
        words = pairs[len(specs) % len(pairs)]
        length = int(rng.choice(PAIR_LENGTHS))
        specs[Spec(words, length, TASK_ALPHABETS[rng.integers(2)])] = None
    return list(specs)


def _shuffled(rng: np.random.Generator, items: Sequence[_Item]) -> list[_Item]:
    return [items[i] for i in rng.permutation(len(items))]


def _composable_pairs() -> tuple[list[Words], list[Words]]:
    """Return ordered pairs of own words: those within a group, and those across groups.

    Doubling, counting and arithmetic are in no pair. An aggregate leaves one symbol, so that only
    symbol operations make sense after it.
    """
    composable = [o for o in OPERATIONS if o.word not in ("dup", "len", "add", "sub")]
    within: list[Words] = []
    across: list[Words] = []
    for first in composable:
        for second in composable:
            single_symbol = first.word in ("max", "min", "first", "last")
            if first is second or (single_symbol and second.group != "symbol"):
                continue
            pairs = within if first.group == second.group else across
            pairs.append((first.word, second.word))
    return within, across


def _train_pairs() -> tuple[tuple[Words, ...], list[Words]]:
    """Return a fixed third of the pairs across groups, for training, and all other pairs."""
    rng = np.random.default_rng(0)
    within, across = _composable_pairs()
    across = _shuffled(rng, across)
    third = len(across) // 3
    return tuple(across[:third]), _shuffled(rng, within) + across[third:]


TRAIN_PAIRS, _OTHER_PAIRS = _train_pairs()
"""Pairs of own words that base and experts are trained on. No task uses them."""

_CROSS_EXPERT_PAIRS = [
    pair for pair in _OTHER_PAIRS if not any(set(pair) <= set(expert) for expert in EXPERTS)
]
