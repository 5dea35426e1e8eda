"""A run does not depend on how its children are grouped, nor on where its members lie."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acdc_jax.runtime import run_reader, setup
from acdc_jax.runtime.member_store import MemberStore


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members are decoded one after the other, as large ones are."""
    monkeypatch.setattr(setup, "choose_population", lambda *_: (1, "one by one"))


@pytest.mark.slow
def test_groups_and_budgets_change_nothing(
    acdc_run: Callable[..., int],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = (
        "--generations=2",
        "--mutation=gaussian",
        "--mutation_scale=0.3",
        "--init_population=6",
        "--mesh=pop:1,model:4",
    )
    assert acdc_run(tmp_path / "a", *flags) == 0

    request.getfixturevalue("one_by_one")
    rooms = []
    put = MemberStore.put

    def watched(store: MemberStore, *arguments: Any) -> None:
        put(store, *arguments)
        rooms.append((len(store._device), len(store._host)))

    monkeypatch.setattr(MemberStore, "put", watched)
    nothing = ("--device_budget_gb=1e-9", "--host_budget_gb=1e-9")
    assert acdc_run(tmp_path / "b", *flags, *nothing) == 0
    assert set(rooms) == {(0, 0)}  # everything went through the disk

    manifests = [run_reader.read_manifest(tmp_path / name) for name in "ab"]
    assert manifests[0].archive == manifests[1].archive
    assert manifests[0].kept == manifests[1].kept
    for generation in range(3):
        matrices = [run_reader.read_archive(tmp_path / name, generation) for name in "ab"]
        assert matrices[0].members == matrices[1].members
        assert (matrices[0].values == matrices[1].values).all()
    recipes = [run_reader.read_recipes(tmp_path / name, 2) for name in "ab"]
    assert recipes[0] == recipes[1]  # content hashes included
    assert len(recipes[0]) == 6 + 2 * 4
