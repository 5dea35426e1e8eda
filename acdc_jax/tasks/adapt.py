"""How the scientist's drafts enter the pool: the first ones, and those of each adaptation."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax

from acdc_jax.config import TaskConfig
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.propose import host_rng
from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks import pool as task_pool
from acdc_jax.tasks.library import Curator, Library, admit
from acdc_jax.tasks.llm import gathered
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.scientist import Candidate, Rejection, Scientist, Wish
from acdc_jax.tasks.task import Draft
from acdc_jax.tasks.validate import Accepted, Rejected, check_draft

Growth = tuple[Library, Pool, list[Rejection]]

_JUDGED = "eval_with_llm_judge"


@dataclasses.dataclass(frozen=True)
class Workshop:
    """Where tasks are made.

    Attributes:
        flags: thresholds and sizes.
        scientist: who writes.
        curator: decides what is new.
        sandbox: where drafts are tried.
        tokens: instructions → tokens of a member's prompt.
        room: tokens of the longest prompt that members can answer.
    """

    flags: TaskConfig
    scientist: Scientist
    curator: Curator
    sandbox: Sandbox
    tokens: Callable[[str], Sequence[int]]
    room: int

    async def check(self, draft: Draft) -> Accepted | Rejected:
        """Tries a draft."""
        verdict = await check_draft(draft, self.sandbox, self.flags.skill_threshold)
        if isinstance(verdict, Accepted):
            try:
                longest = max(len(self.tokens(text)) for text in verdict.instructions.values())
            except AcdcError as error:  # it spells a token that members do not have
                return Rejected(str(error))
            if longest > self.room:
                return Rejected(
                    f"the instructions take {longest} tokens, but the members' window leaves room "
                    f"for {self.room}"
                )
        return verdict


async def first_tasks(
    shop: Workshop, families: Sequence[Draft], key: jax.Array, progress: Callable[[int], None]
) -> Growth:
    """Grows the first pool from the seed families in micro-batches (paper §3.2).

    A parent is drawn uniformly from the seed families and what was accepted so far; with
    `novel_probability` the scientist is asked for something unrelated, else for something inspired
    by it, until `initial_tasks` drafts are written or `max_tasks` tasks are active.

    Args:
        shop: where.
        families: seed task families; they are the first tasks.
        key: PRNG key of the first pool.
        progress: told the number of drafts written so far.

    Returns:
        Library, pool, and the drafts that were rejected: among them the judged seed families that
        this judge does not judge rightly.

    Raises:
        AcdcError: a seed family is not valid.
    """
    flags = shop.flags
    library, pool, rejections = await _seed_tasks(shop, families)
    drafted = 0
    while (room := min(flags.initial_tasks - drafted, flags.max_tasks - len(pool.active))) > 0:
        wish_key, write_key = jax.random.split(jax.random.fold_in(key, drafted))
        rng = host_rng(wish_key)
        wishes: list[Wish] = []
        for _ in range(min(flags.micro_batch, room)):
            parent = library.tasks[pool.active[int(rng.integers(len(pool.active)))]]
            novel = rng.random() < flags.novel_probability
            wishes.append(Wish("novel" if novel else "inspired", parent))
        library, pool, rejected = await _write(shop, library, pool, wishes, write_key, 0)
        rejections += rejected
        drafted += len(wishes)
        progress(drafted)
    return library, pool, rejections


async def adapted_tasks(
    shop: Workshop,
    library: Library,
    pool: Pool,
    pass_rates: Mapping[str, float],
    key: jax.Array,
    generation: int,
) -> Growth:
    """Adapts the pool to what the archive can do (paper §3.3).

    Limbo settles, impossible tasks leave, new tasks are written from uniformly drawn parents (easy
    → harder, hard or impossible → easier, medium → novel or related), and the oldest go.

    Args:
        shop: where.
        library: every task there ever was.
        pool: what is active.
        pass_rates: active task id → share of the archive that solves it.
        key: PRNG key of this adaptation.
        generation: the current generation.

    Returns:
        Library, pool, and the drafts that were rejected.
    """
    flags = shop.flags
    wish_key, write_key = jax.random.split(key)
    pool = task_pool.settle_limbo(pool, pass_rates)
    if flags.discard_impossible:
        pool = task_pool.discard_impossible(pool, pass_rates)
    drawn = task_pool.draw_wishes(
        pool,
        pass_rates,
        flags.new_tasks,
        easy_threshold=flags.easy_threshold,
        hard_threshold=flags.hard_threshold,
        novel_probability=flags.novel_probability,
        rng=host_rng(wish_key),
    )
    wishes = [Wish(kind, library.tasks[parent]) for kind, parent in drawn]
    library, pool, rejections = await _write(shop, library, pool, wishes, write_key, generation)
    return library, task_pool.prune(pool, flags.max_tasks), rejections


async def _seed_tasks(shop: Workshop, families: Sequence[Draft]) -> Growth:
    """The seed families as the first tasks; they are given, not invented, so none is too similar.

    Raises:
        AcdcError: a family that computes its scores is not valid, or none is.
    """
    verdicts = await gathered(shop.check(draft) for draft in families)
    candidates: list[Candidate | Rejection] = []
    for draft, verdict in zip(families, verdicts, strict=True):
        if isinstance(verdict, Accepted):
            candidates.append(Candidate(draft, verdict))
        elif _JUDGED in draft.source:
            candidates.append(Rejection(draft.kind, None, draft.name, verdict.reason, draft.source))
        else:
            raise AcdcError(f"seed task family {draft.name}: {verdict.reason}")
    given = Curator(shop.curator.memory, threshold=1.0)
    library, tasks, rejections = await admit(Library(), candidates, given, generation=0, next_id=0)
    if not tasks:
        raise AcdcError(f"no seed task family is valid: {rejections[0].reason}")
    pool = task_pool.prune(task_pool.add_tasks(Pool(), tasks), shop.flags.max_tasks)
    return library, pool, rejections


async def _write(
    shop: Workshop,
    library: Library,
    pool: Pool,
    wishes: Sequence[Wish],
    key: jax.Array,
    generation: int,
) -> Growth:
    """Asks for one draft per wish and adds those that are valid and new."""
    known = list(library.tasks.values())
    shown = [library.tasks[task] for task in pool.active]
    candidates = await shop.scientist.write(wishes, known, shown, shop.check, key)
    library, tasks, rejections = await admit(
        library, candidates, shop.curator, generation=generation, next_id=pool.next_id
    )
    return library, task_pool.add_tasks(pool, tasks), rejections
