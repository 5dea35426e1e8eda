"""AC/DC, Algorithm 1: an archive of language models and a pool of tasks evolve together.

`init` makes generation 0, `step` each later one, and `run` all generations of a run. Every random
choice has a key folded from the run's seed and the generation, so that a resumed run decides as an
uninterrupted one does. `Generation` handles devices and processes.

Source: Dai et al., "Discovering Novel LLM Experts via Task-Capability Coevolution",
arXiv 2604.14969, §3 and Algorithm 1.
"""

from collections.abc import Iterator
from dataclasses import replace

import jax

from acdc_jax.evolution import dns
from acdc_jax.evolution import skills as skill_matrix
from acdc_jax.evolution.evosax_strategy import es_init, es_tell
from acdc_jax.evolution.operators import Proposed, propose_children
from acdc_jax.runtime.background_commit import BackgroundCommits
from acdc_jax.runtime.breed import member_id
from acdc_jax.runtime.generation import Generation, Offspring
from acdc_jax.runtime.profile import profile_generation
from acdc_jax.runtime.setup import RunContext
from acdc_jax.runtime.state import Record, State

_SPARE_CHILDREN = 8  # tried in generation 0, so that dropped ones leave no gap in the archive


def run(
    context: RunContext, commits: BackgroundCommits, state: State | None = None
) -> Iterator[tuple[State, Record]]:
    """Yield the state and the record of one generation after the other, while each is committed.

    Args:
        context: What the run works with.
        commits: Writes the generations to the run directory.
        state: The state to resume from; None for a new run.

    Raises:
        Preempted: SIGTERM was received, and all finished generations are committed.
    """
    start = state.generation if state else 0
    while state is None or state.generation < context.config.run.generations:
        if state is not None:
            commits.stop_if_preempted(state.generation)
        generation = Generation(context, state.generation + 1 if state else 0)
        with profile_generation(context.config.run, generation.number, start):
            state = step(generation, state) if state else init(generation)
        state, record = generation.finish(state)
        commits.begin(state, record)
        yield state, record


def init(generation: Generation) -> State:
    """Return generation 0: the first tasks, the seeds, and children of the seeds.

    The seeds are the first archive. The gibberish filter does not apply to them.
    """
    task_key, child_key, filter_key, strategy_key = generation.split_key(4)
    seeds = generation.load_seeds()
    library, pool = generation.create_pool(task_key)
    tasks = [library.tasks[task] for task in pool.active]
    skills, _ = generation.evaluate(generation.stored(tuple(seeds)), tasks)
    state = State(0, tuple(seeds), seeds, skills, pool, library)

    # Reproduce until there are enough members, or too many children were dropped.
    offspring, size = Offspring(), generation.config.run.init_population
    while (
        len(offspring.dropped) <= _SPARE_CHILDREN
        and (missing := size - len(seeds) - len(offspring.skills.members)) > 0
    ):
        first = len(seeds) + len(offspring.recipes)
        keys = jax.random.fold_in(child_key, first), jax.random.fold_in(filter_key, first)
        children, _ = reproduce(generation, state, *keys, first=first, limit=missing)
        offspring += children
        generation.progress("first members", len(seeds) + len(offspring.skills.members), size)
    state = select(generation, state, offspring)
    strategy = generation.operators.strategy
    return replace(state, strategy=es_init(strategy, strategy_key) if strategy else None)


def step(generation: Generation, state: State) -> State:
    """Return the state after one more generation."""
    child_key, filter_key, strategy_key, adapt_key = generation.split_key(4)
    generation.adapt_ahead(state, adapt_key)
    offspring, proposed = reproduce(generation, state, child_key, filter_key)
    state = select(generation, state, offspring)
    state = tell_strategy(generation, state, offspring, proposed, strategy_key)
    if generation.adapts_tasks:
        state = adapt_tasks(generation, state, adapt_key)
    return generation.discard_unscored_tasks(state)


