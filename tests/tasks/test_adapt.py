"""Pools grow and adapt with the real scientist and the real sandbox."""

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.quickstart.language import split
from acdc_jax.quickstart.scientist import ProceduralScientist
from acdc_jax.quickstart.source import spec_of
from acdc_jax.quickstart.task_sets import seed_families
from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.tasks import prompts
from acdc_jax.tasks.adapt import PoolUpdate, TaskGenerator, adapt_pool
from acdc_jax.tasks.embeddings import NGrams, TaskIndex
from acdc_jax.tasks.first_pool import FirstPool, create_pool, shortage
from acdc_jax.tasks.library import Library, pool_tasks
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.pool import Pool
from acdc_jax.tasks.scientist import Check, Scientist, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Kind, Rejection, Task

_FLAGS = TaskPoolOptions(
    active_seed_families=True, initial_tasks=12, max_tasks=30, new_tasks=6, micro_batch=5
)
_FAMILIES = seed_families()
_SCIENTIST = ProceduralScientist(split(0))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Return a real sandbox."""
    with Sandbox(2, Limits()) as sandbox:
        yield sandbox


class _Scripted(Scientist):
    """Passes requests on to a real scientist, and replaces some of its drafts."""

    def __init__(self, replies: Sequence[str]) -> None:
        self.asked: list[tuple[Kind, str]] = []
        self._replies = replies

    async def write(
        self,
        requests: Sequence[TaskRequest],
        all_tasks: Sequence[Task],
        active_tasks: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        async def spoilt(draft: Draft) -> CheckedDraft | Rejection:
            return await check(
                dataclasses.replace(draft, source=draft.source + "raise RuntimeError")
            )

        found: list[CheckedDraft | Rejection] = []
        for i, request in enumerate(requests):
            reply = self._replies[len(self.asked) % len(self._replies)]
            self.asked.append((request.kind, request.parent.id))
            if reply == "none":
                found.append(Rejection(request.kind, request.parent.id, "", "no idea"))
                continue
            step = jax.random.fold_in(key, i)
            tried = check if reply != "broken" else spoilt
            (item,) = await _SCIENTIST.write([request], all_tasks, active_tasks, tried, step)
            if reply == "repeat" and isinstance(item, CheckedDraft):
                draft = dataclasses.replace(
                    _FAMILIES[0], kind=request.kind, parent=request.parent.id
                )
                item = dataclasses.replace(item, draft=draft)
            found.append(item)
        return found

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        return await _SCIENTIST.is_new(draft, nearest)


def _generator(
    sandbox: Sandbox, flags: TaskPoolOptions = _FLAGS, scientist: Scientist = _SCIENTIST
) -> TaskGenerator:
    novelty_filter = NoveltyFilter(TaskIndex(NGrams()), 0.995)
    return TaskGenerator(flags, scientist, novelty_filter, sandbox, str.encode, 60)


def _first(
    sandbox: Sandbox,
    flags: TaskPoolOptions = _FLAGS,
    scientist: Scientist = _SCIENTIST,
    key: int = 0,
    progress: list[int] | None = None,
    families: Sequence[Draft] = _FAMILIES,
) -> FirstPool:
    told = [] if progress is None else progress
    generator = _generator(sandbox, flags, scientist)
    return asyncio.run(create_pool(generator, families, jax.random.key(key), told.append))


def _adapt(
    sandbox: Sandbox,
    flags: TaskPoolOptions,
    library: Library,
    pool: Pool,
    rates: Mapping[str, float],
    scientist: Scientist = _SCIENTIST,
    generation: int = 5,
) -> PoolUpdate:
    generator = _generator(sandbox, flags, scientist)
    key = jax.random.key(3)
    return asyncio.run(adapt_pool(generator, library, pool, rates, key, generation))


def test_create_pool_writes_in_micro_batches(sandbox: Sandbox) -> None:
    progress: list[int] = []
    first = _first(sandbox, progress=progress)
    library, pool, rejections = first.library, first.pool, first.rejections
    assert progress == [5, 10, 12]
    assert not rejections  # the quickstart's scientist knows what passes
    assert len(library.tasks) == len(_FAMILIES) + 12
    assert list(library.tasks) == [f"t{i:05d}" for i in range(len(library.tasks))]
    assert pool == Pool(tuple(library.tasks), {}, len(library.tasks))
    assert [task.draft for task in library.tasks.values()][: len(_FAMILIES)] == _FAMILIES
    new = list(library.tasks.values())[len(_FAMILIES) :]
    assert new
    specs = [spec_of(task.draft.metadata) for task in library.tasks.values()]
    assert len(set(specs)) == len(specs)  # no spec is written twice
    assert not set(specs) & set(split(0).held_out)
    for task in new:
        assert task.draft.kind in ("novel", "inspired")
        assert task.draft.parent in library.tasks
        assert task.draft.parent < task.id
        assert task.generation == 0
        assert task.instructions.keys() == task.instances.keys()


def test_equal_keys_give_equal_pools(sandbox: Sandbox) -> None:
    first = _first(sandbox)
    assert _first(sandbox) == first
    assert _first(sandbox, key=1).library != first.library


@pytest.mark.parametrize(("max_tasks", "drafts"), [(10, 2), (8, 0), (5, 0)])
def test_create_pool_stops_when_the_pool_is_full(
    max_tasks: int, drafts: int, sandbox: Sandbox
) -> None:
    flags = dataclasses.replace(_FLAGS, max_tasks=max_tasks)
    scientist = _Scripted(["real"])
    first = _first(sandbox, flags, scientist)
    library, pool = first.library, first.pool
    assert len(pool.active) <= max_tasks
    assert len(scientist.asked) >= drafts
    assert (len(scientist.asked) == 0) == (drafts == 0)
    assert pool.active == tuple(library.tasks)[-max_tasks:]


def test_initial_tasks_counts_valid_drafts(sandbox: Sandbox) -> None:
    """Half of these drafts are valid; of these, half repeat a seed family."""
    scientist = _Scripted(["none", "broken", "repeat", "real"])
    first = _first(sandbox, scientist=scientist)
    library, pool, rejections = first.library, first.pool, first.rejections
    assert len(scientist.asked) == first.drafts == 24
    assert first.valid == _FLAGS.initial_tasks
    reasons = [rejection.reason for rejection in rejections]
    assert sum("no idea" in reason for reason in reasons) == 6
    assert sum("RuntimeError" in reason for reason in reasons) == 6
    assert sum("too similar to t00000" in reason for reason in reasons) == 6
    assert len(library.tasks) == len(_FAMILIES) + 24 - len(rejections)
    assert list(library.tasks) == [f"t{i:05d}" for i in range(pool.next_id)]  # no gaps
    assert all(rejection.parent in library.tasks for rejection in rejections)
    assert {draft.source for draft in library.rejected} == {_FAMILIES[0].source}
    assert shortage(first, 12, 30) is None


def test_a_scientist_that_writes_nothing(sandbox: Sandbox) -> None:
    first = _first(sandbox, scientist=_Scripted(["none"]))
    assert len(first.rejections) == first.drafts == 3 * _FLAGS.initial_tasks
    assert first.pool.active == tuple(first.library.tasks)
    assert len(first.library.tasks) == len(_FAMILIES)
    line = shortage(first, _FLAGS.initial_tasks, _FLAGS.max_tasks)
    assert line == (
        "only 0 of 36 drafts for the first pool are valid, and --initial_tasks=12; most often: "
        "no idea"
    )
    flags = dataclasses.replace(_FLAGS, active_seed_families=False)
    with pytest.raises(AcdcError, match="none of 36 drafts became a task: no idea"):
        _first(sandbox, flags, _Scripted(["none"]))


def test_seed_families_are_only_parents_by_default(sandbox: Sandbox) -> None:
    flags = dataclasses.replace(_FLAGS, active_seed_families=False)
    first = _first(sandbox, flags)
    tasks = first.library.tasks
    assert len(first.pool.active) == flags.initial_tasks
    assert not any(tasks[name].draft.kind == "seed" for name in first.pool.active)
    parents = {tasks[name].draft.parent for name in first.pool.active}
    assert parents & set(list(tasks)[: len(_FAMILIES)])
    assert list(pool_tasks(tasks, flags)) == list(first.pool.active)
    assert pool_tasks(tasks, _FLAGS) == tasks


def test_a_broken_seed_family_is_named(sandbox: Sandbox) -> None:
    broken = dataclasses.replace(_FAMILIES[1], source=_FAMILIES[1].source + "1 / 0\n")
    with pytest.raises(AcdcError, match=f"seed task family {broken.name}"):
        _first(sandbox, families=[_FAMILIES[0], broken])


def test_a_seed_family_that_the_judge_misjudges_is_left_out(sandbox: Sandbox) -> None:
    source = _FAMILIES[1].source.replace("return float(", "return eval_with_llm_judge('', '', '')#")
    judged = dataclasses.replace(_FAMILIES[1], source=source)
    flags = dataclasses.replace(_FLAGS, initial_tasks=0)
    first = _first(sandbox, flags, families=[_FAMILIES[0], judged])
    (rejection,) = first.rejections
    assert [task.draft.name for task in first.library.tasks.values()] == [_FAMILIES[0].name]
    assert rejection.name == judged.name
    with pytest.raises(AcdcError, match="no seed task family is valid"):
        _first(sandbox, flags, families=[judged])


def test_instructions_longer_than_the_window_are_rejected(sandbox: Sandbox) -> None:
    generator = dataclasses.replace(_generator(sandbox), max_prompt_tokens=5)
    verdict = asyncio.run(generator.check(_FAMILIES[0]))
    assert isinstance(verdict, Rejection)
    assert "room for 5" in verdict.reason


def test_without_judged_tasks_every_score_is_computed(sandbox: Sandbox) -> None:
    """Judged seed families and drafts are left out, and authors hear of no judge."""
    judged = dataclasses.replace(_FAMILIES[1], source=_FAMILIES[1].source + "# eval_with_llm_judge")
    flags = dataclasses.replace(_FLAGS, initial_tasks=0)
    assert len(_first(sandbox, flags, families=[_FAMILIES[0], judged]).library.tasks) == 2
    flags = dataclasses.replace(flags, judged_tasks=False)
    first = _first(sandbox, flags, families=[_FAMILIES[0], judged])
    assert [rejection.name for rejection in first.rejections] == [judged.name]
    (parent,) = first.library.tasks.values()
    for prompt in (
        prompts.propose("novel", parent, [], judged=False),
        prompts.reflect("novel", parent, "code", "it runs.", 1, 3, judged=False),
    ):
        assert "judge" not in prompt.system + prompt.user
        assert "get_function_name_to_callable" in prompt.system
    assert "eval_with_llm_judge" in prompts.propose("novel", parent, []).system


def test_adaptation(sandbox: Sandbox) -> None:
    first = _first(sandbox)
    library, pool = first.library, first.pool
    names = pool.active
    rates = {name: (0.0, 0.3, 0.9)[i % 3] for i, name in enumerate(names)}
    flags = dataclasses.replace(_FLAGS, discard_impossible=False, limbo="all_failed")

    scientist = _Scripted(["real"])
    grown, adapted, rejections = _adapt(sandbox, flags, library, pool, rates, scientist, 4)
    expected = {0.0: {"easier"}, 0.3: {"novel", "related"}, 0.9: {"harder"}}
    assert len(scientist.asked) == flags.new_tasks
    for kind, parent in scientist.asked:
        assert kind in expected[rates[parent]]
    new = [task for name, task in grown.tasks.items() if name not in library.tasks]
    assert len(new) == flags.new_tasks - len(rejections) > 0
    assert [task.id for task in new] == [f"t{pool.next_id + i:05d}" for i in range(len(new))]
    assert {task.generation for task in new} == {4}
    replaced = {
        task.id: task.draft.parent for task in new if task.draft.kind in ("easier", "harder")
    }
    assert adapted.limbo == replaced
    assert set(adapted.active) == set(names) - set(replaced.values()) | {t.id for t in new}
    assert grown.tasks.items() >= library.tasks.items()  # no task leaves the library
    again = _adapt(sandbox, flags, library, pool, rates, _Scripted(["real"]), 4)
    assert again[1:] == (adapted, rejections)


def test_adaptation_settles_limbo_discards_and_prunes(sandbox: Sandbox) -> None:
    library = _first(sandbox).library
    names = tuple(library.tasks)
    # The first task is in limbo, replaced by its easier child, the last one, which nobody solves.
    pool = Pool(names[1:], {names[-1]: names[0]}, len(names))
    rates = dict.fromkeys(names[1:], 1.0) | {names[-1]: 0.0, names[1]: 0.0}
    flags = dataclasses.replace(_FLAGS, new_tasks=0, max_tasks=6)
    _, kept, _ = _adapt(sandbox, dataclasses.replace(flags, max_tasks=99), library, pool, rates)
    assert kept.active == (names[0], *names[2:-1])
    assert kept.limbo == {}
    _, pruned, _ = _adapt(sandbox, flags, library, pool, rates)
    assert pruned.active == kept.active[-6:]
    flags = dataclasses.replace(flags, discard_impossible=False, max_tasks=99)
    _, lenient, _ = _adapt(sandbox, flags, library, pool, rates)
    assert lenient.active == (*names[:2], *names[2:-1])


def test_a_parent_of_a_rejected_draft_stays(sandbox: Sandbox) -> None:
    """By the default rule; by the other one, one accepted child is enough."""
    first = _first(sandbox)
    library, pool = first.library, dataclasses.replace(first.pool, active=first.pool.active[:2])
    rates = dict.fromkeys(pool.active, 1.0)
    scientist = _Scripted(["real", "none"])
    update = _adapt(sandbox, _FLAGS, library, pool, rates, scientist)
    failed = {rejection.parent for rejection in update.rejections}
    assert failed
    assert set(pool.active) & set(update.pool.active) == failed
    assert set(update.pool.limbo.values()) <= set(pool.active)
    flags = dataclasses.replace(_FLAGS, limbo="all_failed")
    update = _adapt(sandbox, flags, library, pool, rates, _Scripted(["real", "none"]))
    assert not set(update.pool.limbo.values()) & set(update.pool.active)


def test_instructions_with_a_special_token_are_rejected(sandbox: Sandbox) -> None:
    """The run goes on."""

    def tokens(text: str) -> bytes:
        raise AcdcError("a prompt has token '[PAD]'")

    generator = dataclasses.replace(_generator(sandbox), encode=tokens)
    verdict = asyncio.run(generator.check(_FAMILIES[0]))
    assert isinstance(verdict, Rejection)
    assert "[PAD]" in verdict.reason


_LINES = """
class TaskFamily:
    @staticmethod
    def get_tasks():
        return {{"1": "first {name}", "2": "second {name}"}}

    @staticmethod
    def get_instructions(t):
        return f"Write a line about the {{t}}."

    @staticmethod
    def score(t, submission):
        return eval_with_llm_judge(t, submission, ["It is a line about it."])
