"""Create the task pool, and adapt it to the archive (paper §3.2, §3.3)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from acdc_jax.errors import AcdcError
from acdc_jax.prng import host_rng
from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks import pool as task_pool
from acdc_jax.tasks.library import Library, admit_drafts
from acdc_jax.tasks.llm import gather
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.scientist import Scientist, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection
from acdc_jax.tasks.validate import check_draft

_JUDGE_HELPER = "eval_with_llm_judge"


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


@dataclasses.dataclass(frozen=True)
class TaskGenerator:
    """Everything that is needed to write new tasks.

    Attributes:
        options: Thresholds and sizes.
        scientist: Writes the drafts.
        novelty_filter: Decides which drafts are new.
        sandbox: Runs the drafts' code.
        encode: Returns the tokens of a member's prompt for given instructions.
        max_prompt_tokens: Longest prompt that leaves the members room for a response.
    """

    options: TaskPoolOptions
    scientist: Scientist
    novelty_filter: NoveltyFilter
    sandbox: Sandbox
    encode: Callable[[str], Sequence[int]]
    max_prompt_tokens: int

    async def check(self, draft: Draft) -> CheckedDraft | Rejection:
        """Run a draft in the sandbox, and check that members can read its instructions.

        Raises:
            AcdcError: The sandbox or its judge failed.
        """
        verdict = await check_draft(draft, self.sandbox, self.options.skill_threshold)
        if isinstance(verdict, Rejection):
            return verdict
        try:
            longest = max(len(self.encode(text)) for text in verdict.instructions.values())
        except AcdcError as error:  # the text spells a special token
            return Rejection.of_draft(draft, str(error))
        if longest > self.max_prompt_tokens:
            return Rejection.of_draft(
                draft,
                f"the instructions take {longest} tokens, but the members' window leaves room "
                f"for {self.max_prompt_tokens}",
            )
        return verdict


async def create_pool(
    generator: TaskGenerator,
    families: Sequence[Draft],
    key: jax.Array,
    progress: Callable[[int], None],
) -> PoolUpdate:
    """Create the first pool from seed families, in micro-batches of drafts (paper §3.2).

    Each draft starts from a parent that is drawn uniformly from the active tasks. It is novel with
    probability `novel_probability`, else inspired by the parent. Writing ends after
    `initial_tasks` drafts, or when `max_tasks` tasks are active.

    Args:
        generator: Writes and checks the drafts.
        families: Seed task families, the first tasks.
        key: PRNG key.
        progress: Called with the number of drafts written so far.

    Returns:
        The first library and pool. The rejections include seed families that ask an LLM judge and
        that this run's judge grades wrongly.

    Raises:
        AcdcError: A seed family is invalid, or the scientist failed.
    """
    options = generator.options
    library, pool, rejections = await _admit_seed_families(generator, families)
    count = 0
    while (room := min(options.initial_tasks - count, options.max_tasks - len(pool.active))) > 0:
        request_key, write_key = jax.random.split(jax.random.fold_in(key, count))
        rng = host_rng(request_key)
        requests: list[TaskRequest] = []
        for _ in range(min(options.micro_batch, room)):
            parent = library.tasks[pool.active[int(rng.integers(len(pool.active)))]]
            novel = rng.random() < options.novel_probability
            requests.append(TaskRequest("novel" if novel else "inspired", parent))
        library, pool, new_rejections = await _write_tasks(
            generator, library, pool, requests, write_key, generation=0
        )
        rejections += new_rejections
        count += len(requests)
        progress(count)
    return PoolUpdate(library, pool, rejections)


async def adapt_pool(
    generator: TaskGenerator,
    library: Library,
    pool: Pool,
    pass_rates: Mapping[str, float],
    key: jax.Array,
    generation: int,
) -> PoolUpdate:
    """Adapt the pool to the archive's abilities (paper §3.3).

    Settle limbo, discard impossible tasks, write new tasks, and drop the oldest. Parents are drawn
    uniformly; `pool.draw_requests` gives the rule for what to make of each.

    Args:
        generator: Writes and checks the drafts.
        library: Every task so far.
        pool: The active tasks, and those in limbo.
        pass_rates: Active task id → share of the archive that solves it.
        key: PRNG key.
        generation: The current generation.

    Raises:
        AcdcError: The scientist, the sandbox or the embedder failed.
    """
    options = generator.options
    request_key, write_key = jax.random.split(key)
    pool = task_pool.settle_limbo(pool, pass_rates)
    if options.discard_impossible:
        pool = task_pool.discard_impossible(pool, pass_rates)
    kinds = task_pool.draw_requests(
        pool,
        pass_rates,
        options.new_tasks,
        easy_threshold=options.easy_threshold,
        hard_threshold=options.hard_threshold,
        novel_probability=options.novel_probability,
        rng=host_rng(request_key),
    )
    requests = [TaskRequest(kind, library.tasks[parent]) for kind, parent in kinds]
    update = await _write_tasks(generator, library, pool, requests, write_key, generation)
    return update._replace(pool=task_pool.prune(update.pool, options.max_tasks))


async def _admit_seed_families(generator: TaskGenerator, families: Sequence[Draft]) -> PoolUpdate:
    """Make tasks of the seed families; none of them counts as too similar to another.

    Raises:
        AcdcError: A family that computes its scores is invalid, or no family is valid.
    """
    verdicts = await gather(generator.check(draft) for draft in families)
    for draft, verdict in zip(families, verdicts, strict=True):
        if isinstance(verdict, Rejection) and _JUDGE_HELPER not in draft.source:
            raise AcdcError(f"seed task family {draft.name}: {verdict.reason}")
    admit_all = NoveltyFilter(generator.novelty_filter.index, threshold=1.0)
    library, tasks, rejections = await admit_drafts(
        Library(), verdicts, admit_all, generation=0, next_id=0
    )
    if not tasks:
        raise AcdcError(f"no seed task family is valid: {rejections[0].reason}")
    pool = task_pool.prune(task_pool.add_tasks(Pool(), tasks), generator.options.max_tasks)
    return PoolUpdate(library, pool, rejections)


async def _write_tasks(
    generator: TaskGenerator,
    library: Library,
    pool: Pool,
    requests: Sequence[TaskRequest],
    key: jax.Array,
    generation: int,
) -> PoolUpdate:
    """Write one draft per request, and add those that are valid and new."""
    all_tasks = list(library.tasks.values())
    active_tasks = [library.tasks[task] for task in pool.active]
    drafts = await generator.scientist.write(
        requests, all_tasks, active_tasks, generator.check, key
    )
    library, tasks, rejections = await admit_drafts(
        library, drafts, generator.novelty_filter, generation=generation, next_id=pool.next_id
    )
    return PoolUpdate(library, task_pool.add_tasks(pool, tasks), rejections)
