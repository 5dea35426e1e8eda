"""How the scientist's drafts enter the pool: the first ones, and those of each adaptation."""

from collections.abc import Callable, Mapping, Sequence

import jax

from acdc_jax.config import TaskConfig
from acdc_jax.errors import AcdcError
from acdc_jax.evolve.propose import host_rng
from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks import pool as task_pool
from acdc_jax.tasks.library import Library, Rejection, admit
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.scientist import Scientist
from acdc_jax.tasks.task import Draft, Kind, Task

Wishes = Sequence[tuple[Kind, Task | None]]
Growth = tuple[Library, Pool, list[Rejection]]


def first_tasks(
    flags: TaskConfig,
    families: Sequence[Draft],
    scientist: Scientist,
    sandbox: Sandbox,
    key: jax.Array,
    progress: Callable[[int], None],
) -> Growth:
    """Grows the first pool from the seed families in micro-batches (paper §3.2).

    A parent is drawn uniformly from the seed families and what was accepted so far; with
    `novel_probability` the scientist is asked for something unrelated, else for something inspired
    by it, until `initial_tasks` drafts are written or `max_tasks` tasks are active.

    Args:
        flags: thresholds and sizes.
        families: seed task families; they are the first tasks.
        scientist: who writes.
        sandbox: where drafts are tried.
        key: PRNG key of the first pool.
        progress: told the number of drafts written so far.

    Returns:
        Library, pool, and the drafts that were rejected.

    Raises:
        AcdcError: a seed family is not valid.
    """
    library, tasks, rejections = admit(
        Library(),
        families,
        sandbox,
        generation=0,
        next_id=0,
        novelty_threshold=1.0,  # seed families are given, not invented
        skill_threshold=flags.skill_threshold,
    )
    if rejections:
        raise AcdcError(f"seed task family {rejections[0].name}: {rejections[0].reason}")
    pool = task_pool.prune(task_pool.add_tasks(Pool(), tasks), flags.max_tasks)
    drafted = 0
    while (room := min(flags.initial_tasks - drafted, flags.max_tasks - len(pool.active))) > 0:
        wish_key, write_key = jax.random.split(jax.random.fold_in(key, drafted))
        rng = host_rng(wish_key)
        wishes: list[tuple[Kind, Task | None]] = []
        for _ in range(min(flags.micro_batch, room)):
            parent = library.tasks[pool.active[int(rng.integers(len(pool.active)))]]
            novel = rng.random() < flags.novel_probability
            wishes.append(("novel" if novel else "inspired", parent))
        library, pool, rejected = _write(
            flags, library, pool, wishes, scientist, sandbox, write_key, generation=0
        )
        rejections += rejected
        drafted += len(wishes)
        progress(drafted)
    return library, pool, rejections


def adapted_tasks(
    flags: TaskConfig,
    library: Library,
    pool: Pool,
    pass_rates: Mapping[str, float],
    scientist: Scientist,
    sandbox: Sandbox,
    key: jax.Array,
    generation: int,
) -> Growth:
    """Adapts the pool to what the archive can do (paper §3.3).

    Limbo settles, impossible tasks leave, new tasks are written from uniformly drawn parents (easy
    → harder, hard or impossible → easier, medium → novel or related), and the oldest go.

    Args:
        flags: thresholds and sizes.
        library: every task there ever was.
        pool: what is active.
        pass_rates: active task id → share of the archive that solves it.
        scientist: who writes.
        sandbox: where drafts are tried.
        key: PRNG key of this adaptation.
        generation: the current generation.

    Returns:
        Library, pool, and the drafts that were rejected.
    """
    wish_key, write_key = jax.random.split(key)
    pool = task_pool.settle_limbo(pool, pass_rates)
    if flags.discard_impossible:
        pool = task_pool.discard_impossible(pool, pass_rates)
    wishes = task_pool.draw_wishes(
        pool,
        pass_rates,
        flags.new_tasks,
        easy_threshold=flags.easy_threshold,
        hard_threshold=flags.hard_threshold,
        novel_probability=flags.novel_probability,
        rng=host_rng(wish_key),
    )
    asked = [(wish.kind, library.tasks[wish.parent]) for wish in wishes]
    library, pool, rejections = _write(
        flags, library, pool, asked, scientist, sandbox, write_key, generation
    )
    return library, task_pool.prune(pool, flags.max_tasks), rejections


def _write(
    flags: TaskConfig,
    library: Library,
    pool: Pool,
    wishes: Wishes,
    scientist: Scientist,
    sandbox: Sandbox,
    key: jax.Array,
    generation: int,
) -> Growth:
    """Asks for one draft per wish and adds those that are valid and new."""
    context = list(library.tasks.values())
    drafts: list[Draft] = []
    silent: list[Rejection] = []
    for i, (kind, parent) in enumerate(wishes):
        draft = scientist.propose(kind, parent, context, jax.random.fold_in(key, i))
        if draft is None:
            name = parent.id if parent else None
            silent.append(Rejection(kind, name, "", "the scientist has nothing new to offer"))
        else:
            drafts.append(draft)
            context.append(Task(f"draft {i}", draft, generation, {}, {}))
    library, tasks, rejected = admit(
        library,
        drafts,
        sandbox,
        generation=generation,
        next_id=pool.next_id,
        novelty_threshold=flags.novelty_threshold,
        skill_threshold=flags.skill_threshold,
    )
    return library, task_pool.add_tasks(pool, tasks), silent + rejected
