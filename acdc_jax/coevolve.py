"""AC/DC, top to bottom: two populations, one generation at a time (paper §3, Algorithm 1).

Every decision draws from a key of its own, folded from the run's seed and the generation, so that
a resumed run decides as an uninterrupted one would have.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import jax
import numpy as np

from acdc_jax import multihost
from acdc_jax.errors import AcdcError, Preempted
from acdc_jax.evaluation.evaluate import Evaluation, Prefetch, Response, Weights, evaluate_members
from acdc_jax.evolution import dns
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.coverage import coverage, greedy
from acdc_jax.evolution.evosax_strategy import es_init, es_tell
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.params import Params
from acdc_jax.prng import host_rng
from acdc_jax.runtime import replicate, run_directory
from acdc_jax.runtime.background_commit import BackgroundCommits
from acdc_jax.runtime.breed import make_child, member_id, propose_children, seed_recipe
from acdc_jax.runtime.preemption import PreemptionNotice
from acdc_jax.runtime.run_directory import Manifest
from acdc_jax.runtime.setup import RunContext
from acdc_jax.runtime.state import Record, State
from acdc_jax.runtime.timer import Timer
from acdc_jax.tasks.adapt import PoolUpdate, adapt_pool, create_pool
from acdc_jax.tasks.library import Library
from acdc_jax.tasks.llm import cost_per_task, gather
from acdc_jax.tasks.task import Rejection, Task

_SPARE_CHILDREN = 8  # tried in generation 0, so that rejected children leave no gap
_SHOWN_RESPONSES = 3  # that the gibberish filter looks at
# Parts of making children; their seconds are a group's on average.
_MAKING = ("store", "merge", "mutate", "check")


# ---------------------------------------------------------------------------------------- the run


def evolve(
    context: RunContext,
    manifest: Manifest,
    report: Callable[[State, Record], None],
    notice: PreemptionNotice,
) -> tuple[Manifest, State]:
    """Runs generations until there are as many as the flags ask for, committing each.

    Args:
        context: what the run works with.
        manifest: the commit point to go on from.
        report: told about every generation.
        notice: whether the run has been told to end.

    Returns:
        The last commit point and its state.

    Raises:
        Preempted: it has been told to, and everything is committed.
    """
    run_dir = Path(context.config.run.run_dir)
    with BackgroundCommits(run_dir, manifest, context.store) as commits:
        notice.settle = commits.settle
        if manifest.generation < 0:
            state, record = first_generation(context)
            commits.begin(state, record)
            report(state, record)
        else:
            state = run_directory.restore(run_dir, manifest, context.operators.strategy)
            context.store.warm(state.archive)
        while state.generation < context.config.run.generations:
            if notice.anywhere():
                commits.wait()
                raise Preempted(f"generation {state.generation} is committed", notice.status)
            state, record = next_generation(context, state)
            commits.begin(state, record)
            report(state, record)
        return run_directory.share_manifest(commits.wait()), state


def first_generation(context: RunContext) -> tuple[State, Record]:
    """The first tasks, the seeds as they are, and children of seeds."""
    clock, run = Timer(), context.config.run
    task_key, child_key, filter_key, strategy_key = jax.random.split(_key(context, 0), 4)

    # -- tasks: grown from the seed families
    grown_tasks: PoolUpdate | None = None
    if multihost.is_first():
        grown_tasks = context.portal.call(
            create_pool,
            context.task_generator,
            context.families,
            task_key,
            lambda drafted: context.progress(
                "first tasks", drafted, context.config.tasks.initial_tasks
            ),
        )
    library, pool, rejections = replicate.all_growth(Library(), grown_tasks)
    tasks = [library.tasks[task] for task in pool.active]
    clock.lap("tasks")

    # -- seeds: as they are, whatever they say
    recipes: dict[str, Recipe] = {}
    for name in context.seeds:
        weights = context.store.get(name)
        recipes[name] = seed_recipe(name, weights)
        context.store.put(recipes[name], weights)
    skills, responses = _answers(context, clock, list(recipes), tasks)

    # -- children of seeds: until the population is full or the spare ones are used up
    gibberish: list[str] = []
    seeds, seed_fitness = list(recipes), dns.fitness(skills.values)
    spare = _SPARE_CHILDREN if context.config.evolve.gibberish_filter else 0
    size = run.init_population
    while len(gibberish) <= spare and (wanted := size - len(recipes) + len(gibberish)) > 0:
        made = len(recipes)
        names = [member_id(0, made + c) for c in range(run.children)]
        proposed = propose_children(
            context.operators, seeds, seed_fitness, names, 0, jax.random.fold_in(child_key, made)
        )
        grown = _grow(
            context,
            clock,
            proposed.recipes[:wanted],
            tasks,
            jax.random.fold_in(filter_key, made),
        )
        skills = skill_matrix.join(skills, grown.skills)
        recipes |= {recipe.id: recipe for recipe in grown.recipes}
        responses += grown.responses
        gibberish += grown.gibberish
        context.progress("first members", len(recipes) - len(gibberish), size)
    clock.lap("members")

    # -- archive: the best of them, where there are more than it holds
    strategy = context.operators.strategy
    state = State(
        generation=0,
        archive=(),
        recipes={},
        skills=SkillMatrix((), tuple(pool.active), np.zeros((0, len(pool.active)), np.int8)),
        pool=pool,
        library=library,
        strategy=es_init(strategy, strategy_key) if strategy else None,
        kept={},
    )
    state, novelty = _update_archive(context, state, skills, recipes)
    clock.lap("archive")
    return _finish(context, state, recipes, gibberish, novelty, responses, rejections, clock)


def next_generation(context: RunContext, state: State) -> tuple[State, Record]:
    """Propose, evaluate, filter, update the archive, adapt the tasks."""
    clock, generation = Timer(), state.generation + 1
    child_key, filter_key, strategy_key, adapt_key = jax.random.split(_key(context, generation), 4)
    tasks = [state.library.tasks[task] for task in state.pool.active]
    interval = context.config.tasks.task_interval
    adapts = bool(interval) and generation % interval == 0
    ahead = adapts and context.config.scientist.adapt_ahead and multihost.is_first()
    adapting = _start_adapting(context, state, adapt_key, generation) if ahead else None

    # -- propose: parents and coefficients of all children
    names = [member_id(generation, c) for c in range(context.config.run.children)]
    proposed = propose_children(
        context.operators,
        state.archive,
        dns.fitness(state.skills.values),
        names,
        generation,
        child_key,
        state.strategy,
    )

    # -- make and evaluate: each child on every active task; filter gibberish
    grown = _grow(context, clock, proposed.recipes, tasks, filter_key)
    recipes = {recipe.id: recipe for recipe in grown.recipes}
    clock.lap("members")

    # -- update the archive, and tell the strategy how its children did
    state = dataclasses.replace(state, generation=generation)
    state, novelty = _update_archive(context, state, grown.skills, recipes)
    if context.operators.strategy and proposed.learnt and proposed.solutions is not None:
        rewards = _rewards(context, names, grown.skills, novelty)
        learnt = es_tell(
            context.operators.strategy, strategy_key, proposed.learnt, proposed.solutions, rewards
        )
        state = dataclasses.replace(state, strategy=learnt)
    clock.lap("archive")

    # -- ask again where a score is missing: the judge may be back
    state, again = _asked_again(context, clock, state)

    # -- adapt the tasks, and evaluate the archive on the new ones
    responses, rejections = [*grown.responses, *again], list[Rejection]()
    if adapts:
        if adapting is None and multihost.is_first():
            adapting = _start_adapting(context, state, adapt_key, generation)
        growth = adapting.result() if adapting else None
        library, pool, rejections = replicate.all_growth(state.library, growth)
        clock.lap("tasks")
        unmet = [library.tasks[task] for task in pool.active if task not in state.skills.tasks]
        met, answers = _answers(context, clock, state.archive, unmet)
        skills = skill_matrix.take(skill_matrix.join(state.skills, met), state.archive, pool.active)
        state = dataclasses.replace(state, pool=pool, library=library, skills=skills)
        responses += answers
        clock.lap("tasks_answered")

    return _finish(context, state, recipes, grown.gibberish, novelty, responses, rejections, clock)


# ---------------------------------------------------------------------------------------- its parts


def _key(context: RunContext, generation: int) -> jax.Array:
    """The key from which all decisions of a generation are split."""
    return jax.random.fold_in(jax.random.key(context.config.run.seed), generation)


@dataclasses.dataclass(frozen=True)
class _Grown:
    """Children that were made and evaluated.

    Attributes:
        recipes: of all of them.
        skills: of those that speak, which are in the store.
        gibberish: ids of the others.
        responses: of all of them.
    """

    recipes: Sequence[Recipe] = ()
    skills: SkillMatrix = skill_matrix.EMPTY
    gibberish: Sequence[str] = ()
    responses: Sequence[Response] = ()


def _grow(
    context: RunContext,
    clock: Timer,
    proposed: Sequence[Recipe],
    tasks: Sequence[Task],
    filter_key: jax.Array,
) -> _Grown:
    """Makes children from their recipes and lets each answer every task, group by group.

    A group fetches the parents of its next child while one answers. What is left on the devices is
    in the store, and within the store's budget.
    """
    wanted, made = {recipe.id: recipe for recipe in proposed}, dict[str, Recipe]()
    laps = [Timer() for _ in context.evaluator.groups.local]

    def make(name: str, group: int) -> Params:
        lap = laps[group].lap
        lap("answers")  # of the child before
        parents = [context.store.get(parent, group) for parent in wanted[name].parents]
        jax.block_until_ready(parents)
        lap("store")
        weights, made[name] = make_child(
            wanted[name], context.bases[group], parents, context.operators.group_of, lap
        )
        context.store.put(made[name], weights, group)
        lap("store")
        return weights

    def prefetch(names: Sequence[str], group: int) -> None:
        parents = [parent for name in names for parent in wanted[name].parents]
        context.store.prefetch(parents, group)

    found = _evaluate(context, clock, list(wanted), make, prefetch, tasks)
    for part in _MAKING:
        clock.add(f"{part}_s", sum(lap.seconds(part) for lap in laps) / len(laps))
    recipes = replicate.all_recipes(made)
    dropped = multihost.broadcast(_gibberish(context, found, tasks, filter_key))
    return _Grown(
        [recipes[name] for name in wanted],
        _skills(context, found, without=dropped),
        dropped,
        found.responses,
    )


def _evaluate(
    context: RunContext,
    clock: Timer,
    names: Sequence[str],
    weights: Weights,
    prefetch: Prefetch,
    tasks: Sequence[Task],
) -> Evaluation:
    """Greedy answers of members, and their scores."""
    found = evaluate_members(context.evaluator, names, weights, tasks, prefetch=prefetch)
    clock.add("decode_s", found.decode_s)
    clock.add("scoring_s", found.scoring_s)
    return found


def _skills(context: RunContext, found: Evaluation, without: Sequence[str]) -> SkillMatrix:
    names = [name for name in found.members if name not in without]
    skills = found.skills(context.config.tasks.skill_threshold)
    return skill_matrix.take(skills, names, found.tasks)


def _answers(
    context: RunContext, clock: Timer, members: Sequence[str], tasks: Sequence[Task]
) -> tuple[SkillMatrix, list[Response]]:
    """Skills and responses of members that are in the store."""
    if not tasks:
        return skill_matrix.EMPTY, []
    store = context.store
    found = _evaluate(context, clock, members, store.get, store.prefetch, tasks)
    return _skills(context, found, without=()), list(found.responses)


def _gibberish(
    context: RunContext, found: Evaluation, tasks: Sequence[Task], key: jax.Array
) -> list[str]:
    """Members that no longer speak, judged on a few random responses of each (paper §3.1).

    The first process asks; only it has everybody's responses.
    """
    if not context.config.evolve.gibberish_filter or not multihost.is_first():
        return []
    asked = {task.id: task.instructions for task in tasks}
    shown_of = []
    for m, member in enumerate(found.members):
        own = [response for response in found.responses if response.member == member]
        rng = host_rng(jax.random.fold_in(key, m))
        shown = rng.choice(len(own), min(_SHOWN_RESPONSES, len(own)), replace=False)
        shown_of.append([(asked[own[i].task][own[i].instance], own[i].text) for i in shown])

    async def judge_all() -> list[bool]:
        return await gather(
            context.task_generator.scientist.is_gibberish(shown) for shown in shown_of
        )

    verdicts = context.portal.call(judge_all)
    return [member for member, verdict in zip(found.members, verdicts, strict=True) if verdict]


def _start_adapting(
    context: RunContext, state: State, key: jax.Array, generation: int
) -> Future[PoolUpdate]:
    """Adapts the tasks to an archive, beside whatever this thread does next."""
    return context.portal.start_task_soon(
        adapt_pool,
        context.task_generator,
        state.library,
        state.pool,
        skill_matrix.pass_rates(state.skills),
        key,
        generation,
    )


def _asked_again(context: RunContext, clock: Timer, state: State) -> tuple[State, list[Response]]:
    """Scores that the infrastructure owes the archive, had now if it has recovered."""
    owed = (state.skills.values == skill_matrix.MISSING).any(0)
    names = [task for task, missing in zip(state.skills.tasks, owed, strict=True) if missing]
    tasks = [state.library.tasks[name] for name in names]
    met, responses = _answers(context, clock, state.archive, tasks)
    skills = skill_matrix.join(state.skills, met)
    skills = skill_matrix.take(skills, state.archive, state.skills.tasks)
    return dataclasses.replace(state, skills=skills), responses


def _update_archive(
    context: RunContext,
    state: State,
    skills: SkillMatrix,
    recipes: Mapping[str, Recipe],
) -> tuple[State, dict[str, float]]:
    """The archive and new members compete; returns also every candidate's novelty."""
    candidates = skill_matrix.join(state.skills, skills)
    all_recipes = {**state.recipes, **recipes}
    try:
        selected = dns.select(
            candidates.values,
            context.config.run.population,
            births=[all_recipes[name].generation for name in candidates.members],
            ids=candidates.members,
            options=context.config.evolve.to_selection(),
        )
    except ValueError as error:
        raise AcdcError(str(error)) from error
    kept = tuple(candidates.members[i] for i in selected.indices)
    replicate.adopt(context, kept, all_recipes)
    state = dataclasses.replace(
        state,
        archive=kept,
        recipes={name: all_recipes[name] for name in kept},
        skills=skill_matrix.take(candidates, kept, candidates.tasks),
    )
    return state, dict(zip(candidates.members, selected.novelty.tolist(), strict=True))


