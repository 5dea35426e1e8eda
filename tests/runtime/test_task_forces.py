"""Task forces from the skill matrix of a run, by the flags that say who can be in them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.task_force import TaskForceOptions
from acdc_jax.evolution.coverage import greedy
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.runtime.task_forces import task_forces

_INSTRUCT, _CODE, _MATHS = SEEDS = ["g000-m00", "g000-m01", "g000-m02"]
_KEPT = {
    0: tuple(SEEDS),
    5: tuple(f"g005-m{i:02d}" for i in range(4)),
    10: tuple(f"g010-m{i:02d}" for i in range(4)),
}
_RETAINED = sorted(member for ids in _KEPT.values() for member in ids)


def _run() -> Any:
    """A run whose experts are better than everything that evolved: any choice would take them."""
    rng = np.random.default_rng(0)
    values = (rng.random((len(_RETAINED), 40)) < 0.4).astype(np.int8)
    for expert in (_CODE, _MATHS):
        values[_RETAINED.index(expert)] = rng.random(40) < 0.9
    manifest = SimpleNamespace(generation=10, kept=_KEPT, archive=_KEPT[10], retained=_RETAINED)
    tasks = {f"t{i:05d}": SimpleNamespace(generation=0) for i in range(40)}
    recipes = {m: SimpleNamespace(generation=int(m[1:4])) for m in _RETAINED}
    skills = SkillMatrix(tuple(_RETAINED), tuple(tasks), values)
    return SimpleNamespace(
        manifest=manifest, pool_tasks=tasks, seeds=SEEDS, skills=skills, recipes=recipes
    )


def _choose(**options: Any) -> list[str]:
    evaluation = task_forces(_run(), TaskForceOptions(**options))
    (row,) = evaluation["task_forces"]
    return list(row["members"])


@pytest.mark.parametrize("n", [3, 8])
def test_the_papers_task_force(n: int) -> None:
    """The instruct seed is always in, the experts never, and the others are chosen greedily."""
    options = {"candidates": "retained", "seeds": "excluded", "forced": (_INSTRUCT,)}
    members = _choose(sizes=(n,), **options)
    assert members[0] == _INSTRUCT
    assert len(members) == n
    assert not {_CODE, _MATHS} & set(members)
    run = _run()
    candidates = [m for m in _RETAINED if m not in (_CODE, _MATHS)]
    rows = run.skills.values[[_RETAINED.index(m) for m in candidates]]
    expected = [candidates[i] for i in greedy(rows, n, [candidates.index(_INSTRUCT)])]
    assert members == expected
    # Without the flag, an expert is the first to be chosen.
    assert _choose(sizes=(n,), candidates="retained")[0] in (_CODE, _MATHS)


@pytest.mark.parametrize("method", ["greedy", "optimal", "fitness", "random"])
def test_a_forced_member_need_not_be_a_candidate(method: str) -> None:
    for forced in (_INSTRUCT, "g005-m01"):  # a seed, and a member that the archive has dropped
        members = _choose(sizes=(3,), method=method, seeds="excluded", forced=(forced,))
        assert members[0] == forced
        assert set(members[1:]) < set(_KEPT[10])


@pytest.mark.parametrize(
    ("forced", "up_to"), [("g007-m00", None), ("g010-m00", 5), ("experts", None)]
)
def test_forced_members_that_the_run_does_not_have(forced: str, up_to: int | None) -> None:
    with pytest.raises(AcdcError, match=f"{forced} cannot be forced.*such as g0"):
        _choose(sizes=(3,), forced=(forced,), up_to=up_to)
