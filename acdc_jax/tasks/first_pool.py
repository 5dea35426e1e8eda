"""Write the first pool from seed families, in overlapping micro-batches (paper §3.2).

A scientist may have several micro-batches in flight. Batch k is planned when batch k − n has been
decided (n is the scientist's `batches_in_flight`), and its parents are drawn from the tasks that
there are then. Batches are decided in order. So nothing depends on how fast the drafts arrive. Each
batch is saved when it is decided: a run that is killed continues after the last one.
"""

import asyncio
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax

from acdc_jax.errors import AcdcError, raise_all
from acdc_jax.prng import host_rng
from acdc_jax.streams import print_line
from acdc_jax.tasks import pool as task_pool
from acdc_jax.tasks.adapt import TaskGenerator
from acdc_jax.tasks.chosen_families import CheckedFamilies, family_key
from acdc_jax.tasks.library import Library, admit_drafts, library_of
from acdc_jax.tasks.llm import add_costs, gather
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.scientist import TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection

_MAX_TRIES = 3  # drafts for each valid one that is asked for


class Batch(NamedTuple):
    """One micro-batch, decided.

    Attributes:
        drafts: Number of drafts.
        valid: Number of drafts that passed the check, new or not.
        next_id: Number of the next task after it.
    """

    drafts: int
    valid: int
    next_id: int


@dataclasses.dataclass(frozen=True)
class FirstPool:
    """The first pool while it is written.

    Attributes:
        library: Seed families and tasks.
        pool: The active tasks.
        rejections: Drafts that did not become tasks. They include seed families that ask an LLM
            judge and that this run's judge grades wrongly.
        batches: The seed families (without drafts), then the decided micro-batches.
        costs: Costs of the scientist.
    """

    library: Library
    pool: Pool
    rejections: Sequence[Rejection]
    batches: Sequence[Batch]
    costs: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def drafts(self) -> int:
        """Number of drafts."""
        return sum(batch.drafts for batch in self.batches)

    @property
    def valid(self) -> int:
        """Number of valid drafts."""
        return sum(batch.valid for batch in self.batches)

    def after(self, batches: int) -> "FirstPool":
        """Return tasks and batches as they were after the first `batches` of them."""
        end = task_pool.task_id(self.batches[batches - 1].next_id)
        return dataclasses.replace(
            self,
            library=library_of(task for name, task in self.library.tasks.items() if name < end),
            pool=dataclasses.replace(
                self.pool, active=tuple(name for name in self.pool.active if name < end)
            ),
            batches=self.batches[:batches],
        )


class _Plan(NamedTuple):
    """A micro-batch to be written.

    Attributes:
        requests: What to write.
        known: The tasks that the scientist is told about.
        key: PRNG key of the drafts.
    """

    requests: Sequence[TaskRequest]
    known: FirstPool
    key: jax.Array


async def create_pool(
    generator: TaskGenerator,
    families: Sequence[Draft],
    key: jax.Array,
    progress: Callable[[int], None] = lambda valid: None,
    save: Callable[[FirstPool], None] = lambda first: None,
    start: FirstPool | None = None,
    checked: CheckedFamilies = MappingProxyType({}),
) -> FirstPool:
    """Create the first pool, or continue one.

    Each draft starts from a parent that is drawn uniformly from seed families and tasks. It is
    novel with probability `novel_probability`, else inspired by the parent. Writing ends with
    `initial_tasks` valid drafts, when `max_tasks` tasks are active, or after three times
    `initial_tasks` drafts.

    Args:
        generator: Writes and checks the drafts.
        families: Seed task families.
        key: PRNG key.
        progress: Called with the number of valid drafts so far.
        save: Called with the pool after each micro-batch, in another thread.
        start: The pool that `save` was last called with, to continue it; None for a new one.
        checked: Those of the seed families that have run in the sandbox already.

    Raises:
        AcdcError: A seed family is invalid, no draft became a task, or the scientist failed.
    """
    first = start or await _admit_seed_families(generator, families, checked)
    writing: list[tuple[_Plan, asyncio.Task[list[CheckedDraft | Rejection]]]] = []
    try:
        while True:
            while len(writing) < generator.scientist.batches_in_flight:
                plan = _plan(generator, first, [len(p.requests) for p, _ in writing], key)
                writing.append((plan, asyncio.ensure_future(_write(generator, plan))))
            if not any(plan.requests for plan, _ in writing):
                break
            plan, drafts = writing[0]
            first = await _admit(generator, first, await drafts)
            del writing[0]
            if plan.requests:
                await asyncio.to_thread(save, first)
                progress(first.valid)
    finally:
        for _, drafts in writing:
            drafts.cancel()
        await asyncio.gather(*(drafts for _, drafts in writing), return_exceptions=True)
    if not first.pool.active:
        raise AcdcError(f"none of {first.drafts} drafts became a task: {_main_reason(first)}")
    return first


