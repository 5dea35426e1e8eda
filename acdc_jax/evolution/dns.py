"""Selection of the archive: Dominated Novelty Search over skill vectors.

Algorithm: Bahlous-Boldi et al., "Dominated Novelty Search", arXiv 2502.00593, with the skill
distance and the difficulty weights of AC/DC, arXiv 2604.14969.

A skill matrix is int8 [candidates, tasks]: 1 solved, 0 failed, -1 missing. Missing is neither
failed nor solved: fitness and distances are over the tasks for which every candidate has a score.
`evolution/comparable.py` leaves candidates out before these tasks become too few.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from acdc_jax.options import OptionError, check, option

_INT32 = np.iinfo(np.int32).max
_LARGEST = float(_INT32 - 127)  # The largest float32 that is also an int32.
_BLOCK = 256  # Candidates compared with all others at a time; bounds the memory.
_DIGIT = 8  # Bits of an integer that a product keeps in the default precision of any backend.


@dataclass(frozen=True)
class SelectionOptions:
    """How candidates are compared.

    Attributes:
        by: "novelty" (Dominated Novelty Search) or "fitness" (the best, with no diversity).
        k: Nearest fitter candidates whose distances are averaged.
        dominated_score: Novelty of the fittest candidate, which none dominates.
        weighted: Weighs a task by the fraction of candidates that fail it.
        denominator: Distances are relative to "all" tasks, or to what the other candidate leaves
            "unsolved". Both are weighted like the distance.
        distance: "unique" (tasks that only this candidate solves) or "hamming".
    """

    by: Literal["novelty", "fitness"] = option(
        "novelty",
        "How the archive is chosen: novelty (Dominated Novelty Search) or fitness (the members "
        "that solve most tasks).",
    )
    k: int = option(3, "Nearest fitter members over which novelty is averaged.", low=1)
    dominated_score: float = option(999.0, "Novelty of the fittest member.", low=0)
    weighted: bool = option(True, "Weight each task by the share of members that fail it.")
    denominator: Literal["all", "unsolved"] = option(
        "all", "Distances are relative to all tasks, or to those that the other member fails."
    )
    distance: Literal["unique", "hamming"] = option(
        "unique", "Distance of skills: tasks that only this member solves, or Hamming distance."
    )

    def __post_init__(self) -> None:
        check(self)
        if self.distance == "hamming" and self.denominator == "unsolved":
            raise OptionError(self, "denominator", "must be all for {distance}")


class Selected(NamedTuple):
    """The result of `select`; `novelty` and `fitness` are in the candidates' order.

    Attributes:
        indices: Candidates kept, best first, [min(size, n)] int.
        novelty: [n] float32, between 0 and 100, or `dominated_score`.
        fitness: [n] float64, between 0 and 1; see `fitness`.
    """

    indices: npt.NDArray[np.int64]
    novelty: npt.NDArray[np.float32]
    fitness: npt.NDArray[np.float64]


def fitness(skills: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the share of tasks that each row solves, among those for which every row has a score.

    If there is no such task, a missing entry counts as not solved. In no case does it raise a row.

    Args:
        skills: [n, T] int8: 1, 0, or -1 for missing.

    Returns:
        [n] float64; 0 without tasks.
    """
    matrix = np.asarray(skills)
    compared = (matrix >= 0).all(axis=0)
    if compared.any():
        matrix = matrix[:, compared]
    share: npt.NDArray[np.float64] = (matrix == 1).sum(axis=1) / max(matrix.shape[1], 1)
    return share


def select(
    skills: npt.ArrayLike,
    size: int,
    *,
    births: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
    options: SelectionOptions = SelectionOptions(),
) -> Selected:
    """Select the archive among candidates: by novelty, then fitness, then age, then id.

    The order of the candidates does not matter: comparisons are exact integer arithmetic, except
    for denominator "unsolved", whose float32 quotients do not depend on the order either.

    Args:
        skills: [n, T] int8: 1 solved, 0 failed, -1 missing.
        size: Number of candidates to keep.
        births: Generation of each candidate, where smaller is older; by default all are equal.
        ids: Unique ids of the candidates; by default their positions.
        options: How candidates are compared.

    Returns:
        The candidates that are kept, and every candidate's novelty and fitness.

    Raises:
        ValueError: There are no candidates, no task has a score for every candidate, `size` is
            below 1, an id appears twice, the lengths differ, or there are more candidates and tasks
            than int32 sums can hold.
    """
    matrix = np.asarray(skills, dtype=np.int8)
    if matrix.ndim != 2 or matrix.shape[0] == 0:
        raise ValueError("the archive cannot be updated: there are no candidates")
    if size < 1:
        raise ValueError(f"size {size} of the archive must be at least 1")
    n, tasks = matrix.shape
    if options.k * n * tasks > _INT32:
        raise ValueError(f"{n} candidates x {tasks} tasks x k {options.k} are too many to compare")
    births = [0] * n if births is None else births
    ids = [f"{i:09d}" for i in range(n)] if ids is None else ids
    if len(births) != n or len(ids) != n:
        raise ValueError(f"{n} skill vectors, {len(births)} births and {len(ids)} ids do not align")
    if not (matrix >= 0).all(axis=0).any():
        raise ValueError("the archive cannot be updated: no task has a score for every candidate")
    if len(set(ids)) < n:
        twice = sorted(name for name in set(ids) if list(ids).count(name) > 1)
        raise ValueError(f"candidate {twice[0]!r} appears twice")
    # Few distinct shapes, few compilations: candidates and tasks come and go every generation.
    rows, columns = _padded(n, 8), _padded(tasks, 32)
    order, scores = rank(
        np.pad(matrix, ((0, rows - n), (0, columns - tasks)), constant_values=-1),
        np.pad(np.asarray(births, dtype=np.int32), (0, rows - n)),
        np.pad(np.argsort(np.argsort(np.asarray(ids))).astype(np.int32), (0, rows - n)),
        np.arange(rows) < n,
        options,
    )
    indices = np.asarray(order)[: min(size, n)].astype(np.int64)
    return Selected(indices, np.asarray(scores)[:n], fitness(matrix))


