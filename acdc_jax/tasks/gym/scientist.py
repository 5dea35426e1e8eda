"""A scientist without an LLM that asks real models real questions: those of reasoning-gym.

A harder or easier task has another level of one attribute. A novel task is a family that no task
has used yet; a related one, such a family of the same category. Once all families are used, tasks
have other levels, and in the end other questions: the supply has no end.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from acdc_jax.prng import host_rng
from acdc_jax.tasks.gym import levels as gym_levels
from acdc_jax.tasks.gym.catalogue import Family
from acdc_jax.tasks.gym.questions import NoQuestionsError
from acdc_jax.tasks.gym.split import Split
from acdc_jax.tasks.gym.write import origin_of, write_draft
from acdc_jax.tasks.rule_based_scientist import RuleBasedScientist
from acdc_jax.tasks.task import Draft, Kind, Task

_STEPS = 3  # levels that a new idea is at most above the lowest
_WALKS = 64  # ideas with other levels, before ideas repeat

_Idea = tuple[Family, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class GymScientist(RuleBasedScientist):
    """Writes families of reasoning-gym.

    Attributes:
        split: The families and questions that it may use.
        instances: Number of questions of each task.
    """

    split: Split
    instances: int = 2

    def propose(
        self, kind: Kind, parent: Task | None, context: Sequence[Task], key: jax.Array
    ) -> Draft:
        """See `RuleBasedScientist.propose`."""
        rng = host_rng(key)
        origins = (origin_of(task.draft.metadata) for task in context)
        earlier = [origin for origin in origins if origin is not None]
        origin = None if parent is None else origin_of(parent.draft.metadata)
        for family, levels in self._ideas(kind, origin, earlier, rng):
            try:
                return write_draft(
                    family,
                    levels,
                    kind,
                    None if parent is None else parent.id,
                    self.instances,
                    rng,
                    self.split.is_for_pool,
                )
            except NoQuestionsError:
                continue
        raise AssertionError("ideas never end")

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """See `Scientist.is_new`: a task is new if its family or its levels are."""
        idea = origin_of(draft.metadata)
        return all(origin_of(task.draft.metadata) != idea for task in nearest)

    def _ideas(
        self, kind: Kind, origin: _Idea | None, earlier: Sequence[_Idea], rng: np.random.Generator
    ) -> Iterator[_Idea]:
        """Yield families with levels, the best fitting first, without end."""
        families = self.split.pool
        if origin is not None and kind in ("harder", "easier"):
            yield from _moved(kind, origin, earlier, rng)
        if origin is not None:
            siblings = [family for family in families if family.category == origin[0].category]
            yield from _unused(siblings, earlier, rng)
        yield from _unused(families, earlier, rng)
        for _ in range(_WALKS):
            idea = _walk(families, rng)
            if idea not in earlier:
                yield idea
        while True:
            yield _walk(families, rng)


def _moved(
    kind: Kind, origin: _Idea, earlier: Sequence[_Idea], rng: np.random.Generator
) -> Iterator[_Idea]:
    """Yield the origin's family, one level up or down in one attribute after another."""
    family, levels = origin
    move = gym_levels.harder if kind == "harder" else gym_levels.easier
    for _ in range(2 * len(levels)):
        moved = move(family.name, levels, rng)
        if moved is not None and (family, moved) not in earlier:
            yield family, moved


def _unused(
    families: Sequence[Family], earlier: Sequence[_Idea], rng: np.random.Generator
) -> Iterator[_Idea]:
    """Yield the families that no task has used, at their lowest levels, in random order."""
    used = {family.name for family, _ in earlier}
    for i in rng.permutation(len(families)):
        if families[i].name not in used:
            yield families[i], gym_levels.first_levels(families[i].name)


def _walk(families: Sequence[Family], rng: np.random.Generator) -> _Idea:
    """Return a random family, some levels above the lowest."""
    family = families[int(rng.integers(len(families)))]
    levels = gym_levels.first_levels(family.name)
    for _ in range(int(rng.integers(_STEPS + 1))):
        levels = gym_levels.harder(family.name, levels, rng) or levels
    return family, levels