def shortage(first: FirstPool, initial_tasks: int, max_tasks: int) -> str | None:
    """Return a line that says why the first pool has fewer tasks than it should, or None."""
    if first.valid >= initial_tasks or len(first.pool.active) >= max_tasks:
        return None
    return (
        f"only {first.valid} of {first.drafts} drafts for the first pool are valid, and "
        f"--initial_tasks={initial_tasks}; most often: {_main_reason(first)}"
    )


def _plan(
    generator: TaskGenerator, first: FirstPool, writing: Sequence[int], key: jax.Array
) -> _Plan:
    """Plan the next micro-batch.

    Args:
        generator: Its options and its scientist say what a batch may depend on.
        first: The pool so far.
        writing: Numbers of drafts of the batches in flight.
        key: PRNG key of the whole pool.
    """
    options = generator.options
    sizes = [*(batch.drafts for batch in first.batches), *writing]
    decided = max(1, len(sizes) - generator.scientist.batches_in_flight + 1)
    known, drafts = first.after(decided), sum(sizes)
    undecided = drafts - known.drafts
    size = min(
        options.micro_batch,
        options.initial_tasks - known.valid - undecided,
        options.max_tasks - len(known.pool.active) - undecided,
        _MAX_TRIES * options.initial_tasks - drafts,
    )
    request_key, write_key = jax.random.split(jax.random.fold_in(key, drafts))
    rng, parents = host_rng(request_key), list(known.library.tasks.values())
    requests: list[TaskRequest] = []
    for _ in range(size):
        parent = parents[int(rng.integers(len(parents)))]
        novel = rng.random() < options.novel_probability
        requests.append(TaskRequest("novel" if novel else "inspired", parent))
    return _Plan(requests, known, write_key)


async def _write(generator: TaskGenerator, plan: _Plan) -> list[CheckedDraft | Rejection]:
    """Let the scientist write a micro-batch."""
    if not plan.requests:
        return []
    tasks = list(plan.known.library.tasks.values())
    return await generator.scientist.write(plan.requests, tasks, tasks, generator.check, plan.key)


async def _admit(
    generator: TaskGenerator, first: FirstPool, drafts: Sequence[CheckedDraft | Rejection]
) -> FirstPool:
    """Return the pool with those drafts of a micro-batch that are valid and new."""
    # The gate is for adaptations: in generation 0, the scientist sees the nearest tasks of all.
    novelty_filter = dataclasses.replace(generator.novelty_filter, gate=None)
    library, tasks, rejections = await admit_drafts(
        first.library, drafts, novelty_filter, generation=0, next_id=first.pool.next_id
    )
    pool = task_pool.add_tasks(first.pool, tasks)
    valid = sum(isinstance(draft, CheckedDraft) for draft in drafts)
    costs = add_costs(first.costs, generator.scientist.costs())
    return FirstPool(
        library,
        pool,
        [*first.rejections, *rejections],
        [*first.batches, Batch(len(drafts), valid, pool.next_id)],
        costs,
    )


async def _admit_seed_families(
    generator: TaskGenerator, families: Sequence[Draft], checked: CheckedFamilies
) -> FirstPool:
    """Make tasks of the seed families; none of them counts as too similar to another.

    Raises:
        AcdcError: Families that compute their scores are invalid, or no family is valid.
    """

    async def check(draft: Draft) -> CheckedDraft | Rejection:
        family = checked.get(family_key(draft)) if draft.kind == "seed" else None
        return generator.check_prompts(family) if family else await generator.check(draft)

    verdicts = await gather(check(draft) for draft in families)
    faults = []
    for draft, verdict in zip(families, verdicts, strict=True):
        if isinstance(verdict, Rejection) and not draft.asks_judge:
            faults.append(AcdcError(f"seed task family {draft.name}: {verdict.reason}"))
        elif isinstance(verdict, Rejection):
            print_line(f"seed task family {draft.name} is left out: {verdict.reason}")
    raise_all(faults)
    admit_all = NoveltyFilter(generator.novelty_filter.index, threshold=1.0, applies_to="none")
    library, tasks, rejections = await admit_drafts(
        Library(), verdicts, admit_all, generation=0, next_id=0
    )
    for rejection in rejections:
        if rejection not in verdicts:
            raise AcdcError(f"seed task family {rejection.name}: {rejection.reason}")
    if not tasks:
        raise AcdcError(f"no seed task family is valid: {rejections[0].reason}")
    options, pool = generator.options, task_pool.add_tasks(Pool(), tasks)
    if options.active_seed_families:
        pool = task_pool.prune(pool, options.max_tasks)
    else:
        pool = dataclasses.replace(pool, active=())
    library = dataclasses.replace(library, rejected=())
    return FirstPool(library, pool, rejections, [Batch(0, 0, pool.next_id)])


def _main_reason(first: FirstPool) -> str:
    """Return the most frequent reason of the rejections, without what differs between drafts."""
    reasons = Counter(re.split(r" ?[:(]", rejection.reason)[0] for rejection in first.rejections)
    return reasons.most_common(1)[0][0]
