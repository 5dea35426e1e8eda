"""Rank the specs that fit a task request: what the procedural scientist chooses from."""

from collections.abc import Iterator, Sequence

import numpy as np

from acdc_jax.quickstart.language import PAIR_LENGTHS, TASK_ALPHABETS, Spec, Split
from acdc_jax.tasks.task import Kind

_SINGLE_SHARE = 1 / 3  # of unrelated ideas; the others are pairs of operations
_MAX_LENGTH = 7
_WALKS = 64  # longer compositions per list

Ideas = Iterator[Sequence[Spec]]


def ideas(
    kind: Kind, origin: Spec | None, split: Split, max_steps: int, rng: np.random.Generator
) -> Ideas:
    """Yield lists of specs, the best fitting list first; the specs of a list fit equally well.

    The last lists are compositions of three and of four operations. Specs may be held out or used.

    Args:
        kind: The kind of task. Without an `origin` all specs are unrelated ones.
        origin: The spec of the parent task, if it has one.
        split: The specs of the run.
        max_steps: Operations that a harder spec may compose.
        rng: Orders lists that fit equally well.
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
    """Turn one operation into a pair or lengthen it; lengthen a composition or add a step."""
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
    """Drop a step of a composition or shorten it; shorten one operation or change it."""
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
    """Draw a composition in which any two neighbours are a pair of the pool."""
    while True:
        words = split.pool_pairs[rng.integers(len(split.pool_pairs))]
        while len(words) < steps and (following := _following(words, split)):
            words = (*words, following[rng.integers(len(following))])
        if len(words) == steps:
            # Each step may drop a symbol: with so many, none is left without one.
            length = int(rng.integers(steps, max(PAIR_LENGTHS) + 1))
            return Spec(words, length, TASK_ALPHABETS[rng.integers(len(TASK_ALPHABETS))])


def _extended(origin: Spec, split: Split) -> list[Spec]:
    length = max(origin.length, len(origin.words) + 1)
    return [
        Spec((*origin.words, word), length, origin.alphabet)
        for word in _following(origin.words, split)
    ]


def _following(words: Sequence[str], split: Split) -> list[str]:
    """Return the words that may follow; no word occurs twice in a spec."""
    return [
        second for first, second in split.pool_pairs if first == words[-1] and second not in words
    ]


def _longer(origin: Spec, split: Split) -> Ideas:
    """Yield longer specs, the next length first."""
    lengths = range(origin.length + 1, _MAX_LENGTH + 1)
    yield from ([spec] for spec in _resized(origin, split, lengths))


def _shorter(origin: Spec, split: Split) -> Ideas:
    """Yield shorter specs, the next length first."""
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
