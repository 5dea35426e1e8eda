"""AC/DC, top to bottom: two populations, one generation at a time (paper §3, Algorithm 1).

Every decision draws from a key of its own, folded from the run's seed and the generation, so that
a resumed run decides as an uninterrupted one would have.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from acdc_jax import checkpoint
from acdc_jax.checkpoint import Manifest
from acdc_jax.clock import Clock
from acdc_jax.evaluate import skills as skill_matrix
from acdc_jax.evaluate.respond import Evaluation, Response, evaluate
from acdc_jax.evaluate.skills import SkillMatrix
from acdc_jax.evaluate.taskforce import coverage, greedy
from acdc_jax.evolve import archive
from acdc_jax.evolve.children import make_children, member_id, seed_recipe
from acdc_jax.evolve.population import in_populations, member_of
from acdc_jax.evolve.propose import host_rng
from acdc_jax.evolve.recipe import Recipe
from acdc_jax.evolve.strategy import es_init, es_tell
from acdc_jax.model.transformer import Weights
from acdc_jax.state import Record, State
from acdc_jax.tasks.grow import adapted_tasks, first_tasks
from acdc_jax.tasks.library import Rejection
from acdc_jax.tasks.task import Task
from acdc_jax.world import World

_SPARE_CHILDREN = 8  # tried in generation 0, so that rejected children leave no gap
_SHOWN_RESPONSES = 3  # that the gibberish filter looks at


# ---------------------------------------------------------------------------------------- the run


def evolve(
    world: World, manifest: Manifest, report: Callable[[State, Record], None]
) -> tuple[Manifest, State]:
    """Runs generations until there are as many as the flags ask for, committing each.

    Args:
        world: what the run works with.
        manifest: the commit point to go on from.
        report: told about every generation.

    Returns:
        The last commit point and its state.
    """
    run_dir = Path(world.config.run.run_dir)
    if manifest.generation < 0:
        state, record = first_generation(world)
        manifest = checkpoint.commit(run_dir, manifest, state, record)
        report(state, record)
    else:
        state = checkpoint.restore(run_dir, manifest, world.shapes, world.operators.strategy)
    while state.generation < world.config.run.generations:
        state, record = next_generation(world, state)
        manifest = checkpoint.commit(run_dir, manifest, state, record)
        report(state, record)
    return manifest, state


def first_generation(world: World) -> tuple[State, Record]:
    """The first tasks, the seeds as they are, and children of seeds."""
    clock, run = Clock(), world.config.run
    task_key, child_key, filter_key, strategy_key = jax.random.split(_key(world, 0), 4)

    # -- tasks: grown from the seed families
    library, pool, rejections = first_tasks(
        world.config.tasks,
        world.families,
        world.scientist,
        world.sandbox,
        task_key,
        lambda drafted: world.progress("first tasks", drafted, world.config.tasks.initial_tasks),
    )
    tasks = [library.tasks[task] for task in pool.active]
    clock.lap("tasks")

    # -- seeds: as they are, whatever they say
    skills, responses = _answers(world, world.seeds, tasks)
    weights = dict(world.seeds)
    recipes: dict[str, Recipe] = {name: seed_recipe(name) for name in weights}

    # -- children of seeds: until the population is full or the spare ones are used up
    gibberish: list[str] = []
    first, spare = len(weights), _SPARE_CHILDREN if world.config.evolve.gibberish_filter else 0
    while (wanted := run.init_population - len(weights)) > 0 and len(gibberish) <= spare:
        made = len(recipes) + len(gibberish)
        names = [member_id(0, made + c) for c in range(run.children)]
        key = jax.random.fold_in(child_key, made)
        seed_fitness = archive.fitness(skills.values[:first])
        children = make_children(
            world.operators, world.base, world.seeds, seed_fitness, names, 0, key
        )
        found = _evaluate(world, children.weights, names[:wanted], tasks)
        dropped = _gibberish(world, found, tasks, jax.random.fold_in(filter_key, made))
        skills = skill_matrix.join(skills, _skills(world, found, without=dropped))
        for c, name in enumerate(names[:wanted]):
            if name not in dropped:
                weights[name] = member_of(children.weights, c)
                recipes[name] = children.recipes[name]
        responses += found.responses
        gibberish += dropped
        world.progress("first members", len(weights), run.init_population)
    clock.lap("members")

    # -- archive: the best of them, where there are more than it holds
    strategy = world.operators.strategy
    state = State(
        generation=0,
        archive=(),
        recipes={},
        weights={},
        skills=SkillMatrix((), tuple(pool.active), np.zeros((0, len(pool.active)), np.int8)),
        pool=pool,
        library=library,
        strategy=es_init(strategy, strategy_key) if strategy else None,
        kept={},
    )
    state, novelty = _update_archive(world, state, skills, recipes, weights)
    clock.lap("archive")
    return _finish(world, state, recipes, gibberish, novelty, responses, rejections, clock)


def next_generation(world: World, state: State) -> tuple[State, Record]:
    """Propose, evaluate, filter, update the archive, adapt the tasks."""
    clock, generation = Clock(), state.generation + 1
    child_key, filter_key, strategy_key, adapt_key = jax.random.split(_key(world, generation), 4)
    tasks = [state.library.tasks[task] for task in state.pool.active]

    # -- propose: crossover, then mutation
    names = [member_id(generation, c) for c in range(world.config.run.children)]
    members = {name: state.weights[name] for name in state.archive}
    children = make_children(
        world.operators,
        world.base,
        members,
        archive.fitness(state.skills.values),
        names,
        generation,
        child_key,
        state.strategy,
    )

    # -- evaluate: each child on every active task
    found = _evaluate(world, children.weights, names, tasks)

    # -- filter gibberish
    dropped = _gibberish(world, found, tasks, filter_key)
    skills = _skills(world, found, without=dropped)
    fluent = {
        name: member_of(children.weights, c) for c, name in enumerate(names) if name not in dropped
    }
    clock.lap("members")

    # -- update the archive, and tell the strategy how its children did
    state = dataclasses.replace(state, generation=generation)
    state, novelty = _update_archive(world, state, skills, children.recipes, fluent)
    if world.operators.strategy and state.strategy and children.solutions is not None:
        rewards = _rewards(world, names, skills, novelty)
        learnt = es_tell(
            world.operators.strategy, strategy_key, state.strategy, children.solutions, rewards
        )
        state = dataclasses.replace(state, strategy=learnt)
    clock.lap("archive")

    # -- adapt the tasks, and evaluate the archive on the new ones
    responses, rejections = list(found.responses), list[Rejection]()
    interval = world.config.tasks.task_interval
    if interval and generation % interval == 0:
        library, pool, rejections = adapted_tasks(
            world.config.tasks,
            state.library,
            state.pool,
            skill_matrix.pass_rates(state.skills),
            world.scientist,
            world.sandbox,
            adapt_key,
            generation,
        )
        clock.lap("tasks")
        unmet = [library.tasks[task] for task in pool.active if task not in state.skills.tasks]
        met, answers = _answers(world, state.weights, unmet)
        skills = skill_matrix.take(skill_matrix.join(state.skills, met), state.archive, pool.active)
        state = dataclasses.replace(state, pool=pool, library=library, skills=skills)
        responses += answers
        clock.lap("tasks_answered")

    return _finish(world, state, children.recipes, dropped, novelty, responses, rejections, clock)


# ---------------------------------------------------------------------------------------- its parts


def _key(world: World, generation: int) -> jax.Array:
    """The key from which all decisions of a generation are split."""
    return jax.random.fold_in(jax.random.key(world.config.run.seed), generation)


def _evaluate(
    world: World, population: Weights, names: Sequence[str], tasks: Sequence[Task]
) -> Evaluation:
    """Greedy answers of stacked members, and their scores."""
    return evaluate(
        world.engine,
        world.sandbox,
        population,
        names,
        tasks,
        instances_per_task=world.config.tasks.instances_per_task,
    )


def _skills(world: World, found: Evaluation, without: Sequence[str]) -> SkillMatrix:
    names = [name for name in found.members if name not in without]
    skills = found.skills(world.config.tasks.skill_threshold)
    return skill_matrix.take(skills, names, found.tasks)


def _answers(
    world: World, weights: Mapping[str, Weights], tasks: Sequence[Task]
) -> tuple[SkillMatrix, list[Response]]:
    """Skills and responses of members whose weights are not stacked."""
    skills, responses = SkillMatrix((), (), np.zeros((0, 0), np.int8)), list[Response]()
    if tasks:
        for names, population in in_populations(list(weights), weights, world.config.run.children):
            found = _evaluate(world, population, names, tasks)
            skills = skill_matrix.join(skills, _skills(world, found, without=()))
            responses += found.responses
    return skills, responses


def _gibberish(world: World, found: Evaluation, tasks: Sequence[Task], key: jax.Array) -> list[str]:
    """Members that no longer speak, judged on a few random responses of each (paper §3.1)."""
    if not world.config.evolve.gibberish_filter:
        return []
    asked = {task.id: task.instructions for task in tasks}
    dropped = []
    for m, member in enumerate(found.members):
        own = [response for response in found.responses if response.member == member]
        rng = host_rng(jax.random.fold_in(key, m))
        shown = rng.choice(len(own), min(_SHOWN_RESPONSES, len(own)), replace=False)
        replies = [(asked[own[i].task][own[i].instance], own[i].text) for i in shown]
        if world.scientist.is_gibberish(replies):
            dropped.append(member)
    return dropped


def _update_archive(
    world: World,
    state: State,
    skills: SkillMatrix,
    recipes: Mapping[str, Recipe],
    weights: Mapping[str, Weights],
) -> tuple[State, dict[str, float]]:
    """The archive and new members compete; returns also every candidate's novelty."""
    candidates = skill_matrix.join(state.skills, skills)
    all_recipes, all_weights = {**state.recipes, **recipes}, {**state.weights, **weights}
    selected = archive.select(
        candidates.values,
        [all_recipes[name].generation for name in candidates.members],
        candidates.members,
        world.config.evolve.to_selection(world.config.run.population),
    )
    kept = tuple(candidates.members[i] for i in selected.indices)
    state = dataclasses.replace(
        state,
        archive=kept,
        recipes={name: all_recipes[name] for name in kept},
        weights={name: all_weights[name] for name in kept},
        skills=skill_matrix.take(candidates, kept, candidates.tasks),
    )
    return state, dict(zip(candidates.members, selected.novelty.tolist(), strict=True))


def _rewards(
    world: World, names: Sequence[str], skills: SkillMatrix, novelty: Mapping[str, float]
) -> list[float]:
    """What the strategy maximises; a child that was dropped gets the least there is."""
    if world.config.evolve.strategy_reward == "novelty":
        return [novelty.get(name, 0.0) for name in names]
    fitness = dict(zip(skills.members, archive.fitness(skills.values).tolist(), strict=True))
    return [fitness.get(name, 0.0) for name in names]


def _finish(
    world: World,
    state: State,
    recipes: Mapping[str, Recipe],
    gibberish: Sequence[str],
    novelty: Mapping[str, float],
    responses: Sequence[Response],
    rejections: Sequence[Rejection],
    clock: Clock,
) -> tuple[State, Record]:
    """Decides what stays on disk, and writes down what the generation did."""
    if state.generation % world.config.run.keep_every == 0:
        state = dataclasses.replace(state, kept={**state.kept, state.generation: state.archive})
    solved = state.skills.values == skill_matrix.SOLVED
    fitness = archive.fitness(state.skills.values)
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
        **clock.metrics(),
    }
    record = Record(list(recipes.values()), gibberish, novelty, responses, rejections, metrics)
    return state, record
