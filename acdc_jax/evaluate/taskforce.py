"""Task forces: the N models that together solve most tasks.

Coverage is a monotone submodular function of the models, so that the greedy choice reaches at
least 1 - 1/e of the best one (Nemhauser, Wolsey and Fisher, 1978).
"""

import numpy as np
import numpy.typing as npt


def greedy(skills: npt.ArrayLike, n: int) -> tuple[int, ...]:
    """Picks models one at a time, each adding the most tasks that no earlier one solves.

    Ties go to the model that solves more tasks, then to the smaller index; so do all picks after
    everything that can be solved is.

    Args:
        skills: [M, T], bool or int8; solved where it equals 1 (missing, -1, is not solved).
        n: Size of the task force.

    Returns:
        Indices in the order they were picked: n of them, or M where there are fewer models.
    """
    solved = np.asarray(skills) == 1
    fitness = solved.sum(axis=1)
    picked: list[int] = []
    uncovered = np.ones(solved.shape[1], bool)
    for _ in range(min(n, len(solved))):
        gain = (solved & uncovered).sum(axis=1)
        gain[picked] = -1
        best = int(np.lexsort((np.arange(len(solved)), -fitness, -gain))[0])
        picked.append(best)
        uncovered &= ~solved[best]
    return tuple(picked)


def coverage(skills: npt.ArrayLike) -> float:
    """Fraction of tasks that at least one model solves.

    Args:
        skills: [N, T] of the models in question, as in `greedy`.

    Returns:
        Between 0 and 1; 0 without models.

    Raises:
        ValueError: There are no tasks.
    """
    solved = np.asarray(skills) == 1
    if solved.shape[1] == 0:
        raise ValueError("Coverage of no tasks")
    return float(solved.any(axis=0).mean())
