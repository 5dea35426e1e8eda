"""The pool as a state machine: no task is lost, duplicated, or given an id twice."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from acdc_jax.tasks import pool as task_pool
from acdc_jax.tasks.pool import Pool, Wish, task_id
from acdc_jax.tasks.task import Draft, Kind, Task


def _task(number: int, kind: Kind = "novel", parent: str | None = None) -> Task:
    draft = Draft("n", "d", "c", 1, "e", "source", kind, parent)
    return Task(task_id(number), draft, 0, {"1": 0}, {"1": "go"})


def test_a_replaced_parent_waits_in_limbo() -> None:
    pool = task_pool.add_tasks(Pool(), [_task(0), _task(1)])
    pool = task_pool.add_tasks(pool, [_task(2, "harder", "t00000")])
    assert pool == Pool(("t00001", "t00002"), {"t00002": "t00000"}, 3)


def test_the_parent_returns_when_its_child_is_impossible() -> None:
    pool = Pool(("t00001", "t00002"), {"t00002": "t00000"}, 3)
    settled = task_pool.settle_limbo(pool, {"t00001": 0.5, "t00002": 0.0})
    assert settled == Pool(("t00000", "t00001"), {}, 3)


def test_the_parent_stays_away_when_one_of_its_children_is_possible() -> None:
    pool = Pool(("t00001", "t00002", "t00003"), {"t00002": "t00000", "t00003": "t00000"}, 4)
    rates = {"t00001": 0.5, "t00002": 0.0, "t00003": 0.1}
    assert task_pool.settle_limbo(pool, rates) == Pool(("t00001", "t00003"), {}, 4)


def test_impossible_tasks_leave_unless_all_are() -> None:
    pool = Pool(("t00000", "t00001"), {}, 2)
    kept = task_pool.discard_impossible(pool, {"t00000": 0.0, "t00001": 0.2})
    assert kept.active == ("t00001",)
    assert task_pool.discard_impossible(pool, {"t00000": 0.0, "t00001": 0.0}) == pool


def test_wishes_follow_the_pass_rate() -> None:
    rates = {"t00000": 0.9, "t00001": 0.5, "t00002": 0.05, "t00003": 0.0}
    pool = Pool(tuple(rates), {}, 4)
    wishes = task_pool.draw_wishes(
        pool,
        rates,
        4000,
        easy_threshold=0.5,
        hard_threshold=0.1,
        novel_probability=0.8,
        rng=np.random.default_rng(0),
    )
    kinds = {task: {w.kind for w in wishes if w.parent == task} for task in rates}
    assert kinds == {
        "t00000": {"harder"},
        "t00001": {"novel", "related"},
        "t00002": {"easier"},
        "t00003": {"easier"},
    }
    medium = [wish for wish in wishes if wish.parent == "t00001"]
    novel = sum(wish == Wish("novel", "t00001") for wish in medium) / len(medium)
    assert 0.75 < novel < 0.85  # probability 0.8, more than three standard deviations wide
    assert all(900 < sum(w.parent == task for w in wishes) < 1100 for task in rates)


class PoolMachine(RuleBasedStateMachine):
    """Any sequence of growth and adaptation."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = task_pool.add_tasks(Pool(), [_task(0), _task(1)])
        self.ever = {"t00000", "t00001"}

    @rule(data=st.data(), n=st.integers(0, 4), limit=st.integers(3, 12))
    def adapt(self, data: st.DataObject, n: int, limit: int) -> None:
        rates = {
            task: data.draw(st.sampled_from([0.0, 0.04, 0.3, 1.0])) for task in self.pool.active
        }
        waiting = set(self.pool.limbo.values())
        settled = task_pool.settle_limbo(self.pool, rates)
        gone = set(self.pool.active) - set(settled.active)
        back = set(settled.active) - set(self.pool.active)
        assert gone == {c for c in self.pool.limbo if rates.get(c, 0.0) == 0.0} & gone
        assert back <= waiting
        assert not settled.limbo
        pool = task_pool.discard_impossible(settled, rates)
        wishes = task_pool.draw_wishes(
            pool,
            rates,
            n,
            easy_threshold=0.5,
            hard_threshold=0.05,
            novel_probability=0.5,
            rng=np.random.default_rng(data.draw(st.integers(0, 99))),
        )
        new = [
            _task(pool.next_id + i, wish.kind, wish.parent)
            for i, wish in enumerate(wishes)
            if data.draw(st.booleans())
        ]
        numbered = [
            _task(pool.next_id + i, t.draft.kind, t.draft.parent) for i, t in enumerate(new)
        ]
        grown = task_pool.add_tasks(pool, numbered)
        replaced = {t.draft.parent for t in numbered if t.draft.kind in ("easier", "harder")}
        assert set(grown.active) == (set(pool.active) - replaced) | {t.id for t in numbered}
        self.ever |= {task.id for task in numbered}
        self.pool = task_pool.prune(grown, limit)
        assert len(self.pool.active) == min(limit, len(grown.active))

    @invariant()
    def ids_are_unique_ordered_and_known(self) -> None:
        active = self.pool.active
        assert list(active) == sorted(set(active))
        assert set(active) <= self.ever
        assert not set(active) & set(self.pool.limbo.values())
        assert all(int(task[1:]) < self.pool.next_id for task in self.ever)
        assert active


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
