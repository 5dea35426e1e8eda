"""Without reasoning-gym, one line names the remedy."""

import sys

import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.tasks.task_sets import load_held_out, load_seed_families


def test_reasoning_gym_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    message = r"reasoning-gym cannot be imported .*acdc_jax\[gym\]"
    with pytest.raises(AcdcError, match=message):
        load_seed_families("gym", 0)
    for name in ("gym:instances", "gym:families"):
        with pytest.raises(AcdcError, match=message):
            load_held_out([name], 0)
