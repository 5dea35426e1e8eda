"""What the procedural scientist thinks of when it is asked for a task."""

from collections.abc import Iterator, Sequence

import numpy as np

from acdc_jax.quickstart.language import PAIR_LENGTHS, TASK_ALPHABETS, Spec, Split
from acdc_jax.tasks.task import Kind

_SINGLE_SHARE = 1 / 3  # of unrelated ideas; the others are pairs
_MAX_LENGTH = 7
_WALKS = 64  # longer compositions that are drawn at once

Ideas = Iterator[Sequence[Spec]]


def ideas(
    kind: Kind, origin: Spec | None, split: Split, max_steps: int, rng: np.random.Generator
) -> Ideas:
    """Lists of specs, most wanted first; within a list all are equally welcome.

    They end with compositions of three operations, then four: some may be held out or used.

    Args:
        kind: what is wanted; without an `origin`, only something unrelated can be had.
        origin: what the parent asks.
        split: which specs there are.
        max_steps: operations that a harder spec may compose.
        rng: decides between equally wanted lists.
    """
    if origin is not None:
        if kind == "harder":
            yield from _harder(origin, split, max_steps, rng)
        elif kind == "easier":
            yield from _easier(origin, split, rng)
        elif kind in ("inspired", "related"):
            yield _sharing(origin, split.pool_pair_specs)
            yield _sharing(origin, split.pool_singles)
    yield from _unrelated(split, rng)


def _harder(origin: Spec, split: Split, max_steps: int, rng: np.random.Generator) -> Ideas:
    """One operation → a pair with it, or longer; a composition → longer, or one step more."""
    if len(origin.words) == 1:
        composed, longer_first = _sharing(origin, split.pool_pair_specs), rng.random() < 0.2
    else:
        grows = len(origin.words) < max_steps
        composed, longer_first = _extended(origin, split) if grows else [], rng.random() < 0.5
    if not longer_first:
        yield composed
    yield from _longer(origin, split)
    yield composed
    yield _sharing(origin, split.pool_pair_specs)


def _easier(origin: Spec, split: Split, rng: np.random.Generator) -> Ideas:
    """A composition → one step less, or shorter; one operation → shorter, or another one."""
    if len(origin.words) == 1:
        yield from _shorter(origin, split)
        yield [spec for spec in split.pool_singles if spec.length <= origin.length]
        return
    if len(origin.words) > 2:
        simpler = [_with(origin, words) for words in (origin.words[1:], origin.words[:-1])]
    else:
        simpler = _sharing(origin, split.pool_singles)
    no_longer = [spec for spec in simpler if spec.length <= origin.length]
    if rng.random() < 0.5:
        yield no_longer
    yield from _shorter(origin, split)
    yield no_longer
    yield simpler


def _unrelated(split: Split, rng: np.random.Generator) -> Ideas:
    singles_first = rng.random() < _SINGLE_SHARE
    if singles_first:
        yield split.pool_singles
    yield split.pool_pair_specs
    yield split.pool_singles
    for steps in (3, 4):
        yield [_walk(split, steps, rng) for _ in range(_WALKS)]


def _walk(split: Split, steps: int, rng: np.random.Generator) -> Spec:
    """A composition in which each two neighbours are a pair of the pool."""
    while True:
        words = split.pool_pairs[rng.integers(len(split.pool_pairs))]
        while len(words) < steps and (following := _following(words, split)):
            words = (*words, following[rng.integers(len(following))])
        if len(words) == steps:
            # Long enough for no step to be left without a symbol.
            length = int(rng.integers(steps, max(PAIR_LENGTHS) + 1))
            return Spec(words, length, TASK_ALPHABETS[rng.integers(len(TASK_ALPHABETS))])


def _extended(origin: Spec, split: Split) -> list[Spec]:
    length = max(origin.length, len(origin.words) + 1)
    return [
        Spec((*origin.words, word), length, origin.alphabet)
        for word in _following(origin.words, split)
    ]


def _following(words: Sequence[str], split: Split) -> list[str]:
    """Words that may come next, none of them twice."""
    return [
        second for first, second in split.pool_pairs if first == words[-1] and second not in words
    ]


def _longer(origin: Spec, split: Split) -> Ideas:
    """The next length first."""
    lengths = range(origin.length + 1, _MAX_LENGTH + 1)
    yield from ([spec] for spec in _resized(origin, split, lengths))


def _shorter(origin: Spec, split: Split) -> Ideas:
    lengths = range(origin.length - 1, max(2, len(origin.words)) - 1, -1)
    yield from ([spec] for spec in _resized(origin, split, lengths))


def _resized(origin: Spec, split: Split, lengths: Sequence[int]) -> list[Spec]:
    specs = [Spec(origin.words, length, origin.alphabet) for length in lengths]
    if len(origin.words) > 1:
        return specs
    return [spec for spec in specs if spec in split.pool_singles]


def _sharing(origin: Spec, specs: Sequence[Spec]) -> list[Spec]:
    return [spec for spec in specs if set(spec.words) & set(origin.words)]


def _with(origin: Spec, words: tuple[str, ...]) -> Spec:
    return Spec(words, origin.length, origin.alphabet)
