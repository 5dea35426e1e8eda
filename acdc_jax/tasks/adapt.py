"""How the scientist's drafts enter the pool: the first ones, and those of each adaptation."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from acdc_jax.config import TaskConfig
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.propose import host_rng
from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks import pool as task_pool
from acdc_jax.tasks.library import Library, admit_drafts
from acdc_jax.tasks.llm import gather
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.scientist import Scientist, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection
from acdc_jax.tasks.validate import check_draft


class PoolUpdate(NamedTuple):
    """The tasks after the scientist has written new ones.

    Attributes:
        library: Every task so far.
        pool: The active tasks, and those in limbo.
        rejections: The drafts that did not become tasks.
    """

    library: Library
    pool: Pool
    rejections: list[Rejection]


_JUDGED = "eval_with_llm_judge"


@dataclasses.dataclass(frozen=True)
class TaskGenerator:
    """Where tasks are made.

    Attributes:
        flags: thresholds and sizes.
        scientist: who writes.
        novelty_filter: decides what is new.
        sandbox: where drafts are tried.
        tokens: instructions → tokens of a member's prompt.
        room: tokens of the longest prompt that members can answer.
    """

    flags: TaskConfig
    scientist: Scientist
    novelty_filter: NoveltyFilter
    sandbox: Sandbox
    tokens: Callable[[str], Sequence[int]]
    room: int

    async def check(self, draft: Draft) -> CheckedDraft | Rejection:
        """Tries a draft."""
        verdict = await check_draft(draft, self.sandbox, self.flags.skill_threshold)
        if isinstance(verdict, CheckedDraft):
            try:
                longest = max(len(self.tokens(text)) for text in verdict.instructions.values())
            except AcdcError as error:  # it spells a token that members do not have
                return Rejection.of_draft(draft, str(error))
            if longest > self.room:
                return Rejection.of_draft(
                    draft,
                    f"the instructions take {longest} tokens, but the members' window leaves room "
                    f"for {self.room}",
                )
        return verdict


async def create_pool(
    generator: TaskGenerator,
    families: Sequence[Draft],
    key: jax.Array,
    progress: Callable[[int], None],
) -> PoolUpdate:
    """Grows the first pool from the seed families in micro-batches (paper §3.2).

    A parent is drawn uniformly from the seed families and what was accepted so far; with
    `novel_probability` the scientist is asked for something unrelated, else for something inspired
    by it, until `initial_tasks` drafts are written or `max_tasks` tasks are active.

    Args:
        generator: where.
        families: seed task families; they are the first tasks.
        key: PRNG key of the first pool.
        progress: told the number of drafts written so far.

    Returns:
        Library, pool, and the drafts that were rejected: among them the judged seed families that
        this judge does not judge rightly.

    Raises:
        AcdcError: a seed family is not valid.
    """
    flags = generator.flags
    library, pool, rejections = await _seed_tasks(generator, families)
    drafted = 0
    while (room := min(flags.initial_tasks - drafted, flags.max_tasks - len(pool.active))) > 0:
        request_key, write_key = jax.random.split(jax.random.fold_in(key, drafted))
        rng = host_rng(request_key)
        requests: list[TaskRequest] = []
        for _ in range(min(flags.micro_batch, room)):
            parent = library.tasks[pool.active[int(rng.integers(len(pool.active)))]]
            novel = rng.random() < flags.novel_probability
            requests.append(TaskRequest("novel" if novel else "inspired", parent))
        library, pool, rejected = await _write(generator, library, pool, requests, write_key, 0)
        rejections += rejected
        drafted += len(requests)
        progress(drafted)
    return PoolUpdate(library, pool, rejections)


async def adapt_pool(
    generator: TaskGenerator,
    library: Library,
    pool: Pool,
    pass_rates: Mapping[str, float],
    key: jax.Array,
    generation: int,
) -> PoolUpdate:
    """Adapts the pool to what the archive can do (paper §3.3).

    Limbo settles, impossible tasks leave, new tasks are written from uniformly drawn parents (easy
    → harder, hard or impossible → easier, medium → novel or related), and the oldest go.

    Args:
        generator: where.
        library: every task there ever was.
        pool: what is active.
        pass_rates: active task id → share of the archive that solves it.
        key: PRNG key of this adaptation.
        generation: the current generation.

    Returns:
        Library, pool, and the drafts that were rejected.
    """
    flags = generator.flags
    request_key, write_key = jax.random.split(key)
    pool = task_pool.settle_limbo(pool, pass_rates)
    if flags.discard_impossible:
        pool = task_pool.discard_impossible(pool, pass_rates)
    drawn = task_pool.draw_requests(
        pool,
        pass_rates,
        flags.new_tasks,
        easy_threshold=flags.easy_threshold,
        hard_threshold=flags.hard_threshold,
        novel_probability=flags.novel_probability,
        rng=host_rng(request_key),
    )
    requests = [TaskRequest(kind, library.tasks[parent]) for kind, parent in drawn]
    library, pool, rejections = await _write(
        generator, library, pool, requests, write_key, generation
    )
    return PoolUpdate(library, task_pool.prune(pool, flags.max_tasks), rejections)


async def _seed_tasks(generator: TaskGenerator, families: Sequence[Draft]) -> PoolUpdate:
    """The seed families as the first tasks; they are given, not invented, so none is too similar.

    Raises:
        AcdcError: a family that computes its scores is not valid, or none is.
    """
    verdicts = await gather(generator.check(draft) for draft in families)
    for draft, verdict in zip(families, verdicts, strict=True):
        if isinstance(verdict, Rejection) and _JUDGED not in draft.source:
            raise AcdcError(f"seed task family {draft.name}: {verdict.reason}")
    given = NoveltyFilter(generator.novelty_filter.index, threshold=1.0)
    library, tasks, rejections = await admit_drafts(
        Library(), verdicts, given, generation=0, next_id=0
    )
    if not tasks:
        raise AcdcError(f"no seed task family is valid: {rejections[0].reason}")
    pool = task_pool.prune(task_pool.add_tasks(Pool(), tasks), generator.flags.max_tasks)
    return PoolUpdate(library, pool, rejections)


async def _write(
    generator: TaskGenerator,
    library: Library,
    pool: Pool,
    requests: Sequence[TaskRequest],
    key: jax.Array,
    generation: int,
) -> PoolUpdate:
    """Asks for one draft per request and adds those that are valid and new."""
    known = list(library.tasks.values())
    shown = [library.tasks[task] for task in pool.active]
    candidates = await generator.scientist.write(requests, known, shown, generator.check, key)
    library, tasks, rejections = await admit_drafts(
        library, candidates, generator.novelty_filter, generation=generation, next_id=pool.next_id
    )
    return PoolUpdate(library, task_pool.add_tasks(pool, tasks), rejections)
