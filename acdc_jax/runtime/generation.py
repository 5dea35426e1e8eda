"""How a generation is done: on which devices and processes, timed, retried, and recorded.

`acdc_jax.coevolve` is the algorithm. A `Generation` hides the rest from it: several
processes share the members and only the first one talks to the scientist; weights move between
devices, host and disk; scores may be missing; and everything is counted for `metrics.jsonl`.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Self

import jax
import numpy as np

from acdc_jax import multihost
from acdc_jax.config import Config
from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.evaluate import evaluate_members
from acdc_jax.evaluation.responses import Response
from acdc_jax.evaluation.truncation import warn_of_truncation
from acdc_jax.evolution import dns
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.comparable import incomparable
from acdc_jax.evolution.coverage import coverage, greedy
from acdc_jax.evolution.operators import Operators
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.inference.overflow import describe_overflow, overflows
from acdc_jax.prng import host_rng
from acdc_jax.runtime import replicate
from acdc_jax.runtime.breed import seed_recipe
from acdc_jax.runtime.children import Children, Members, StoredMembers
from acdc_jax.runtime.first_pool_commit import first_pool_saver, load_first_pool
from acdc_jax.runtime.setup import RunContext
from acdc_jax.runtime.state import Record, State
from acdc_jax.runtime.timer import Timer
from acdc_jax.streams import print_line
from acdc_jax.tasks.adapt import PoolUpdate, adapt_pool
from acdc_jax.tasks.first_pool import create_pool, shortage
from acdc_jax.tasks.library import Library
from acdc_jax.tasks.llm import add_costs, cost_per_task, gather
from acdc_jax.tasks.pool import Pool, discard_unscored
from acdc_jax.tasks.task import Rejection, Task

_QUESTION = "What is 17 + 25?"  # asked of every float16 seed before anything else
_RESPONSES_READ = 3  # by the gibberish filter, of each child
_RECHECKS = 0x7EC4EC  # folded into the generation's key; chooses the scores to check


@dataclasses.dataclass(frozen=True)
class Offspring:
    """Children that were bred and evaluated.

    Attributes:
        recipes: Member id → recipe, of all children.
        skills: [children, tasks], of those that were not dropped.
        gibberish: Ids of those that were dropped because they write gibberish.
        non_finite: Ids of those that were dropped because a weight or a logit is not finite.
    """

    recipes: Mapping[str, Recipe] = dataclasses.field(default_factory=dict)
    skills: SkillMatrix = skill_matrix.EMPTY
    gibberish: tuple[str, ...] = ()
    non_finite: tuple[str, ...] = ()

    @property
    def dropped(self) -> tuple[str, ...]:
        """Ids of the children that do not compete for a place in the archive."""
        return (*self.gibberish, *self.non_finite)

    def __add__(self, other: Self) -> "Offspring":
        """Return the children of both."""
        return Offspring(
            {**self.recipes, **other.recipes},
            skill_matrix.join(self.skills, other.skills),
            (*self.gibberish, *other.gibberish),
            (*self.non_finite, *other.non_finite),
        )


class Generation:
    """One generation under way.

    All processes of a run make the same calls in the same order.

    Attributes:
        number: 0 for the initial one.
        config: The run's settings.
        operators: Propose, merge and mutate.
        novelty: Candidate id → novelty at the archive's update, once that is done.
        fitness: Candidate id → fitness at the archive's update, once that is done.
    """

    def __init__(self, context: RunContext, number: int) -> None:
        self.number = number
        self.config: Config = context.config
        self.operators: Operators = context.operators
        self._context = context
        self._timer = Timer()
        self._adaptation: Future[PoolUpdate] | None = None
        self._recipes: dict[str, Recipe] = {}
        self._gibberish: list[str] = []
        self._non_finite: list[str] = []
        self._incomparable: list[str] = []
        self._unscored_tasks: list[str] = []
        self.novelty: Mapping[str, float] = {}
        self.fitness: Mapping[str, float] = {}
        self._problem = ""
        self._asked, self._scored = Counter[bool](), Counter[bool]()  # by whether a judge is asked
        self._responses: list[Response] = []
        self._rejections: list[Rejection] = []
        self._costs: Mapping[str, float] = {}  # of the first pool

    def split_key(self, number: int) -> jax.Array:
        """Return the generation's PRNG key, split: [number] keys."""
        return jax.random.split(self._key, number)

    @property
    def _key(self) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.config.run.seed), self.number)

    def progress(self, step: str, done: int, total: int) -> None:
        """Show how much of a step is done."""
        self._context.progress(step, done, total)

    # ------------------------------------------------------------------------------------- tasks

    def create_pool(self, key: jax.Array) -> tuple[Library, Pool]:
        """Return the first tasks, which grow from the seed families; continue a killed run's."""
        context, options, update = self._context, self.config.tasks, None
        if multihost.is_first():
            run_dir = Path(self.config.run.run_dir)
            first = context.portal.call(
                create_pool,
                context.task_generator,
                context.families,
                key,
                lambda valid: self.progress("first tasks", valid, options.initial_tasks),
                first_pool_saver(run_dir),
                load_first_pool(run_dir),
                context.checked,
            )
            if line := shortage(first, options.initial_tasks, options.max_tasks):
                print_line(line)
            self._costs = first.costs
            update = PoolUpdate(first.library, first.pool, list(first.rejections))
        return self._share_pool(Library(), update)

    @property
    def adapts_tasks(self) -> bool:
        """Whether this generation ends with an adaptation of the tasks."""
        interval = self.config.tasks.task_interval
        return interval is not None and self.number % interval == 0

    def adapt_ahead(self, state: State, key: jax.Array) -> None:
        """Start this generation's adaptation in the background, if the run adapts ahead.

        The tasks then adapt to the archive before this generation instead of the one after it.
        """
        if self.adapts_tasks and self.config.scientist.adapt_ahead and multihost.is_first():
            self._adaptation = self._start_adaptation(state, key)

    def adapt_pool(self, state: State, key: jax.Array) -> tuple[Library, Pool]:
        """Return the tasks, adapted to what the archive solves."""
        if self._adaptation is None and multihost.is_first():
            self._adaptation = self._start_adaptation(state, key)
        update = self._adaptation.result() if self._adaptation else None
        return self._share_pool(state.library, update)

    def _start_adaptation(self, state: State, key: jax.Array) -> Future[PoolUpdate]:
        return self._context.portal.start_task_soon(
            adapt_pool,
            self._context.task_generator,
            state.library,
            state.pool,
            skill_matrix.pass_rates(state.skills),
            key,
            self.number,
        )

    def _share_pool(self, library: Library, update: PoolUpdate | None) -> tuple[Library, Pool]:
        library, pool, rejections = replicate.share_pool(library, update)
        self._rejections += rejections
        self._timer.lap("tasks")
        return library, pool

    # ----------------------------------------------------------------------------------- members

    def load_seeds(self) -> dict[str, Recipe]:
        """Return the recipes of the seed models, which are loaded into the store.

        Raises:
            AcdcError: A seed's activations overflow its dtype.
        """
        store, engine = self._context.store, self._context.evaluator.engine
        # In other dtypes, only a damaged model overflows. Its first answers tell, and cost nothing.
        narrow = engine.model.dtype == "float16"
        recipes = {}
        for name in self._context.seeds:
            weights = store.get(name)
            if narrow and overflows(engine.model, weights, engine.encode(_QUESTION)):
                raise self._seed_overflow(name)
            recipes[name] = seed_recipe(name, weights)
            store.put(recipes[name], weights)
        self._timer.lap("archive_answers")
        self._recipes |= recipes
        return recipes

    def _seed_overflow(self, name: str) -> AcdcError:
        overflow = describe_overflow(self._context.evaluator.engine.model.dtype)
        return AcdcError(f"{self._context.seeds[name]}: {overflow}")

    def breed(self, recipes: Sequence[Recipe]) -> Children:
        """Return the children of some recipes, to be merged and mutated as they are evaluated."""
        return Children(self._context, recipes)

    def stored(self, names: Sequence[str]) -> StoredMembers:
        """Return members that are in the store."""
        return StoredMembers(self._context.store, names)

    def evaluate(
        self, members: Members, tasks: Sequence[Task], pool: Sequence[Task] = ()
    ) -> tuple[SkillMatrix, Sequence[Response]]:
        """Let members answer tasks greedily, and score the answers in the sandbox.

        Args:
            members: The members.
            tasks: The tasks.
            pool: The active tasks, if `tasks` are only some of them.

        Returns:
            Skills of all members, except children with weights or logits that are not finite.
            Responses of these in the first process, and of those that it decoded in any other.

        Raises:
            AcdcError: In generation 0, a seed's activations overflow its dtype.
        """
        if not tasks:
            return skill_matrix.EMPTY, ()
        with jax.profiler.TraceAnnotation("evaluate"):
            evaluation = evaluate_members(
                self._context.evaluator.with_room_for(pool or tasks),
                members.names,
                members.weights,
                tasks,
                prefetch=members.prefetch,
                recheck_key=jax.random.fold_in(self._key, _RECHECKS),
            )
        if members.may_drop:
            evaluation = evaluation.without(evaluation.non_finite)
        for name in evaluation.non_finite:
            if self.number == 0 and name in self._context.seeds:
                raise self._seed_overflow(name)
        self._responses += evaluation.responses
        if self.number == 0:  # later, `metrics.jsonl` has the share; a finished run warns again
            warn_of_truncation(evaluation.responses, self.config.decode.max_new_tokens)
        self._problem = self._problem or evaluation.problem
        for t, task in enumerate(tasks):
            scores = evaluation.scores[:, t, : evaluation.instances[t]]
            self._asked[task.draft.asks_judge] += scores.size
            self._scored[task.draft.asks_judge] += int((~np.isnan(scores)).sum())
        self._timer.add("decode_s", evaluation.decode_s)
        self._timer.add("scoring_s", evaluation.scoring_s)
        self._timer.lap(members.timed_as)
        return evaluation.skills(self.config.tasks.skill_threshold), evaluation.responses

    def collect_recipes(self, children: Children) -> dict[str, Recipe]:
        """Return the recipes of all children with the hashes of their weights."""
        for part, seconds in children.seconds().items():
            self._timer.add(f"{part}_s", seconds)
        recipes = children.recipes()
        self._recipes |= recipes
        return recipes

    def find_non_finite(self, children: Children, evaluated: Sequence[str]) -> list[str]:
        """Return the children without an evaluation, because a weight or a logit is not finite."""
        non_finite = [name for name in children.names if name not in evaluated]
        self._non_finite += non_finite
        return non_finite

    def find_gibberish(
        self,
        members: Sequence[str],
        responses: Sequence[Response],
        tasks: Sequence[Task],
        key: jax.Array,
    ) -> list[str]:
        """Return the members that write gibberish, by a few random responses of each."""
        gibberish: list[str] = []
        if self.config.run.gibberish_filter and multihost.is_first():
            samples = [
                _sample_responses(
                    [response for response in responses if response.member == member],
                    tasks,
                    jax.random.fold_in(key, m),
                )
                for m, member in enumerate(members)
            ]
            verdicts = self._context.portal.call(self._judge_gibberish, samples)
            pairs = zip(members, verdicts, strict=True)
            gibberish = [member for member, verdict in pairs if verdict]
        gibberish = multihost.broadcast(gibberish)
        self._gibberish += gibberish
        self._timer.lap("children")
        return gibberish

    async def _judge_gibberish(self, samples: Sequence[Sequence[tuple[str, str]]]) -> list[bool]:
        scientist = self._context.task_generator.scientist
        return await gather(scientist.is_gibberish(sample) for sample in samples)

    def join_candidates(self, archive: SkillMatrix, offspring: SkillMatrix) -> SkillMatrix:
        """Return the skills of archive and offspring, without children that lack too many scores.

        Raises:
            AcdcError: No task has a score for all of them.
        """
        self._incomparable = incomparable(archive, offspring)
        competing = [name for name in offspring.members if name not in self._incomparable]
        offspring = skill_matrix.take(offspring, competing, offspring.tasks)
        candidates = skill_matrix.join(archive, offspring)
        if not (candidates.values != skill_matrix.MISSING).all(0).any():
            raise AcdcError(
                f"generation {self.number}: no task has a score for every member, so that they "
                "cannot be compared; the same command resumes from the last commit"
            )
        return candidates

    def adopt(self, archive: Sequence[str], recipes: Mapping[str, Recipe]) -> None:
        """Rebuild the members of the new archive that only another process has."""
        replicate.rebuild_missing(self._context, archive, recipes)
        self._timer.lap("selection")

    def rewards(self, offspring: Offspring) -> list[float] | None:
        """Return each child's reward for the strategy.

        The least, 0, is for those dropped. Children that could not be compared, because scores are
        missing, get the median of those that were.

        Returns:
            A reward per child; None if no child could be compared.
        """
        values = self.fitness if self.config.strategy.reward == "fitness" else self.novelty
        compared = [values[name] for name in offspring.skills.members if name in values]
        if self._incomparable and not compared:
            return None
        rewards = dict.fromkeys(offspring.recipes, 0.0)
        rewards |= {name: float(np.median(compared)) for name in self._incomparable}
        return [values.get(name, reward) for name, reward in rewards.items()]

    def retry_missing_scores(self, state: State) -> State:
        """Evaluate the members again that lack a score, on the tasks that some of them lack."""
        members = skill_matrix.incomplete(state.skills)
        rows = skill_matrix.take(state.skills, members, state.skills.tasks)
        tasks = [state.library.tasks[name] for name in skill_matrix.incomplete_tasks(rows)]
        skills, _ = self.evaluate(self.stored(members), tasks, state.active_tasks)
        skills = skill_matrix.join(state.skills, skills)
        skills = skill_matrix.take(skills, state.archive, state.skills.tasks)
        return dataclasses.replace(state, skills=skills)

    def discard_unscored_tasks(self, state: State) -> State:
        """Remove tasks of which a score of the archive could not be had for several generations.

        This is a task's fault only if most scores of its kind, by the judge or computed, did come.
        """
        missing = skill_matrix.incomplete_tasks(state.skills)
        failed = set[str]()
        for name in missing:
            judged = state.library.tasks[name].draft.asks_judge
            if 2 * self._scored[judged] > self._asked[judged]:
                failed.add(name)
        pool = discard_unscored(state.pool, failed, missing)
        self._unscored_tasks = [task for task in state.pool.active if task not in pool.active]
        skills = skill_matrix.take(state.skills, state.archive, pool.active)
        return dataclasses.replace(state, pool=pool, skills=skills)

    # ------------------------------------------------------------------------------------ record

    def finish(self, state: State) -> tuple[State, Record]:
        """Decide what stays on disk; return the state and the record of the generation."""
        if self.number % self.config.run.keep_every == 0:
            state = dataclasses.replace(state, kept={**state.kept, self.number: state.archive})
        missing = self._missing()
        if multihost.is_first():
            self._print_missing(missing)
        record = Record(
            children=list(self._recipes.values()),
            gibberish=self._gibberish,
            non_finite=self._non_finite,
            incomparable=self._incomparable,
            unscored_tasks=self._unscored_tasks,
            novelty=self.novelty,
            responses=self._responses,
            rejections=self._rejections,
            metrics=self._metrics(state, len(missing)),
        )
        return state, record

    def _missing(self) -> list[tuple[str, str, str]]:
        """Return member, task and instance of the responses that got no score in the end."""
        scores = {(r.member, r.task, r.instance): r.score for r in self._responses}
        return [key for key, score in scores.items() if score is None]

    def _print_missing(self, missing: Sequence[tuple[str, str, str]]) -> None:
        """Print what is missing, and what follows from it."""
        if missing:
            member, task, _ = missing[0]
            print_line(
                f"generation {self.number}: {len(missing)} scores are missing, such as that of "
                f"{member} on {task} ({self._problem}); they are asked for again"
            )
        if names := self._incomparable:
            print_line(
                f"generation {self.number}: {', '.join(names)} cannot enter the archive, because "
                "too many of their scores are missing"
            )
        if names := self._unscored_tasks:
            print_line(
                f"generation {self.number}: {', '.join(names)} left the task pool, because scores "
                "of them could not be had in 3 generations"
            )

    def _metrics(self, state: State, missing: int) -> dict[str, float]:
        solved = state.skills.values == skill_matrix.SOLVED
        fitness = dns.fitness(state.skills.values)
        new_tasks = {
            task.id for task in state.library.tasks.values() if task.generation == self.number
        }
        new_count = sum(state.library.tasks[task].draft.kind != "seed" for task in new_tasks)
        costs = add_costs(self._costs, self._context.task_generator.scientist.costs())
        times = {"decode_s": 0.0, "scoring_s": 0.0} | self._timer.metrics()
        tokens = sum(response.tokens for response in self._responses)
        return {
            "fitness_best": float(fitness.max()),
            "fitness_mean": float(fitness.mean()),
            "coverage_archive": coverage(solved),
            "coverage_3": coverage(solved[list(greedy(solved, 3))]),
            "active_tasks": len(state.pool.active),
            "new_tasks": sum(task in new_tasks for task in state.pool.active),
            "limbo": len(state.pool.limbo),
            "new_members": sum(name in self._recipes for name in state.archive),
            "gibberish": len(self._gibberish),
            "non_finite": len(self._non_finite),
            "incomparable": len(self._incomparable),
            "unscored_tasks": len(self._unscored_tasks),
            "rejected_drafts": len(self._rejections),
            "unchecked_drafts": sum(r.cause == "infrastructure" for r in self._rejections),
            "missing_scores": missing,
            "responses": len(self._responses),
            "truncated": sum(r.truncated for r in self._responses) / max(len(self._responses), 1),
            "tokens": tokens,
            "tokens_per_s": round(tokens / max(times["decode_s"], 1e-3), 1),
            **costs,
            **cost_per_task(costs, new_count),
            **times,
        }


def _sample_responses(
    responses: Sequence[Response], tasks: Sequence[Task], key: jax.Array
) -> list[tuple[str, str]]:
    """Return a few random pairs of instructions and response."""
    instructions = {task.id: task.instructions for task in tasks}
    count = min(_RESPONSES_READ, len(responses))
    samples = [responses[i] for i in host_rng(key).choice(len(responses), count, replace=False)]
    return [(instructions[r.task][r.instance], r.text) for r in samples]