@partial(jax.jit, static_argnames="options")
@jax.named_scope("select")
def rank(
    skills: npt.ArrayLike,
    births: npt.ArrayLike,
    ids: npt.ArrayLike,
    real: npt.ArrayLike,
    options: SelectionOptions,
) -> tuple[jax.Array, jax.Array]:
    """Order candidates from best to worst; the array function under `select`.

    Candidates are compared in blocks of 256, so that 10⁴ x 10⁴ fits in memory. Sums stay
    below k·n·T, which must fit int32 (10⁴ x 10⁴ does up to k = 21). Skills are counted by matrix
    products of 0 and 1 with 8-bit digits of the weights: exact in the precision that matrix units
    have (bfloat16 on a TPU, TF32 on a GPU), with sums below 2²⁴, which are exact in float32.

    Args:
        skills: [n, T] int8. Tasks with a -1 in a real row are not compared; padding is such a task.
        births: [n] int32.
        ids: [n] int32, the rank of each id.
        real: [n] bool; false rows are padding and come last.
        options: How candidates are compared; static.

    Returns:
        Indices of the candidates, [n] int32, best first; and their novelty, [n] float32.
    """
    skills, births, ids, real = (jnp.asarray(x) for x in (skills, births, ids, real))
    n = skills.shape[0]
    everyone = jnp.arange(n, dtype=jnp.int32)
    compared = ((skills >= 0) | ~real[:, None]).all(axis=0)
    solved = (skills == 1) & real[:, None] & compared[None, :]
    passes = solved.sum(axis=1, dtype=jnp.int32)
    fails = (~solved & real[:, None]).sum(axis=0, dtype=jnp.int32)
    weight = jnp.where(compared, fails if options.weighted else jnp.ones_like(fails), 0)
    everything = weight.sum(dtype=jnp.int32)
    solved_weight = jnp.where(solved, weight[None, :], 0).sum(axis=1, dtype=jnp.int32)

    by_fitness = jnp.lexsort((ids, births, -passes, ~real)).astype(jnp.int32)
    fittest = by_fitness[0]
    digits = range(0, n.bit_length(), _DIGIT)
    each = solved.astype(jnp.float32)
    near = min(options.k, n)

    def score(i: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        both = jnp.zeros(n, jnp.int32)
        for shift in digits:
            digit = (weight >> shift) & ((1 << _DIGIT) - 1)
            both = both + (
                (each @ (each[i] * digit.astype(jnp.float32))).astype(jnp.int32) << shift
            )
        dominating = (passes >= passes[i]) & real & (everyone != i)
        count = jnp.minimum(dominating.sum(dtype=jnp.int32), near)
        counted = jnp.maximum(count, 1)
        first = jnp.arange(near, dtype=jnp.int32) < count
        if options.denominator == "unsolved":
            unsolved = jnp.maximum(everything - solved_weight, 1).astype(jnp.float32)
            distance = (solved_weight[i] - both).astype(jnp.float32) / unsolved
            nearest = _smallest(jnp.where(dominating, distance, jnp.inf), near)
            mean = jnp.where(first, nearest, 0).sum() / counted.astype(jnp.float32)
            return jnp.int32(0), mean, 100 * mean
        unlike = solved_weight[i] - both
        if options.distance == "hamming":
            unlike = unlike + (solved_weight - both)
        nearest = _smallest(jnp.where(dominating, unlike, _INT32), near)
        total = jnp.where(first, nearest, 0).sum(dtype=jnp.int32)
        # The mean as a whole number and a fraction below 1: unequal means stay unequal.
        whole = total // counted
        part = (total % counted).astype(jnp.float32) / counted.astype(jnp.float32)
        unit = 100 / jnp.maximum(everything, 1).astype(jnp.float32)
        return whole, part, (whole.astype(jnp.float32) + part) * unit

    whole, part, novelty = jax.lax.map(score, everyone, batch_size=_BLOCK)
    novelty = novelty.at[fittest].set(options.dominated_score)
    if options.by == "fitness":
        return by_fitness, novelty
    # The fittest candidate's score, in the units that the others are compared in.
    best = jnp.float32(options.dominated_score / 100)
    if options.denominator == "all":
        best = jnp.minimum(best * everything.astype(jnp.float32), _LARGEST)
        whole = whole.at[fittest].set(jnp.floor(best).astype(jnp.int32))
        best = best - jnp.floor(best)
    part = part.at[fittest].set(best)
    by_novelty = jnp.lexsort((ids, births, -passes, -part, -whole, ~real)).astype(jnp.int32)
    return by_novelty, novelty


def _smallest(values: jax.Array, count: int) -> jax.Array:
    """Return the smallest of [n] values, ascending.

    A few passes: for integers on a CPU, `jax.lax.top_k` sorts them all, which took nine tenths of
    an archive update.
    """
    most = jnp.inf if jnp.issubdtype(values.dtype, jnp.floating) else _INT32

    def take(remainder: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        at = jnp.argmin(remainder)
        return remainder.at[at].set(most), remainder[at]

    smallest: jax.Array = jax.lax.scan(take, values, None, length=count)[1]
    return smallest


def _padded(size: int, least: int) -> int:
    """Round up by at most an eighth, so that nearby sizes share a compilation."""
    step = max(least, 1 << max(size.bit_length() - 4, 0))
    return -(-size // step) * step