def _rewards(
    context: RunContext, names: Sequence[str], skills: SkillMatrix, novelty: Mapping[str, float]
) -> list[float]:
    """What the strategy maximises; a child that was dropped gets the least there is."""
    if context.config.evolve.strategy_reward == "novelty":
        return [novelty.get(name, 0.0) for name in names]
    fitness = dict(zip(skills.members, dns.fitness(skills.values).tolist(), strict=True))
    return [fitness.get(name, 0.0) for name in names]


def _finish(
    context: RunContext,
    state: State,
    recipes: Mapping[str, Recipe],
    gibberish: Sequence[str],
    novelty: Mapping[str, float],
    responses: Sequence[Response],
    rejections: Sequence[Rejection],
    clock: Timer,
) -> tuple[State, Record]:
    """Decides what stays on disk, and writes down what the generation did."""
    if state.generation % context.config.run.keep_every == 0:
        state = dataclasses.replace(state, kept={**state.kept, state.generation: state.archive})
    costs = context.task_generator.scientist.costs()
    written = sum(
        task.generation == state.generation and task.draft.kind != "seed"
        for task in state.library.tasks.values()
    )
    solved = state.skills.values == skill_matrix.SOLVED
    fitness = dns.fitness(state.skills.values)
    times = {"decode_s": 0.0, "scoring_s": 0.0} | clock.metrics()
    tokens = sum(response.tokens for response in responses)
    metrics = {
        "fitness_best": float(fitness.max()),
        "fitness_mean": float(fitness.mean()),
        "coverage_archive": coverage(solved),
        "coverage_3": coverage(solved[list(greedy(solved, 3))]),
        "active_tasks": len(state.pool.active),
        "new_tasks": sum(
            state.library.tasks[task].generation == state.generation for task in state.pool.active
        ),
        "limbo": len(state.pool.limbo),
        "new_members": sum(name in recipes for name in state.archive),
        "gibberish": len(gibberish),
        "rejected_drafts": len(rejections),
        "missing_scores": sum(response.score is None for response in responses),
        "responses": len(responses),
        "tokens": tokens,
        "tokens_per_s": round(tokens / max(times["decode_s"], 1e-3), 1),
        **costs,
        **cost_per_task(costs, written),
        **times,
    }
    record = Record(list(recipes.values()), gibberish, novelty, responses, rejections, metrics)
    return state, record
