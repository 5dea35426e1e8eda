"""The pool is a state machine that neither loses nor duplicates tasks, nor reuses ids."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from acdc_jax.tasks import pool as task_pool
from acdc_jax.tasks.pool import Pool, task_id
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


def test_requests_follow_the_pass_rate() -> None:
    rates = {"t00000": 0.9, "t00001": 0.5, "t00002": 0.05, "t00003": 0.0}
    pool = Pool(tuple(rates), {}, 4)
    requests = task_pool.draw_requests(
        pool,
        rates,
        4000,
        easy_threshold=0.5,
        hard_threshold=0.1,
        novel_probability=0.8,
        rng=np.random.default_rng(0),
    )
    kinds = {task: {kind for kind, parent in requests if parent == task} for task in rates}
    assert kinds == {
        "t00000": {"harder"},
        "t00001": {"novel", "related"},
        "t00002": {"easier"},
        "t00003": {"easier"},
    }
    medium = [kind for kind, parent in requests if parent == "t00001"]
    novel = medium.count("novel") / len(medium)
    assert 0.75 < novel < 0.85  # probability 0.8, more than three standard deviations wide
    assert all(900 < sum(parent == task for _, parent in requests) < 1100 for task in rates)


def test_a_parent_waits_for_a_child_whose_scores_are_missing() -> None:
    pool = Pool(("t00001", "t00002", "t00003"), {"t00002": "t00000", "t00003": "t00000"}, 4)
    settled = task_pool.settle_limbo(pool, {"t00001": 0.5, "t00002": 0.0})
    assert settled == Pool(("t00001", "t00003"), {"t00003": "t00000"}, 4)
    again = task_pool.settle_limbo(settled, {"t00001": 0.5, "t00003": 0.0})
    assert again == Pool(("t00000", "t00001"), {}, 4)


def test_pruned_children_leave_limbo() -> None:
    pool = Pool(("t00001", "t00002"), {"t00001": "t00000"}, 3)
    assert task_pool.prune(pool, 1) == Pool(("t00002",), {}, 3)


class PoolMachine(RuleBasedStateMachine):
    """Runs any sequence of growth and adaptation; checks why tasks leave."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = task_pool.add_tasks(Pool(), [_task(0), _task(1)])
        self.gone: set[str] = set()  # impossible, replaced by a possible child, or pruned

    @rule(data=st.data(), n=st.integers(0, 4), limit=st.integers(3, 12), discard=st.booleans())
    def adapt(self, data: st.DataObject, n: int, limit: int, discard: bool) -> None:
        before = self.pool
        rated = {
            task: data.draw(st.sampled_from([None, 0.0, 0.04, 0.3, 1.0])) for task in before.active
        }
        rates = {task: rate for task, rate in rated.items() if rate is not None}

        settled = task_pool.settle_limbo(before, rates)
        dead = {child for child in before.limbo if rates.get(child) == 0.0}
        assert set(before.active) - set(settled.active) == dead
        assert settled.limbo == {c: p for c, p in before.limbo.items() if c not in rates}
        for parent in set(before.limbo.values()):
            fates = {rates.get(c) for c, p in before.limbo.items() if p == parent}
            assert (parent in settled.active) == (fates == {0.0})
            assert (parent in settled.limbo.values()) == (None in fates)
            if parent not in settled.active and None not in fates:
                self.gone.add(parent)
        self.gone |= dead

        pool = task_pool.discard_impossible(settled, rates) if discard else settled
        hopeless = {task for task in settled.active if rates.get(task) == 0.0}
        if discard and hopeless != set(settled.active):
            assert set(pool.active) == set(settled.active) - hopeless
            self.gone |= hopeless
        else:
            assert pool == settled

        requests = task_pool.draw_requests(
            pool,
            rates,
            n,
            easy_threshold=0.5,
            hard_threshold=0.05,
            novel_probability=0.5,
            rng=np.random.default_rng(data.draw(st.integers(0, 99))),
        )
        heard = [request for request in requests if data.draw(st.booleans())]
        new = [_task(pool.next_id + i, *request) for i, request in enumerate(heard)]
        grown = task_pool.add_tasks(pool, new)
        replaced = {t.draft.parent for t in new if t.draft.kind in ("easier", "harder")}
        assert set(grown.active) == (set(pool.active) - replaced) | {task.id for task in new}

        self.pool = task_pool.prune(grown, limit)
        pruned = set(grown.active) - set(self.pool.active)
        assert len(self.pool.active) == min(limit, len(grown.active))
        assert not pruned or max(pruned) < min(self.pool.active)
        orphaned = set(grown.limbo.values()) - set(self.pool.limbo.values())
        self.gone |= pruned | orphaned

    @invariant()
    def every_task_is_somewhere_once(self) -> None:
        active, waiting = list(self.pool.active), set(self.pool.limbo.values())
        assert active == sorted(set(active))
        assert active
        assert set(self.pool.limbo) <= set(active)
        ever = {task_id(number) for number in range(self.pool.next_id)}
        assert set(active) | waiting | self.gone == ever
        assert len(active) + len(waiting) + len(self.gone) == len(ever)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
