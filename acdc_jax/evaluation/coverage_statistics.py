"""What several models reach together on a benchmark: Coverage, votes, and who adds what.

Everything is computed per item first, so that one set of bootstrap resamples of the items gives all
intervals, those of differences included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acdc_jax.evaluation.bootstrap import interval

_SOLVED = 0.5  # score from which an item counts as solved

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Verdicts:
    """What each model answered to each item of a benchmark, and what that was worth.

    Attributes:
        models: names, [M].
        items: ids, [I].
        scores: float64 [M, I], in [0, 1].
        answers: int64 [M, I]; equal numbers are equal answers to an item, -1 is none. None where
            the benchmark has no answers to vote on.
    """

    models: tuple[str, ...]
    items: tuple[str, ...]
    scores: Floats
    answers: Integers | None

    def rows(self, models: Sequence[str]) -> list[int]:
        """Where models are, in their order."""
        places = {model: m for m, model in enumerate(self.models)}
        return [places[model] for model in models]


def solved(scores: Floats) -> Bools:
    """Which scores count as solved."""
    return np.greater_equal(scores, _SOLVED)


def covered(solved: Bools) -> Bools:
    """[I]: items that at least one of the models solves; `solved` is [N, I]."""
    return np.asarray(solved.any(axis=0))


def covered_by_n(solved: Bools) -> Bools:
    """[N, I]: items that the first 1, 2, …, N models cover."""
    return np.asarray(np.logical_or.accumulate(solved, axis=0), np.bool_)


def unique(solved: Bools) -> Bools:
    """[N, I]: items that this model solves and no other of them."""
    return np.asarray(solved & (solved.sum(axis=0) == 1))


def plurality(solved: Bools, answers: Integers) -> Bools:
    """[I]: items whose most frequent answer is right.

    No answer is no vote. Of answers that are equally frequent, the one whose first voter comes
    first among the models wins. Where nobody votes, the first model's score counts.

    Args:
        solved: [N, I].
        answers: [N, I], as in `Verdicts`.
    """
    votes = answers >= 0
    # How many give the same answer as this one.
    support = ((answers[:, None] == answers[None]) & votes[None]).sum(axis=1)
    winner = np.where(votes, support, 0).argmax(axis=0)  # the first of equals
    return np.asarray(solved[winner, np.arange(solved.shape[1])])


def score_collective(
    verdicts: Verdicts, draws: Sequence[Sequence[str]], weights: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """All figures of one collective, JSON-ready; shares of the benchmark's items.

    Args:
        verdicts: of all models.
        draws: the collective's models, by rank; or several random collectives of the same size,
            over which every figure is a mean.
        weights: from `interval.resamples`.

    Returns:
        `n`, `members` (a list for each draw), and with intervals: `coverage`, `coverage_by_n`
        (lists), `plurality` (None without answers), `mean_accuracy`, `best_accuracy` (of the model
        that is best on this very benchmark), and for a single draw `accuracy` and `unique`, by
        model.
    """
    per_draw = [solved(verdicts.scores[verdicts.rows(models)]) for models in draws]
    cover = np.asarray([covered_by_n(part) for part in per_draw]).mean(axis=0)
    own = np.asarray([part.mean(axis=0) for part in per_draw]).mean(axis=0)
    best = np.asarray([part[part.mean(axis=1).argmax()] for part in per_draw]).mean(axis=0)
    found: dict[str, Any] = {"n": len(draws[0]), "members": [list(models) for models in draws]}
    found |= _figure("coverage", cover[-1], weights)
    found["coverage_by_n"] = [float(values.mean()) for values in cover]
    found["coverage_by_n_interval"] = [interval(values, weights) for values in cover]
    if verdicts.answers is None:
        found["plurality"] = None
    else:
        votes = [
            plurality(part, verdicts.answers[verdicts.rows(models)])
            for part, models in zip(per_draw, draws, strict=True)
        ]
        found |= _figure("plurality", np.asarray(np.mean(votes, axis=0)), weights)
    found |= _figure("mean_accuracy", own, weights) | _figure("best_accuracy", best, weights)
    if len(draws) == 1:
        alone = unique(per_draw[0])
        for name, rows in (("accuracy", per_draw[0]), ("unique", alone)):
            found[name] = {m: float(row.mean()) for m, row in zip(draws[0], rows, strict=True)}
            found[f"{name}_interval"] = {
                m: interval(row, weights) for m, row in zip(draws[0], rows, strict=True)
            }
    return found


def gain(
    verdicts: Verdicts,
    ours: Sequence[Sequence[str]],
    theirs: Sequence[Sequence[str]],
    weights: npt.NDArray[np.float32],
) -> dict[str, Any]:
    """Coverage of one collective minus another's, with the interval paired by item."""

    def cover(draws: Sequence[Sequence[str]]) -> Floats:
        rows = [covered(solved(verdicts.scores[verdicts.rows(models)])) for models in draws]
        return np.asarray(np.mean(rows, axis=0))

    return _figure("coverage_gain", cover(ours) - cover(theirs), weights)


def _figure(
    name: str, values: npt.NDArray[Any], weights: npt.NDArray[np.float32]
) -> dict[str, Any]:
    return {name: float(values.mean()), f"{name}_interval": interval(values, weights)}
