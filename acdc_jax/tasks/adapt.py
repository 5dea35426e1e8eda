"""Adapt the task pool to the archive (paper §3.3)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from acdc_jax.errors import AcdcError
from acdc_jax.prng import host_rng
from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks import pool as task_pool
from acdc_jax.tasks.library import Library, admit_drafts
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.scientist import Scientist, Solver, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection
from acdc_jax.tasks.validate import check_draft, prompt_flaw


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

        Seed families are trusted (see `check_draft`), because a person chose them.
        """
        if draft.asks_judge and not self.options.judged_tasks:
            return Rejection.of_draft(
                draft, "it asks an LLM judge, which --nojudged_tasks excludes"
            )
        verdict = await check_draft(
            draft,
            self.sandbox,
            self.options.skill_threshold,
            self.scientist.solve if isinstance(self.scientist, Solver) else None,
            trusted=draft.kind == "seed",
        )
        return verdict if isinstance(verdict, Rejection) else self.check_prompts(verdict)

    def check_prompts(self, family: CheckedDraft) -> CheckedDraft | Rejection:
        """Check that members can read a family's instructions."""
        texts = family.instructions.values()
        try:
            flaw = prompt_flaw(texts, self.encode, self.max_prompt_tokens)
        except AcdcError as error:
            return Rejection.of_draft(family.draft, str(error))
        return Rejection.of_draft(family.draft, f"the {flaw}") if flaw else family


async def adapt_pool(
    generator: TaskGenerator,
    library: Library,
    pool: Pool,
    pass_rates: Mapping[str, float],
    key: jax.Array,
    generation: int,
) -> PoolUpdate:
    """Adapt the pool to the archive's abilities (paper §3.3).

    Settle limbo, discard impossible tasks, write new tasks, and drop the oldest.
    `pool.draw_requests` draws parents and decides what to make of each.

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
    pool = task_pool.settle_limbo(pool, pass_rates, options.limbo)
    if options.discard_impossible:
        pool = task_pool.discard_impossible(pool, pass_rates)
    kinds = task_pool.draw_requests(pool, pass_rates, options, host_rng(request_key))
    requests = [TaskRequest(kind, library.tasks[parent]) for kind, parent in kinds]
    active_tasks = [library.tasks[task] for task in pool.active]
    drafts = await generator.scientist.write(
        requests, list(library.tasks.values()), active_tasks, generator.check, write_key
    )
    library, tasks, rejections = await admit_drafts(
        library, drafts, generator.novelty_filter, generation=generation, next_id=pool.next_id
    )
    invalid = [r for r in rejections if r.cause == "draft"]
    failed = {r.parent for r in invalid if r.kind in ("easier", "harder") and r.parent}
    pool = task_pool.add_tasks(pool, tasks, failed, options.limbo)
    return PoolUpdate(library, task_pool.prune(pool, options.max_tasks), rejections)
