"""What several models achieve together on a benchmark: Coverage, votes, and who adds what.

Every figure is computed per item first. One set of bootstrap resamples of the items then gives all
intervals, including those of differences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from acdc_jax.evaluation.bootstrap import Resamples, figure, interval

_SOLVED = 0.5  # score from which an item counts as solved
_ROUNDING = 1e-9  # of a share times a number of answers

Scores = Float64[np.ndarray, "models items"]
Solved = Bool[np.ndarray, "models items"]
Votes = Int64[np.ndarray, "models items"]


@dataclass(frozen=True)
class BenchmarkScores:
    """Scores and answers of each model on each item of a benchmark.

    Attributes:
        models: [models] names.
        items: [items] ids.
        scores: [models, items] float64 in [0, 1].
        votes: [models, items] int64. Equal numbers are equal answers to an item; -1 is no answer.
            None if the benchmark has no answers to vote on.
    """

    models: tuple[str, ...]
    items: tuple[str, ...]
    scores: Scores
    votes: Votes | None

    def rows(self, models: Sequence[str]) -> list[int]:
        """Return the row of each model."""
        rows = {model: m for m, model in enumerate(self.models)}
        return [rows[model] for model in models]

    def solved(self, models: Sequence[str]) -> Solved:
        """Return [models, items] bool: which items each of these models solves."""
        return np.asarray(self.scores[self.rows(models)] >= _SOLVED)


def covered(solved: Solved) -> Bool[np.ndarray, " items"]:
    """Return which items at least one model solves."""
    return np.asarray(solved.any(axis=0))


def covered_by_n(solved: Solved) -> Solved:
    """Return [models, items] bool: which items the first 1, 2, …, N models cover."""
    return np.asarray(np.logical_or.accumulate(solved, axis=0), np.bool_)


def covered_at(solved: Solved, share: float) -> Bool[np.ndarray, " items"]:
    """Return which items at least a share of the models solves. Their mean is Cover@share.

    Coverage asks for one right answer among N, which guessing often enough can give. Cover@0.5 asks
    for half of them.

    Source: Dragoi et al., "Beyond Pass@k: Breadth-Depth Metrics for Reasoning Boundaries"
    (arXiv 2510.08325), with the N models, or the N samples of a model, as the completions.

    Args:
        solved: [models, items] bool; a row for each model, or for each sample of one.
        share: τ in (0, 1]. Up to 1/N, the items are those of Coverage; 1 demands all.

    Raises:
        ValueError: `share` is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of models must be in (0, 1], not {share}")
    needed = math.ceil(share * len(solved) - _ROUNDING)
    return np.asarray(solved.sum(axis=0) >= max(1, needed))


def covered_by_at_least(solved: Solved) -> Solved:
    """Return [models, items] bool: which items at least 1, 2, …, N models solve."""
    needed = np.arange(1, len(solved) + 1)
    return np.asarray(solved.sum(axis=0) >= needed[:, None])


def unique(solved: Solved) -> Solved:
    """Return [models, items] bool: which items a model solves and no other model does."""
    return np.asarray(solved & (solved.sum(axis=0) == 1))


def plurality_winners(votes: Votes) -> Int64[np.ndarray, " items"]:
    """Return the model whose answer to each item is the most frequent one.

    Of equally frequent answers, the one wins whose first voter comes first. If no model votes on an
    item, the first model wins.

    Args:
        votes: [models, items] int64; equal numbers are equal answers, -1 is no vote.
    """
    valid = votes >= 0
    support = ((votes[:, None] == votes[None]) & valid[None]).sum(axis=1)
    return np.asarray(np.where(valid, support, 0).argmax(axis=0))  # the first of equals


def plurality(solved: Solved, votes: Votes) -> Bool[np.ndarray, " items"]:
    """Return which items have a right answer as the most frequent one.

    Args:
        solved: [models, items] bool.
        votes: [models, items] int64; see `plurality_winners`.
    """
    return np.asarray(solved[plurality_winners(votes), np.arange(solved.shape[1])])


def score_collective(
    scores: BenchmarkScores, draws: Sequence[Sequence[str]], weights: Resamples
) -> dict[str, Any]:
    """Return all figures of one collective of models, as shares of the benchmark's items.

    Args:
        scores: Scores of all models.
        draws: The models of the collective, by rank. Several draws of equal size are random
            collectives; every figure is then a mean over them.
        weights: [resamples, items] from `bootstrap.resamples`.

    Returns:
        JSON-ready: `n`; `members`, a list for each draw; `covered_by_at_least` (1, 2, …, N
        models); and with intervals `coverage`, `cover_at_half` (see `covered_at`), `coverage_by_n`
        (lists), `plurality` (None without answers), `mean_accuracy`, `best_accuracy` (of the model
        that is best on this very benchmark), and for a single draw `accuracy` and `unique`, by
        model.
    """
    solved = [scores.solved(models) for models in draws]
    by_n = np.mean([covered_by_n(part) for part in solved], axis=0)
    mean = np.mean([part.mean(axis=0) for part in solved], axis=0)
    best = np.mean([part[part.mean(axis=1).argmax()] for part in solved], axis=0)
    figures: dict[str, Any] = {"n": len(draws[0]), "members": [list(models) for models in draws]}
    figures |= figure("coverage", by_n[-1], weights)
    at_half = np.mean([covered_at(part, 0.5) for part in solved], axis=0)
    figures |= figure("cover_at_half", at_half, weights)
    by_at_least = np.mean([covered_by_at_least(part) for part in solved], axis=0)
    figures["covered_by_at_least"] = [float(values.mean()) for values in by_at_least]
    figures["coverage_by_n"] = [float(values.mean()) for values in by_n]
    figures["coverage_by_n_interval"] = [interval(values, weights) for values in by_n]
    figures |= _plurality_figure(scores, draws, solved, weights)
    figures |= figure("mean_accuracy", mean, weights) | figure("best_accuracy", best, weights)
    if len(draws) == 1:
        for name, rows in (("accuracy", solved[0]), ("unique", unique(solved[0]))):
            of_model = dict(zip(draws[0], rows, strict=True))
            figures[name] = {model: float(row.mean()) for model, row in of_model.items()}
            figures[f"{name}_interval"] = {m: interval(row, weights) for m, row in of_model.items()}
    return figures


def _plurality_figure(
    scores: BenchmarkScores,
    draws: Sequence[Sequence[str]],
    solved: Sequence[Solved],
    weights: Resamples,
) -> dict[str, Any]:
    if scores.votes is None:
        return {"plurality": None}
    right = [
        plurality(part, scores.votes[scores.rows(models)])
        for part, models in zip(solved, draws, strict=True)
    ]
    return figure("plurality", np.mean(right, axis=0), weights)


def gain(
    scores: BenchmarkScores,
    ours: Sequence[Sequence[str]],
    theirs: Sequence[Sequence[str]],
    weights: Resamples,
) -> dict[str, Any]:
    """Return the Coverage of one collective minus another's; the interval is paired by item.

    Args:
        scores: Scores of all models.
        ours: Draws of the one collective; see `score_collective`.
        theirs: Draws of the other.
        weights: [resamples, items] from `bootstrap.resamples`.
    """

    def mean_covered(draws: Sequence[Sequence[str]]) -> Float64[np.ndarray, " items"]:
        return np.asarray(np.mean([covered(scores.solved(models)) for models in draws], axis=0))

    return figure("coverage_gain", mean_covered(ours) - mean_covered(theirs), weights)
