"""What a run knows between two generations, and what one generation did.

Weights are not part of it: they are in the world's store, under the ids that are named here.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from acdc_jax.evaluation.evaluate import Response
from acdc_jax.evolution.evosax_strategy import StrategyState
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.tasks.library import Library
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.task import Rejection


@dataclasses.dataclass(frozen=True)
class State:
    """The two populations after a generation: everything that the next one depends on.

    Attributes:
        generation: how many generations have passed; the initial one is 0.
        archive: member ids, in the order in which the archive's update chose them.
        recipes: what made each archive member.
        skills: archive × active tasks.
        pool: active tasks and limbo.
        library: every task there ever was.
        strategy: state of the evosax strategy, where one proposes coefficients.
        kept: generation → archive whose members stay on disk.
    """

    generation: int
    archive: tuple[str, ...]
    recipes: Mapping[str, Recipe]
    skills: SkillMatrix
    pool: Pool
    library: Library
    strategy: StrategyState | None
    kept: Mapping[int, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Record:
    """What one generation did: written to the run directory, never read by the loop.

    Attributes:
        children: recipes of all members made, kept or not.
        gibberish: ids of the children that the filter dropped.
        novelty: candidate id → novelty at the archive's update.
        responses: all responses of the generation.
        rejections: drafts that did not become tasks.
        metrics: figures for `metrics.jsonl`.
    """

    children: Sequence[Recipe] = ()
    gibberish: Sequence[str] = ()
    novelty: Mapping[str, float] = dataclasses.field(default_factory=dict)
    responses: Sequence[Response] = ()
    rejections: Sequence[Rejection] = ()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