def reproduce(
    generation: Generation,
    state: State,
    child_key: jax.Array,
    filter_key: jax.Array,
    first: int = 0,
    limit: int | None = None,
) -> tuple[Offspring, Proposed]:
    """Propose, breed and evaluate children (§3.1).

    Children with weights or logits that are not finite are dropped, and those that write gibberish.

    Args:
        generation: The current generation.
        state: The state before, with the archive of possible parents and the active tasks.
        child_key: PRNG key of parents, coefficients, merges and mutations.
        filter_key: PRNG key of the responses that the gibberish filter reads.
        first: Number of the first child.
        limit: Breed at most this many of the proposed children.
    """
    proposed = propose_children(
        generation.operators,
        state.archive,
        dns.fitness(state.skills.values),
        [member_id(generation.number, first + c) for c in range(generation.config.run.children)],
        generation.number,
        child_key,
        state.strategy,
    )
    children = generation.breed(proposed.recipes[:limit])  # merge, then mutate
    skills, responses = generation.evaluate(children, state.active_tasks)
    recipes = generation.collect_recipes(children)
    non_finite = generation.find_non_finite(children, skills.members)
    gibberish = generation.find_gibberish(skills.members, responses, state.active_tasks, filter_key)
    others = [name for name in skills.members if name not in gibberish]
    skills = skill_matrix.take(skills, others, skills.tasks)
    return Offspring(recipes, skills, tuple(gibberish), tuple(non_finite)), proposed


def select(generation: Generation, state: State, offspring: Offspring) -> State:
    """Let archive and offspring compete: dominated novelty search over their skills (§3.4).

    Scores that the archive lacks are asked for again first. Candidates are compared on the tasks
    for which each has a score.
    """
    state = generation.retry_missing_scores(state)
    candidates = generation.join_candidates(state.skills, offspring.skills)
    recipes = {**state.recipes, **offspring.recipes}
    with jax.profiler.TraceAnnotation("select"):
        selected = dns.select(
            candidates.values,
            generation.config.run.population,
            births=[recipes[name].generation for name in candidates.members],
            ids=candidates.members,
            options=generation.config.selection,
        )
    generation.novelty = dict(zip(candidates.members, selected.novelty.tolist(), strict=True))
    generation.fitness = dict(zip(candidates.members, selected.fitness.tolist(), strict=True))
    archive = tuple(candidates.members[i] for i in selected.indices)
    generation.adopt(archive, recipes)
    return replace(
        state,
        generation=generation.number,
        archive=archive,
        recipes={name: recipes[name] for name in archive},
        skills=skill_matrix.take(candidates, archive, candidates.tasks),
    )


def tell_strategy(
    generation: Generation,
    state: State,
    offspring: Offspring,
    proposed: Proposed,
    key: jax.Array,
) -> State:
    """Tell the evosax strategy, if one proposed the coefficients, how the children did."""
    strategy = generation.operators.strategy
    if strategy is None or proposed.learnt is None or proposed.solutions is None:
        return state
    rewards = generation.rewards(offspring)
    if rewards is None:
        return state
    learnt = es_tell(strategy, key, proposed.learnt, proposed.solutions, rewards)
    return replace(state, strategy=learnt)


def adapt_tasks(generation: Generation, state: State, key: jax.Array) -> State:
    """Adapt the tasks to what the archive solves, and evaluate it on the new ones (§3.3)."""
    library, pool = generation.adapt_pool(state, key)
    tasks = [library.tasks[task] for task in pool.active]
    new_tasks = [task for task in tasks if task.id not in state.skills.tasks]
    skills, _ = generation.evaluate(generation.stored(state.archive), new_tasks, tasks)
    skills = skill_matrix.take(skill_matrix.join(state.skills, skills), state.archive, pool.active)
    return replace(state, pool=pool, library=library, skills=skills)
