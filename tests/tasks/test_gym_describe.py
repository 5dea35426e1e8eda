"""What tasks of reasoning-gym ask, in words, without the package."""

import dataclasses
import sys
from typing import Any

import pytest

from acdc_jax.tasks.gym import describe
from acdc_jax.tasks.task import Draft
from acdc_jax.tasks.task_sets import general

_OTHER = general()[0]


def _draft(*parts: tuple[str, dict[str, int]]) -> Draft:
    recorded = [{"family": family, "levels": levels} for family, levels in parts]
    return dataclasses.replace(_OTHER, metadata={"parts": recorded})


_GCD, _LCM = ("gcd", {"num_terms": 0, "value": 1}), ("lcm", {"numbers": 0})
_HARDER: Any = ("gcd", {"num_terms": 1, "value": 1})


@pytest.fixture(autouse=True)
def _without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)


def test_what_a_task_asks() -> None:
    both = _draft(_HARDER, _LCM)
    assert describe.levels(both) == "gcd (num_terms 1, value 1) and lcm"
    assert describe.families(both) == ("gcd", "lcm")
    assert describe.steps(both) == 2
    assert (describe.levels(_OTHER), describe.families(_OTHER), describe.steps(_OTHER)) == (
        *("", ()),
        None,
    )


@pytest.mark.parametrize(
    ("parent", "child", "change"),
    [
        (_draft(_GCD), _draft(_HARDER), "num_terms 0 → 1"),
        (_draft(_HARDER), _draft(_GCD), "num_terms 1 → 0"),
        (_draft(_GCD), _draft(_GCD), "other questions"),
        (_draft(_GCD), _draft(_GCD, _LCM), "asked together with lcm"),
        (_draft(_GCD, _LCM), _draft(_HARDER, _LCM), "num_terms 0 → 1"),
        (_draft(_GCD, _LCM), _draft(_LCM), "gcd and lcm → lcm"),
        (_draft(_GCD), _draft(_LCM), "gcd → lcm"),
        (_OTHER, _draft(_GCD), ""),
        (_draft(_GCD), _OTHER, ""),
    ],
)
def test_what_a_child_changes(parent: Draft, child: Draft, change: str) -> None:
    assert describe.change(parent, child) == change
