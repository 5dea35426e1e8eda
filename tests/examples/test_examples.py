"""Every example runs, on tiny checkpoints."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import acdc_jax as acdc
from acdc_jax.examples import (
    merge_two_models,
    minimal_loop,
    new_merge_method,
    new_scientist,
    new_task_library,
)
from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.tasks.options import TaskPoolOptions
from acdc_jax.tasks.scientist import TaskRequest
from acdc_jax.tasks.task import CheckedDraft, Draft, Rejection, Task
from acdc_jax.tasks.validate import check_drafts

FAMILIES = Path(acdc.__file__).parent / "quickstart" / "families"


@pytest.fixture(scope="module")
def folders(
    write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    out = tmp_path_factory.mktemp("models")
    return [str(write_model(out / str(i), i, max_positions=128)) for i in range(3)]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(os.cpu_count() or 1, Limits()) as sandbox:
        yield sandbox


def test_merge_two_models(folders: list[str], tmp_path: Path) -> None:
    answer = merge_two_models.main(*folders, str(tmp_path / "child"))
    assert isinstance(answer, str)
    assert acdc.load_hf(tmp_path / "child").config == acdc.load_hf(folders[0]).config


def test_minimal_loop(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "tasks").mkdir()
    for name in ("final_letter", "mirror_letters"):
        (tmp_path / "tasks" / name).symlink_to(FAMILIES / name)
    archive, skills = minimal_loop.evolve(
        str(tmp_path / "tasks"), *folders, generations=1, children=2, size=3, max_new_tokens=4
    )
    assert len(archive) == len(skills) == 3
    assert "generation 0: Coverage" in capsys.readouterr().out


def test_new_merge_method(folders: list[str]) -> None:
    base, *parents = map(acdc.load_hf, folders)
    child = new_merge_method.merge(base, parents)
    for path, weight in child.params.items():
        origin = np.asarray(base.params[path])
        changes = [np.asarray(parent.params[path]) - origin for parent in parents]
        largest = np.where(np.abs(changes[1]) > np.abs(changes[0]), changes[1], changes[0])
        np.testing.assert_allclose(weight, origin + largest, atol=1e-6)


def test_new_task_library(folders: list[str], sandbox: Sandbox) -> None:
    drafts = new_task_library.arithmetic(0, TaskPoolOptions())
    assert drafts == new_task_library.arithmetic(0, TaskPoolOptions())
    checked = check_drafts(drafts, sandbox, 0.5, trusted=True)
    assert all(isinstance(verdict, CheckedDraft) for verdict in checked)
    skills = acdc.evaluate([acdc.load_hf(folders[1])], drafts[:1], max_new_tokens=4)
    assert skills.shape == (1, 1)


def test_new_scientist(sandbox: Sandbox) -> None:
    scientist = new_scientist.spelling_scientist(None, 0)

    async def check(draft: Draft) -> CheckedDraft | Rejection:
        (verdict,) = await asyncio.to_thread(check_drafts, [draft], sandbox, 0.5)
        return verdict

    async def write(*requests: TaskRequest) -> list[CheckedDraft]:
        written = await scientist.write(requests, [], [], check, jax.random.key(0))
        assert all(isinstance(verdict, CheckedDraft) for verdict in written), written
        return written  # type: ignore[return-value]

    def task(checked: CheckedDraft) -> Task:
        return Task("t0", checked.draft, 0, checked.instances, checked.instructions)

    seed = task(check_drafts(acdc.load_tasks(FAMILIES)[:1], sandbox, 0.5)[0])  # type: ignore[arg-type]
    (novel,) = asyncio.run(write(TaskRequest("novel", seed)))
    (harder,) = asyncio.run(write(TaskRequest("harder", task(novel))))
    lengths = [checked.draft.metadata["length"] for checked in (novel, harder)]
    assert lengths[1] == lengths[0] + 1  # type: ignore[operator]
    assert asyncio.run(scientist.is_new(harder.draft, [task(novel)]))
    assert not asyncio.run(scientist.is_new(novel.draft, [task(novel)]))
