"""A scientist without an LLM that asks real models real questions: those of reasoning-gym.

A harder or easier task has another level of one attribute; where none is lower, an easier one is
another family at its lowest levels. A novel task is a family that no task has used yet. A related
one is such a family of the same category; if there is none, another one at other levels, or a
question of the parent together with one of another family. Once all families are used, tasks have
other levels, and in the end other questions: the supply has no end.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from acdc_jax.errors import AcdcError
from acdc_jax.prng import host_rng
from acdc_jax.tasks.gym import ideas, levels
from acdc_jax.tasks.gym.ideas import Idea, recorded_idea
from acdc_jax.tasks.gym.questions import NoQuestionsError
from acdc_jax.tasks.gym.split import Split
from acdc_jax.tasks.gym.write import write_draft
from acdc_jax.tasks.rule_based_scientist import RuleBasedScientist
from acdc_jax.tasks.task import Draft, Kind, Task

_WALKS = 64  # ideas with other levels, before ideas repeat
_LAST_STEPS = 100  # levels above the lowest, at which the search for questions ends


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
        earlier = [idea for task in context if (idea := recorded_idea(task.draft.metadata))]
        origin = None if parent is None else recorded_idea(parent.draft.metadata)
        if origin is not None and not all(levels.exist(p.family.name, p.levels) for p in origin):
            origin = None  # of another version of reasoning-gym
        for idea in self._ideas(kind, origin, earlier, rng):
            try:
                return write_draft(
                    idea,
                    kind,
                    None if parent is None else parent.id,
                    self.instances,
                    rng,
                    self.split.is_for_pool,
                )
            except NoQuestionsError:
                continue
        names = ", ".join(family.name for family in self.split.pool)
        raise AcdcError(
            f"--scientist=gym: there are too few questions of {names}; name more families in "
            "--gym_families in a new run"
        )

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        """See `Scientist.is_new`: a task is new if its families or their levels are."""
        idea = recorded_idea(draft.metadata)
        return all(recorded_idea(task.draft.metadata) != idea for task in nearest)

    def _ideas(
        self, kind: Kind, origin: Idea | None, earlier: Sequence[Idea], rng: np.random.Generator
    ) -> Iterator[Idea]:
        """Yield what fits the kind, the best fitting first, and at last anything."""
        fitting = self._fitting(kind, origin, earlier, rng)
        yield from (idea for idea in fitting if idea not in earlier)
        # Then other questions of old ideas. Some families have none at their lowest levels.
        for steps in range(0 if kind == "easier" else ideas.STEPS, _LAST_STEPS):
            yield ideas.random_idea(self.split.pool, rng, steps)

    def _fitting(
        self, kind: Kind, origin: Idea | None, earlier: Sequence[Idea], rng: np.random.Generator
    ) -> Iterator[Idea]:
        """Yield what fits the kind, the best fitting first. Earlier ideas may be among it."""
        if origin is not None and kind == "easier":
            yield from ideas.neighbours(origin, -1, rng)
            if len(origin) > 1:
                yield from ((part,) for part in origin)
        if origin is not None and kind == "harder":
            yield from ideas.neighbours(origin, 1, rng)
        if origin is not None and kind not in ("novel", "easier"):
            yield from self._related(origin, earlier, rng)
        yield from ideas.unused(self.split.pool, earlier, rng)
        if kind != "easier":
            yield from (ideas.random_idea(self.split.pool, rng) for _ in range(_WALKS))

    def _related(
        self, origin: Idea, earlier: Sequence[Idea], rng: np.random.Generator
    ) -> Iterator[Idea]:
        """Yield ideas of the same category, and the origin's together with another."""
        category = origin[0].family.category
        siblings = [family for family in self.split.pool if family.category == category]
        yield from ideas.unused(siblings, earlier, rng)
        if siblings and rng.random() < 0.5:
            yield from (ideas.random_idea(siblings, rng) for _ in siblings)
        yield from ideas.composites(origin, siblings, rng)
        yield from ideas.composites(origin, self.split.pool, rng)
