"""What a run knows between two generations, and what one generation did.

Weights are in the member store, under the ids that are named here.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

import jax

from acdc_jax.evaluation.responses import Response
from acdc_jax.evolution.evosax_strategy import StrategyState
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.tasks.library import Library
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.task import Rejection, Task


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["skills", "strategy"],
    meta_fields=["generation", "archive", "recipes", "pool", "library", "kept"],
)
@dataclasses.dataclass(frozen=True)
class State:
    """The two populations after a generation: everything that the next one depends on.

    A pytree: its leaves are the skills and the strategy's arrays.

    Attributes:
        generation: Generations so far; the initial one is 0.
        archive: Member ids, in the order in which the archive's update chose them.
        recipes: Member id → what makes it, of the archive.
        skills: [archive, active tasks] int8; 1 solved, 0 failed, -1 missing.
        pool: Active tasks and limbo.
        library: Every task so far.
        strategy: State of the evosax strategy; None if none proposes coefficients.
        kept: Generation → archive whose members stay on disk.
    """

    generation: int
    archive: tuple[str, ...]
    recipes: Mapping[str, Recipe]
    skills: SkillMatrix
    pool: Pool
    library: Library
    strategy: StrategyState | None = None
    kept: Mapping[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def active_tasks(self) -> list[Task]:
        """The pool's active tasks, in the order of the skills' columns."""
        return [self.library.tasks[task] for task in self.pool.active]


@dataclasses.dataclass(frozen=True)
class Record:
    """What one generation did: written to the run directory, and never read by the algorithm.

    Attributes:
        children: Recipes of all members made, kept or not.
        gibberish: Ids of the children that the filter dropped.
        non_finite: Ids of the children that were dropped because a weight is not finite.
        incomparable: Ids of the children that lacked too many scores to compete.
        unscored_tasks: Ids of the tasks that left because a score of them could not be had.
        novelty: Candidate id → novelty at the archive's update.
        responses: All responses of the generation.
        rejections: Drafts that did not become tasks.
        metrics: Figures for `metrics.jsonl`.
    """

    children: Sequence[Recipe] = ()
    gibberish: Sequence[str] = ()
    non_finite: Sequence[str] = ()
    incomparable: Sequence[str] = ()
    unscored_tasks: Sequence[str] = ()
    novelty: Mapping[str, float] = dataclasses.field(default_factory=dict)
    responses: Sequence[Response] = ()
    rejections: Sequence[Rejection] = ()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
