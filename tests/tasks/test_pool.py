"""The pool is a state machine that neither loses nor duplicates tasks, nor reuses ids."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from acdc_jax.tasks import pool as task_pool
from acdc_jax.tasks.options import LimboRule, TaskPoolOptions
from acdc_jax.tasks.pool import Pool, task_id
from acdc_jax.tasks.task import Draft, Kind, Task


def _task(number: int, kind: Kind = "novel", parent: str | None = None) -> Task:
    draft = Draft("n", "d", "c", 1, "e", "source", kind, parent)
    return Task(task_id(number), draft, 0, {"1": 0}, {"1": "go"})


def test_a_replaced_parent_waits_in_limbo() -> None:
    pool = task_pool.add_tasks(Pool(), [_task(0), _task(1)])
    pool = task_pool.add_tasks(pool, [_task(2, "harder", "t00000")])
    assert pool == Pool(("t00001", "t00002"), {"t00002": "t00000"}, 3)


def test_by_default_a_parent_returns_when_one_child_is_impossible_at_any_time() -> None:
    pool = Pool(("t00001", "t00002", "t00003"), {"t00002": "t00000", "t00003": "t00000"}, 4)
    settled = task_pool.settle_limbo(pool, {"t00001": 0.5, "t00002": 0.2, "t00003": 0.1})
    assert settled == pool  # nobody forgets the parent
    settled = task_pool.settle_limbo(pool, {"t00001": 0.5, "t00002": 0.0, "t00003": 0.1})
    assert settled == Pool(("t00000", "t00001", "t00003"), {"t00003": "t00000"}, 4)


def test_by_default_a_parent_stays_when_one_of_its_drafts_is_rejected() -> None:
    pool = task_pool.add_tasks(Pool(), [_task(0), _task(1)])
    children = [_task(2, "harder", "t00000"), _task(3, "easier", "t00001")]
    grown = task_pool.add_tasks(pool, children, failed=["t00001"])
    assert grown.active == ("t00001", "t00002", "t00003")
    assert grown.limbo == {"t00002": "t00000", "t00003": "t00001"}
    lenient = task_pool.add_tasks(pool, children, failed=["t00001"], limbo="all_failed")
    assert lenient.active == ("t00002", "t00003")


def test_without_limbo_parents_stay_beside_their_children() -> None:
    pool = task_pool.add_tasks(Pool(), [_task(0), _task(1)])
    grown = task_pool.add_tasks(pool, [_task(2, "harder", "t00000")], limbo="off")
    assert grown == Pool(("t00000", "t00001", "t00002"), {}, 3)


def test_a_chain_of_children_leads_back() -> None:
    """A grandparent waits for a child that waits itself."""
    pool = task_pool.add_tasks(Pool(), [_task(0), _task(9)])
    pool = task_pool.add_tasks(pool, [_task(10, "harder", "t00000")])
    pool = task_pool.prune(task_pool.add_tasks(pool, [_task(11, "harder", "t00010")]), 9)
    assert pool.active == ("t00009", "t00011")
    pool = task_pool.settle_limbo(pool, {"t00009": 0.5, "t00011": 0.0})
    assert pool.active == ("t00009", "t00010")
    pool = task_pool.settle_limbo(pool, {"t00009": 0.5, "t00010": 0.0})
    assert pool == Pool(("t00000", "t00009"), {}, 12)


def test_all_children_failed_is_judged_once() -> None:
    pool = Pool(("t00001", "t00002", "t00003"), {"t00002": "t00000", "t00003": "t00000"}, 4)
    rates = {"t00001": 0.5, "t00002": 0.0, "t00003": 0.1}
    settled = task_pool.settle_limbo(pool, rates, "all_failed")
    assert settled == Pool(("t00001", "t00003"), {}, 4)
    rates = {"t00001": 0.5, "t00002": 0.0, "t00003": 0.0}
    settled = task_pool.settle_limbo(pool, rates, "all_failed")
    assert settled == Pool(("t00000", "t00001"), {}, 4)


def test_impossible_tasks_leave_unless_all_are() -> None:
    pool = Pool(("t00000", "t00001"), {}, 2)
    kept = task_pool.discard_impossible(pool, {"t00000": 0.0, "t00001": 0.2})
    assert kept.active == ("t00001",)
    assert task_pool.discard_impossible(pool, {"t00000": 0.0, "t00001": 0.0}) == pool


_RATES = {"t00000": 0.9, "t00001": 0.5, "t00002": 0.05, "t00003": 0.0}


def _draw(**options: Any) -> list[tuple[Kind, str]]:
    return task_pool.draw_requests(
        Pool(tuple(_RATES), {}, 4),
        _RATES,
        TaskPoolOptions(new_tasks=4000, hard_threshold=0.1, **options),
        np.random.default_rng(0),
    )


def test_requests_follow_the_pass_rate() -> None:
    requests = _draw(medium_novel_probability=0.2)
    kinds = {task: {kind for kind, parent in requests if parent == task} for task in _RATES}
    assert kinds == {
        "t00000": {"harder"},
        "t00001": {"novel", "related"},
        "t00002": {"easier"},
        "t00003": {"easier"},
    }
    medium = [kind for kind, parent in requests if parent == "t00001"]
    novel = medium.count("novel") / len(medium)
    assert 0.15 < novel < 0.25  # probability 0.2, more than three standard deviations wide
    assert all(900 < sum(parent == task for _, parent in requests) < 1100 for task in _RATES)


def test_easy_tasks_may_get_novel_children() -> None:
    easy = [kind for kind, parent in _draw(easy_novel_probability=0.3) if parent == "t00000"]
    assert set(easy) == {"novel", "harder"}
    assert 0.25 < easy.count("novel") / len(easy) < 0.35


def test_biased_parents_are_impossible_then_easy_or_hard_then_others() -> None:
    rates = {"t00000": 0.0, "t00001": 0.0, "t00002": 1.0, "t00003": 0.6, "t00004": 0.5}
    pool = Pool(tuple(rates), {}, 5)

    def draw(n: int, seed: int) -> list[str]:
        options = TaskPoolOptions(task_parents="biased", new_tasks=n)
        rng = np.random.default_rng(seed)
        return [parent for _, parent in task_pool.draw_requests(pool, rates, options, rng)]

    extreme = []
    for seed in range(400):
        parents = draw(99, seed)
        assert sorted(parents[:2]) == ["t00000", "t00001"]
        assert parents[4:] == ["t00004"]
        extreme += parents[2:4]
        assert draw(1, seed)[0] in ("t00000", "t00001")
    share = extreme.count("t00002") / len(extreme)  # weights 0.5 and 0.1
    assert 0.79 < share < 0.88
    assert set(extreme) == {"t00002", "t00003"}


def test_a_parent_waits_for_a_child_whose_scores_are_missing() -> None:
    pool = Pool(("t00001", "t00002", "t00003"), {"t00002": "t00000", "t00003": "t00000"}, 4)
    settled = task_pool.settle_limbo(pool, {"t00001": 0.5, "t00002": 0.0}, "all_failed")
    assert settled == Pool(("t00001", "t00003"), {"t00003": "t00000"}, 4)
    again = task_pool.settle_limbo(settled, {"t00001": 0.5, "t00003": 0.0}, "all_failed")
    assert again == Pool(("t00000", "t00001"), {}, 4)


def test_a_task_whose_scores_cannot_be_had_leaves_after_three_generations() -> None:
    pool = Pool(("t00001", "t00002", "t00003"), {"t00002": "t00000"}, 4)
    for count in (1, 2):
        pool = task_pool.discard_unscored(pool, {"t00002"})
        assert pool == Pool(
            ("t00001", "t00002", "t00003"), {"t00002": "t00000"}, 4, {"t00002": count}
        )
    assert task_pool.discard_unscored(pool, {"t00002"}) == Pool(("t00001", "t00003"), {}, 4)
    # A score that came, or an outage, between two failures.
    assert task_pool.discard_unscored(pool, set()).unscored == {}
    assert task_pool.discard_unscored(pool, set(), {"t00002", "t00003"}).unscored == {"t00002": 2}
    # Adapting keeps the count, and the pool is never empty.
    assert task_pool.add_tasks(pool, [_task(4)]).unscored == {"t00002": 2}
    assert task_pool.settle_limbo(pool, {"t00002": 0.5}).unscored == {"t00002": 2}
    pool = Pool(("t00002",), {}, 3, {"t00002": 2})
    assert task_pool.discard_unscored(pool, {"t00002"}).active == ("t00002",)


def test_pruned_children_leave_limbo() -> None:
    pool = Pool(("t00001", "t00002"), {"t00001": "t00000"}, 3)
    assert task_pool.prune(pool, 1) == Pool(("t00002",), {}, 3)


@pytest.mark.parametrize("rule", ["one_failed", "all_failed", "off"])
def test_pool_machine(rule: LimboRule) -> None:
    """The pool loses and duplicates no task, and reuses no id, by any rule."""
    machine = type("Machine", (PoolMachine,), {"limbo": rule})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=12, deadline=None)
    )


class PoolMachine(RuleBasedStateMachine):
    """Runs any sequence of growth and adaptation; checks why tasks leave and return."""

    limbo: LimboRule = "one_failed"

    def __init__(self) -> None:
        super().__init__()
        self.pool = task_pool.add_tasks(Pool(), [_task(0), _task(1)])
        self.gone: set[str] = set()  # impossible, replaced for good, or pruned

    @rule(data=st.data(), n=st.integers(0, 4), limit=st.integers(3, 12), discard=st.booleans())
    def adapt(self, data: st.DataObject, n: int, limit: int, discard: bool) -> None:
        before = self.pool
        rated = {
            task: data.draw(st.sampled_from([None, 0.0, 0.04, 0.3, 1.0])) for task in before.active
        }
        rates = {task: rate for task, rate in rated.items() if rate is not None}

        settled = task_pool.settle_limbo(before, rates, self.limbo)
        dead = {child for child in before.limbo if rates.get(child) == 0.0}
        assert set(before.active) - set(settled.active) == dead
        for parent in set(before.limbo.values()) - set(before.active):
            fates = {rates.get(c) for c, p in before.limbo.items() if p == parent}
            back = 0.0 in fates if self.limbo == "one_failed" else fates == {0.0}
            assert (parent in settled.active) == back
        if self.limbo == "one_failed":
            assert settled.limbo == {c: p for c, p in before.limbo.items() if c not in dead}
        else:
            assert settled.limbo == {c: p for c, p in before.limbo.items() if c not in rates}

        pool = task_pool.discard_impossible(settled, rates) if discard else settled
        hopeless = {task for task in settled.active if rates.get(task) == 0.0}
        if discard and hopeless != set(settled.active):
            assert set(pool.active) == set(settled.active) - hopeless
        else:
            assert pool == settled

        requests = task_pool.draw_requests(
            pool,
            rates,
            TaskPoolOptions(
                new_tasks=n,
                hard_threshold=0.05,
                task_parents=data.draw(st.sampled_from(["uniform", "biased"])),
                medium_novel_probability=0.5,
            ),
            np.random.default_rng(data.draw(st.integers(0, 99))),
        )
        assert len(requests) <= n
        heard = [request for request in requests if data.draw(st.booleans())]
        new = [_task(pool.next_id + i, *request) for i, request in enumerate(heard)]
        failed = {parent for kind, parent in requests if (kind, parent) not in heard}
        grown = task_pool.add_tasks(pool, new, failed, self.limbo)
        replaced = {t.draft.parent for t in new if t.draft.kind in ("easier", "harder")}
        if self.limbo == "off":
            replaced = set()
        if self.limbo == "one_failed":
            replaced -= failed
        assert set(grown.active) == (set(pool.active) - replaced) | {task.id for task in new}

        self.pool = task_pool.prune(grown, limit)
        pruned = set(grown.active) - set(self.pool.active)
        assert len(self.pool.active) == min(limit, len(grown.active))
        assert not pruned or max(pruned) < min(self.pool.active)

        present = set(self.pool.active) | set(self.pool.limbo.values())
        ever = {task_id(number) for number in range(self.pool.next_id)}
        assert not self.gone & present  # what is gone never returns
        self.gone = ever - present

    @invariant()
    def limbo_leads_to_active_tasks(self) -> None:
        active, limbo = list(self.pool.active), self.pool.limbo
        assert active == sorted(set(active))
        assert active
        assert all(parent < child for child, parent in limbo.items())
        assert set(limbo) <= set(active) | set(limbo.values())
        if self.limbo == "off":
            assert not limbo
