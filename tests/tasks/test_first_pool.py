"""The first pool is the same at any speed of the scientist, and after any kill."""

import asyncio
import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc_jax.errors import AcdcError
from acdc_jax.runtime.first_pool_commit import (
    committed_tasks,
    first_pool_saver,
    load_first_pool,
    remove_first_pool,
)
from acdc_jax.tasks.adapt import TaskGenerator
from acdc_jax.tasks.embeddings import NGrams, TaskIndex
from acdc_jax.tasks.first_pool import FirstPool, create_pool
from acdc_jax.tasks.novelty import NoveltyFilter
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.scientist import Check, Scientist, TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection, Task

_FAMILIES = [Draft(f"seed{i}", f"s{i}", f"c{i}", 1, "", f"source {i}", "seed") for i in range(3)]
_WORDS = ("river", "bridge", "castle", "meadow", "harbour", "orchard", "tunnel", "valley")


class _Generator(TaskGenerator):
    """Accepts every draft whose source does not say "invalid", without a sandbox."""

    async def check(self, draft: Draft) -> CheckedDraft | Rejection:
        if "invalid" in draft.source:
            return Rejection.of_draft(draft, "it is invalid")
        return CheckedDraft(draft, {"1": 1}, {"1": "go"})


class _Slow(Scientist):
    """Writes drafts that depend on the arguments alone, after waits that do not."""

    def __init__(self, batches_in_flight: int, valid: float = 1.0, seed: int | None = None) -> None:
        self.batches_in_flight = batches_in_flight
        self._valid, self._waits = valid, random.Random(seed)
        self._waiting = seed is not None
        self.at_once = self.most_at_once = self.calls = 0
        self.known: list[int] = []

    async def write(
        self,
        requests: Sequence[TaskRequest],
        all_tasks: Sequence[Task],
        active_tasks: Sequence[Task],
        check: Check,
        key: jax.Array,
    ) -> list[CheckedDraft | Rejection]:
        self.calls += 1
        self.known.append(len(all_tasks))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self._waiting:
            await asyncio.sleep(self._waits.choice([0, 0.001, 0.003]))
        self.at_once -= 1
        rng = random.Random(str(jax.random.key_data(key)) + requests[0].parent.id)
        drafts = []
        for request in requests:
            text = " ".join(rng.choices(_WORDS, k=3))
            source = f"{rng.random()}" if rng.random() < self._valid else "invalid"
            draft = Draft(text, text, text, 1, text, source, request.kind, request.parent.id)
            drafts.append(await check(draft))
        return drafts

    async def is_new(self, draft: Draft, nearest: Sequence[Task]) -> bool:
        if self._waiting:
            await asyncio.sleep(self._waits.choice([0, 0.001]))
        return sum(map(len, (task.id for task in nearest))) % 3 > 0

    def costs(self) -> dict[str, float]:
        calls, self.calls = self.calls, 0
        return {"llm_propose_calls": calls}


def _create(
    scientist: _Slow,
    options: TaskPoolOptions,
    saved: list[FirstPool] | None = None,
    start: FirstPool | None = None,
) -> FirstPool:
    novelty_filter = NoveltyFilter(TaskIndex(NGrams()), 0.0, scientist)
    generator = _Generator(options, scientist, novelty_filter, None, str.encode, 99)  # type: ignore[arg-type]
    save = [].append if saved is None else saved.append
    return asyncio.run(create_pool(generator, _FAMILIES, jax.random.key(1), save=save, start=start))


_OPTIONS = TaskPoolOptions(initial_tasks=40, max_tasks=35, micro_batch=4)


@pytest.mark.parametrize("in_flight", [1, 2, 4])
def test_the_pool_does_not_depend_on_the_speed(in_flight: int) -> None:
    scientists = [_Slow(in_flight, 0.7, seed) for seed in (None, 0, 1, 2)]
    pools = [_create(scientist, _OPTIONS) for scientist in scientists]
    assert pools[1:] == pools[:-1]
    assert {scientist.most_at_once for scientist in scientists[1:]} == {in_flight}
    assert pools[0].library.rejected
    assert pools[0].costs == {"llm_propose_calls": sum(b.drafts > 0 for b in pools[0].batches)}
    # Batch k knows the tasks after batch k − in_flight, whatever is decided by then.
    ends = [batch.next_id for batch in pools[0].batches]
    batches = [k for k, batch in enumerate(pools[0].batches) if batch.drafts]
    expected = [ends[max(0, k - in_flight)] for k in batches]
    assert scientists[0].known == scientists[1].known == expected


def test_a_killed_pool_continues_from_every_batch(tmp_path: Path) -> None:
    saved: list[FirstPool] = []
    whole = _create(_Slow(3, 0.7), _OPTIONS, saved)
    assert len(saved) > 5
    assert saved[-1].pool == whole.pool
    (tmp_path / "tasks").mkdir()
    assert load_first_pool(tmp_path) is None
    save = first_pool_saver(tmp_path)
    for first in saved:
        save(first)
        loaded = load_first_pool(tmp_path)
        assert loaded == first
        assert committed_tasks(tmp_path) == first.pool.next_id
        rest = _create(_Slow(3, 0.7, 0), _OPTIONS, start=loaded)
        assert dataclasses.replace(rest, costs=whole.costs) == whole
    remove_first_pool(tmp_path)
    assert load_first_pool(tmp_path) is None
    assert committed_tasks(tmp_path) == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"active": 1}'])
def test_a_damaged_record_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "first_pool.json").write_text(text)
    with pytest.raises(AcdcError, match=r"first_pool\.json: is damaged"):
        load_first_pool(tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.sampled_from([0.2, 0.5, 1.0]), st.integers(1, 25), st.integers(1, 25))
def test_the_bounds_hold(in_flight: int, valid: float, initial: int, largest: int) -> None:
    options = TaskPoolOptions(
        active_seed_families=True, initial_tasks=initial, max_tasks=largest, micro_batch=4
    )
    first = _create(_Slow(in_flight, valid), options)
    assert first.valid <= initial
    assert len(first.pool.active) <= largest
    assert first.drafts <= 3 * initial
    finished = (
        first.valid == initial,
        len(first.pool.active) == largest,
        first.drafts == 3 * initial,
    )
    assert any(finished)
    assert all(batch.drafts <= 4 for batch in first.batches)
    json.dumps(first.batches)


def test_an_error_of_a_later_batch_does_not_lose_earlier_ones() -> None:
    class Dying(_Slow):
        async def write(self, *arguments: object) -> list[CheckedDraft | Rejection]:  # type: ignore[override]
            if len(self.known) == 2:
                raise AcdcError("the server is gone")
            return await super().write(*arguments)  # type: ignore[arg-type]

    saved: list[FirstPool] = []
    with pytest.raises(AcdcError, match="the server is gone"):
        _create(Dying(4, seed=0), _OPTIONS, saved)
    assert len(saved) == 2
