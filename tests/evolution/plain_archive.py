"""Dominated Novelty Search in plain Python: what the array function is compared with."""

from collections.abc import Sequence
from fractions import Fraction


def plain_select(
    skills: Sequence[Sequence[int]],
    births: Sequence[int],
    ids: Sequence[str],
    *,
    population: int,
    by: str = "novelty",
    k: int = 3,
    dominated_score: float = 999.0,
    weighted: bool = True,
    denominator: str = "all",
    distance: str = "unique",
    number: type = Fraction,
) -> tuple[list[int], list[Fraction]]:
    """The rules of the method read literally, one candidate, one rival and one task at a time."""
    n = len(skills)
    tasks = [t for t in range(len(skills[0])) if all(row[t] >= 0 for row in skills)]
    fitness = [number(sum(row[t] for t in tasks)) / len(tasks) for row in skills]
    difficulty = {
        t: number(sum(row[t] == 0 for row in skills)) / n if weighted else number(1) for t in tasks
    }

    def far(i: int, j: int) -> Fraction:
        if distance == "hamming":
            parts = [difficulty[t] for t in tasks if skills[i][t] != skills[j][t]]
        else:
            parts = [difficulty[t] for t in tasks if skills[i][t] == 1 and skills[j][t] == 0]
        if denominator == "all":
            whole = sum(difficulty.values())
        else:
            whole = sum(difficulty[t] for t in tasks if skills[j][t] == 0)
        return 100 * sum(parts, number(0)) / whole if whole else number(0)

    fittest = min(range(n), key=lambda i: (-fitness[i], births[i], ids[i]))
    novelty = []
    for i in range(n):
        rivals = [j for j in range(n) if j != i and fitness[j] >= fitness[i]]
        nearest = sorted(far(i, j) for j in rivals)[:k]
        if i == fittest:
            novelty.append(number(dominated_score))
        else:
            novelty.append(sum(nearest, number(0)) / len(nearest))
    score = novelty if by == "novelty" else [number(0)] * n
    order = sorted(range(n), key=lambda i: (-score[i], -fitness[i], births[i], ids[i]))
    return order[:population], novelty