"""


class _Lines(Scientist):
    """Writes families that ask a judge."""

    def __init__(self) -> None:
        self._number = 0

    async def write(
        self,
        requests: Sequence[TaskRequest],
        all_tasks: Sequence[Task],
        active_tasks: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        verdicts = []
        for request in requests:
            self._number += 1
            name = f"line {self._number}."
            source = _LINES.format(name=name)
            reference = {"1": f"A first {name}", "2": f"A second {name}"}
            kind, parent = request.kind, request.parent.id
            draft = Draft(name, name, "c", 1, "", source, kind, parent, reference)
            verdicts.append(await check(draft))
        return verdicts


def test_a_judge_that_fails_while_a_draft_is_tried_ends_no_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, the draft waits for it. Again and again, the draft is no task, and nothing else."""
    monkeypatch.setattr("acdc_jax.tasks.validate._RETRY_DELAYS_S", (0.0, 0.0))
    failed: list[str] = []

    def judge(topic: str, submission: str, criteria: str) -> float:
        if "line 3." in topic or ("line 5." in topic and not failed.count(topic)):
            failed.append(topic)
            raise RuntimeError("502 Bad Gateway")
        return 0.9 if submission == f"A {topic}" else 0.2

    flags = TaskPoolOptions(initial_tasks=6, max_tasks=30, micro_batch=3)
    with Sandbox(1, Limits(), judge=judge, judge_workers=4) as sandbox:
        first = _first(sandbox, flags, _Lines(), families=_FAMILIES[:1])
    names = [task.draft.name for task in first.library.tasks.values()][1:]
    assert names == [f"line {i}." for i in (1, 2, 4, 5, 6, 7)]
    assert any("line 5." in topic for topic in failed)
    (rejection,) = first.rejections
    assert (rejection.name, rejection.cause) == ("line 3.", "infrastructure")
    assert "502 Bad Gateway" in rejection.reason
