"""Coverage: how many tasks a set of members solves together (paper §3.5).

Coverage is a monotone submodular function of the set. Greedy selection therefore reaches at least
1 - 1/e of the best Coverage of its size (Nemhauser, Wolsey and Fisher, 1978).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from acdc_jax.evolution.skills import SOLVED

Skills = Int[np.ndarray, "members tasks"] | Bool[np.ndarray, "members tasks"]
"""1 or True: solved; 0 or False: failed; -1: missing, which does not count as solved."""


def coverage(skills: Skills) -> float:
    """Return the fraction of tasks that at least one member solves.

    Args:
        skills: [members, tasks] int8 or bool.

    Returns:
        A number in [0, 1]; 0 without members.

    Raises:
        ValueError: There are no tasks.
    """
    if skills.shape[1] == 0:
        raise ValueError("Coverage is not defined for no tasks")
    return float((skills == SOLVED).any(axis=0).mean())


def greedy(skills: Skills, n: int, forced: Sequence[int] = ()) -> tuple[int, ...]:
    """Pick members one at a time; each adds the most tasks that no earlier one solves.

    Ties go to the member that solves more tasks, then to the smaller index. The same rule picks
    the rest once every solvable task is solved.

    Args:
        skills: [members, tasks] int8 or bool.
        n: Number of members to pick.
        forced: Indices that are picked first.

    Returns:
        Indices in the order of the picks: `n`, or all members if there are fewer.
    """
    solved = skills == SOLVED
    fitness = solved.sum(axis=1)
    picked = list(forced)
    uncovered = ~solved[picked].any(axis=0)
    for _ in range(min(n, len(solved)) - len(picked)):
        gain = (solved & uncovered).sum(axis=1)
        gain[picked] = -1
        best = int(np.lexsort((np.arange(len(solved)), -fitness, -gain))[0])
        picked.append(best)
        uncovered &= ~solved[best]
    return tuple(picked)
