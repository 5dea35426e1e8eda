"""Which children can be compared with the archive, although scores are missing.

Candidates are compared on the tasks for which each of them has a score. If a tenth of the scores
is missing at random, 24 candidates have 8 % of the tasks in common. If the judge is gone for one
generation, its children have computed tasks only, and members that are good at judged ones would
have to leave the archive. A few children less cost little.
"""

import numpy as np

from acdc_jax.evolution.skills import MISSING, SkillMatrix, take

_LEAST_TENTHS = 9  # of the tasks by which the archive alone can be compared


def incomparable(archive: SkillMatrix, children: SkillMatrix) -> list[str]:
    """Return the children to leave out of a selection, because they lack too many scores.

    A task counts if every member of the archive has a score of it. While the candidates have fewer
    than nine tenths of these tasks in common, the child that lacks the most of these scores leaves;
    of equals, the one with the greatest id. The archive stays.

    Args:
        archive: Skills of the archive, [members, tasks].
        children: Skills of the children; a task that it lacks is missing.

    Returns:
        Ids of the children that leave, in the order in which they do.
    """
    known = (archive.values != MISSING).all(0)
    tasks = [task for task, is_known in zip(archive.tasks, known, strict=True) if is_known]
    rest = sorted(children.members)
    gaps = take(children, rest, tasks).values == MISSING
    out: list[str] = []
    while rest and 10 * (~gaps.any(0)).sum() < _LEAST_TENTHS * len(tasks):
        worst = len(rest) - 1 - int(np.argmax(gaps.sum(1)[::-1]))
        out.append(rest.pop(worst))
        gaps = np.delete(gaps, worst, axis=0)
    return out
