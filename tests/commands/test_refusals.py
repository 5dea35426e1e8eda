"""What cannot work is refused before anything expensive, in one line that names it.

What breaks on the way loses at most the generation that was under way.
"""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from acdc_jax import experiment, plugins
from acdc_jax.commands.main import main
from acdc_jax.errors import AcdcError
from acdc_jax.files import write_atomic
from acdc_jax.models.hf import read_config
from acdc_jax.quickstart import train
from acdc_jax.quickstart.task_sets import held_out_families
from acdc_jax.runtime import member_files, member_store, run_directory, run_reader
from acdc_jax.runtime.generation import Generation
from acdc_jax.runtime.seed_models import SeedSet
from tests.support.short_runs import write_families

Models = tuple[Path, Path, Path]
pytestmark = pytest.mark.xdist_group("runs")  # one process compiles for all


class _Expected:
    """Runs `acdc` and looks at how it refuses."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, argv: list[str], *parts: str, status: int = 1) -> str:
        self._capsys.readouterr()
        assert main(argv) == status
        err = self._capsys.readouterr().err
        assert err.startswith("acdc: "), err
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        for part in parts:
            assert part in err
        return err


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> _Expected:
    """`refused(argv, *parts of the message)`."""
    return _Expected(capsys)


@pytest.fixture
def nothing_expensive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test where a run trains, writes tasks or evolves."""

    def fail(*_: Any, **__: Any) -> Any:
        pytest.fail("something expensive began before the refusal")

    for module, name in (
        (train, "cached_seeds"),
        (train, "train_seeds"),
        (train, "_train_all"),
        (experiment, "run_generations"),
    ):
        monkeypatch.setattr(module, name, fail)


# ------------------------------------------------------------------------------------ the models


@pytest.mark.usefixtures("nothing_expensive")
def test_missing_folders(
    models: Models, arguments: Any, refused: _Expected, tmp_path: Path
) -> None:
    base, first, _ = models
    gone = tmp_path / "gone"
    refused(arguments(tmp_path / "run", base, [first, gone]), f"{gone}: no such folder")
    refused(arguments(tmp_path / "run", gone, [first, first]), f"{gone}: no such folder")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_expensive")
@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"hidden_size": 32}, ("hidden_size is 32", "has 16")),
        ({"num_layers": 2}, ("num_layers is 2", "has 1")),
        ({"num_heads": 4}, ("num_heads is 4", "has 2")),
        (
            {"architecture": "LlamaForCausalLM", "qkv_bias": False},
            ("architecture is LlamaForCausalLM", "has Qwen2ForCausalLM"),
        ),
    ],
)
def test_seeds_of_another_architecture(
    changes: dict[str, Any],
    parts: tuple[str, ...],
    models: Models,
    write_model: Callable[..., Path],
    arguments: Any,
    refused: _Expected,
    tmp_path: Path,
) -> None:
    base, first, _ = models
    other = write_model(tmp_path / "other", 3, **changes)
    argv = arguments(tmp_path / "run", base, [first, other])
    refused(argv, str(other), str(base), *parts, "fine-tunes of one base")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_expensive")
def test_corrupt_seed_checkpoints(
    models: Models, arguments: Any, refused: _Expected, tmp_path: Path
) -> None:
    base, first, second = models
    bad = shutil.copytree(second, tmp_path / "bad")
    file = bad / "model.safetensors"
    argv = arguments(tmp_path / "run", base, [first, bad])
    whole = file.read_bytes()

    file.write_bytes(whole[: len(whole) // 2])
    refused(argv, str(file), "truncated")

    tensors = load_file(second / "model.safetensors")
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], np.nan)
    save_file(tensors, file, metadata={"format": "pt"})
    refused(argv, str(file), "model.norm.weight", "not finite")

    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    refused(argv, str(bad), "model.norm.weight is missing")


@pytest.mark.usefixtures("nothing_expensive")
def test_too_few_seeds(models: Models, arguments: Any, refused: _Expected, tmp_path: Path) -> None:
    base, first, _ = models
    refused(arguments(tmp_path / "run", base, [first]), "--min_parents=2", "1 seeds", status=2)


@pytest.mark.usefixtures("nothing_expensive")
def test_no_room_for_prompts(
    models: Models, arguments: Any, refused: _Expected, tmp_path: Path
) -> None:
    base, *seeds = models
    argv = arguments(tmp_path / "run", base, seeds, "--max_new_tokens=64")
    refused(argv, "--max_new_tokens=64", status=2)


@pytest.mark.usefixtures("nothing_expensive")
def test_held_out_tasks_that_the_run_knows(
    models: Models, arguments: Any, refused: _Expected, tmp_path: Path
) -> None:
    base, *seeds = models
    flags = ("--seed_families=general", "--held_out=general")
    argv = arguments(tmp_path / "run", base, seeds, *flags)
    refused(argv, "--held_out=general: the family", "and 14 more are among the run's", status=2)


@pytest.mark.usefixtures("nothing_expensive")
def test_held_out_tasks_that_are_not_valid(
    models: Models, arguments: Any, refused: _Expected, tmp_path: Path
) -> None:
    base, *seeds = models
    good = held_out_families(0)[0]
    write_families([dataclasses.replace(good, source="oops")], tmp_path / "tasks")
    argv = arguments(tmp_path / "run", base, seeds, f"--held_out={tmp_path / 'tasks'}")
    refused(argv, f"held-out task {good.name} is not valid: the source defines no class")
    source = (
        good.source.replace("class TaskFamily", "class Short", 1)
        + """
class TaskFamily(Short):
    @staticmethod
    def get_tasks():
        return Short.get_tasks()

    @staticmethod
    def get_instructions(t):
        return Short.get_instructions(t) * 99

    @staticmethod
    def score(t, submission):
        return Short.score(t, submission)
"""
    )
    write_families([dataclasses.replace(good, source=source)], tmp_path / "long")
    argv = arguments(tmp_path / "other", base, seeds, f"--held_out={tmp_path / 'long'}")
    refused(argv, f"held-out task {good.name}: its instructions take", "lower --max_new", status=2)


@pytest.mark.usefixtures("nothing_expensive")
def test_faults_of_families_come_before_models(
    arguments: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All are told at once, though there is not even a model."""
    good = held_out_families(0)[:3]
    bad = [dataclasses.replace(draft, source="oops") for draft in good]
    write_families(bad[:2], tmp_path / "seeds")
    write_families([bad[2]], tmp_path / "exam")
    flags = (f"--seed_families={tmp_path / 'seeds'}", f"--held_out={tmp_path / 'exam'},tiny")
    argv = arguments(tmp_path / "run", tmp_path / "nowhere", [tmp_path / "nothing"], *flags)
    assert main(argv) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" is not valid: the source")[0] for line in lines] == [
        f"acdc: seed task family {bad[0].name}",
        f"acdc: seed task family {bad[1].name}",
        f"acdc: held-out task {bad[2].name}",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_expensive")
def test_no_seeds_or_no_base(refused: _Expected, tmp_path: Path) -> None:
    argv = ["run", f"--run_dir={tmp_path / 'run'}", "--scientist=procedural"]
    refused(argv, "--seed_models is missing", "registered: tiny", status=2)
    refused([*argv, "--seed_models=a,b"], "--base_model is missing", status=2)
    tiny = [*argv, "--seed_models=tiny", "--base_model=b"]
    refused(tiny, "--base_model: --seed_models=tiny brings its own", status=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_expensive")
def test_registered_seeds_of_which_there_are_fewer_than_declared(
    models: Models,
    arguments: Any,
    refused: _Expected,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    base, *seeds = models
    tiny = SeedSet(read_config(base), 3, lambda *_: (base, seeds))
    load = plugins.load
    monkeypatch.setattr(
        plugins, "load", lambda *of: tiny if of[0] == plugins.SEED_MODELS else load(*of)
    )
    argv = arguments(tmp_path / "run", base, seeds)
    argv = [flag for flag in argv if not flag.startswith(("--base_model", "--seed_models"))]
    refused([*argv, "--seed_models=tiny"], "--seed_models=tiny: ", "correct its model and size")


# ------------------------------------------------------------------------------------ the devices


@pytest.mark.usefixtures("nothing_expensive")
def test_mesh_that_does_not_fit(
    models: Models, arguments: Any, refused: _Expected, tmp_path: Path
) -> None:
    base, *seeds = models
    argv = arguments(tmp_path / "run", base, seeds)
    refused([*argv, "--mesh=pop:3"], "--mesh=pop:3: does not fit 4 devices", "pop:-1", status=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_expensive")
@pytest.mark.parametrize(
    ("mesh", "own", "said", "status"),
    [
        ("pop:2,model:2", None, "with --scientist_devices=N", 2),
        ("pop:1,model:2", 2, "model.safetensors", 1),
        ("pop:4", None, "model.safetensors", 1),
    ],
)
def test_scientist_on_devices_over_which_members_are_spread(
    mesh: str,
    own: int,
    said: str,
    status: int,
    models: Models,
    write_model: Callable[..., Path],
    arguments: Any,
    refused: _Expected,
    tmp_path: Path,
) -> None:
    """Before a run directory is made; one that is alone gets as far as its weights."""
    base, *seeds = models
    folder = write_model(tmp_path / "scientist", max_positions=8192)
    (folder / "model.safetensors").unlink()
    flags = (
        "--scientist=local",
        f"--scientist_model={folder}",
        f"--scientist_devices={str(own).lower()}",
    )
    argv = arguments(tmp_path / "run", base, seeds, *flags, f"--mesh={mesh}")
    refused(argv, said, status=status)
    assert (tmp_path / "run").exists() == (status == 1)


@pytest.mark.usefixtures("nothing_expensive")
def test_a_local_scientist_that_is_missing(
    models: Models, arguments: Any, refused: _Expected, tmp_path: Path
) -> None:
    base, *seeds = models
    argv = arguments(tmp_path / "run", base, seeds, "--scientist=local", "--scientist_model=m")
    refused(argv, "m: no such folder")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("nothing_expensive")
@pytest.mark.parametrize(
    ("flags", "part", "status"),
    [
        (("--mesh=pop:3",), "--mesh=pop:3: does not fit 4 devices", 2),
        (("--min_parents=9", "--max_parents=9"), "only 8 seeds", 2),
        (("--max_new_tokens=5000",), "--max_new_tokens=5000", 2),
        (("--held_out=nowhere",), "nowhere", 2),
        (("--scientist=openai", "--scientist_model=none"), "--scientist_model is missing", 2),
        ((), "0.0 GiB are free", 1),
    ],
)
def test_registered_seeds_are_made_after_every_check(
    flags: tuple[str, ...],
    part: str,
    status: int,
    refused: _Expected,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They may take minutes to train."""
    if not flags:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    own = (f"--run_dir={tmp_path / 'run'}", f"--cache_dir={tmp_path / 'cache'}", "--noprogress")
    toy = ("--seed_models=tiny", "--scientist=procedural", "--seed_families=tiny")
    refused(["run", *own, *toy, "--max_new_tokens=15", *flags], part, status=status)
    assert not list(tmp_path.glob("cache/tiny-*"))


# ------------------------------------------------------------------------------ the run directory


@pytest.mark.usefixtures("nothing_expensive")
@pytest.mark.parametrize("where", ["/proc/acdc", "file", "file/below"])
def test_unwritable_run_directory(
    where: str, models: Models, arguments: Any, refused: _Expected, tmp_path: Path
) -> None:
    base, *seeds = models
    (tmp_path / "file").write_text("in the way")
    run_dir = tmp_path / where  # an absolute `where` replaces tmp_path
    refused(
        arguments(run_dir, base, seeds),
        *(f"--run_dir={run_dir}", "cannot be written", "choose another directory"),
    )
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.usefixtures("nothing_expensive")
def test_directory_of_something_else(
    models: Models, arguments: Any, refused: _Expected, tmp_path: Path
) -> None:
    base, *seeds = models
    (tmp_path / "thesis.tex").write_text("dear")
    refused(
        arguments(tmp_path, base, seeds),
        *(f"--run_dir={tmp_path}", "not empty and holds no run", "choose another"),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.usefixtures("nothing_expensive")
def test_full_disk(
    models: Models,
    arguments: Any,
    refused: _Expected,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, *seeds = models
    argv = arguments(tmp_path / "run", base, seeds)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    refused(argv, f"--run_dir={tmp_path / 'run'}", "0.0 GiB are free", "make room")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_real_full_disk(
    models: Models,
    acdc_run: Any,
    arguments: Any,
    refused: _Expected,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, *seeds = models
    run_dir = small_disk / "run"
    argv = arguments(run_dir, base, seeds)
    refused([*argv, "--population=200"], f"--run_dir={run_dir}", "make room")

    (small_disk / "filler").write_bytes(bytes(2**22 - 150_000))
    refused(argv, f"--run_dir={run_dir}", "0.0 GiB are free", "make room")
    with monkeypatch.context() as patch:  # as if it filled up after the start
        patch.setattr(experiment, "check_disk", lambda *_: None)
        refused(argv, f"{run_dir}/members", "cannot be written (No space left on device)")
    assert run_reader.read_manifest(run_dir).generation == -1

    with pytest.raises(OSError, match="No space"):
        (small_disk / "more").write_bytes(bytes(2**22))  # not even room for a manifest
    refused(argv, f"--run_dir={run_dir}", "cannot be written (No space left on device)")

    (small_disk / "filler").unlink()
    (small_disk / "more").unlink()
    assert acdc_run(run_dir) == 0
    assert run_reader.read_manifest(run_dir).generation == 1


# ------------------------------------------------------------------------------ an existing run


@pytest.fixture(scope="module")
def finished(models: Models, arguments: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one generation."""
    base, *seeds = models
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        # Stopped after the last commit: what follows takes much longer, and is not at stake.
        def stop(*_: Any) -> None:
            raise AcdcError("evolved")

        patch.setattr(experiment, "_measure", stop)
        assert main(arguments(run_dir, base, seeds)) == 1
    assert run_reader.read_manifest(run_dir).generation == 1
    return run_dir


@pytest.fixture
def existing(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize(
    "text",
    ["", '{"schema": 1', "[]", "{}", "null", '{"schema": 1, "kept": {"x": 1}}'],
    ids=["empty", "cut", "list", "no fields", "null", "few fields"],
)
@pytest.mark.usefixtures("nothing_expensive")
def test_damaged_manifest(
    text: str, models: Models, arguments: Any, refused: _Expected, existing: Path
) -> None:
    base, *seeds = models
    (existing / "manifest.json").write_text(text)
    members = sorted((existing / "members").iterdir())
    refused(arguments(existing, base, seeds), "manifest.json: is damaged", "restore it")
    assert sorted((existing / "members").iterdir()) == members
    assert (existing / "manifest.json").read_text() == text


@pytest.mark.parametrize(
    ("field", "value"), [("kept", {"x": []}), ("kept", []), ("archive", 3), ("key", None)]
)
@pytest.mark.usefixtures("nothing_expensive")
def test_manifest_with_impossible_fields(
    field: str, value: Any, models: Models, arguments: Any, refused: _Expected, existing: Path
) -> None:
    base, *seeds = models
    path = existing / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    refused(arguments(existing, base, seeds), "manifest.json: is damaged")


@pytest.mark.usefixtures("nothing_expensive")
def test_other_flags_and_newer_schema(
    models: Models, arguments: Any, refused: _Expected, existing: Path
) -> None:
    base, *seeds = models
    argv = arguments(existing, base, seeds)
    refused(
        [*argv, "--population=5", "--generations=9"],
        *("other flags", "--population=5 (the run has 4)"),
        status=2,
    )
    path = existing / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    refused(argv, str(path), "schema 99")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    """One bit, which nothing but the content hash may notice."""
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink], ids=["cut", "flip", "gone"])
@pytest.mark.parametrize(
    "pattern",
    ["weights/_METADATA", "weights/*/.zarray", "weights/*/0.0", "files.json", "recipe.json"],
)
def test_corrupt_member(
    pattern: str,
    damage: Callable[[Path], None],
    models: Models,
    arguments: Any,
    refused: _Expected,
    existing: Path,
) -> None:
    base, *seeds = models
    member = run_reader.read_manifest(existing).archive[-1]
    folder = existing / "members" / member
    damage(max(folder.glob(pattern), key=lambda path: path.stat().st_size))
    refused(arguments(existing, base, seeds, "--generations=2"), str(folder), "from a copy")
    assert run_reader.read_manifest(existing).generation == 1


@pytest.mark.parametrize(
    "name",
    ["pool/g001.json", "archive/g001.json", "tasks/t00003/task.json", "tasks/t00003/task.py"],
)
@pytest.mark.parametrize("text", [None, "[]", "{"])
def test_other_damage(
    name: str,
    text: str | None,
    models: Models,
    arguments: Any,
    refused: _Expected,
    existing: Path,
) -> None:
    base, *seeds = models
    if text is None:
        (existing / name).unlink()
    elif name.endswith(".json"):
        (existing / name).write_text(text)
    else:
        pytest.skip("any text is a source")
    refused(arguments(existing, base, seeds, "--generations=2"), str(existing / name))


# ----------------------------------------------------------------- a disk that fills up on the way


def _no_space(path: Path) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize(
    "part", ["member", "recipe", "task", "pool", "archive", "responses", "manifest"]
)
def test_disk_fills_up_while_committing(
    part: str,
    models: Models,
    acdc_run: Any,
    arguments: Any,
    refused: _Expected,
    existing: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line, status 1; the generation before stays committed, and the run goes on."""
    base, *seeds = models
    more = ["--generations=2"]
    before = run_reader.read_manifest(existing)
    write, armed = write_atomic, False

    def write_until_full(path: Path, data: str | bytes) -> None:
        if armed and part in str(path.relative_to(existing)):
            path.with_name(path.name + ".tmp").write_bytes(b"half")
            raise _no_space(path)
        write(path, data)

    def save_until_full(*arguments: Any) -> None:
        folder = next(argument for argument in arguments if isinstance(argument, Path))
        folder.mkdir(parents=True)
        raise _no_space(folder)

    finish = Generation.finish

    def then_arm(self: Any, state: Any) -> Any:
        """Finish a generation, with a new member and a new task in any case."""
        nonlocal armed
        state, record = finish(self, state)
        store = self._context.store
        oldest, member, task = state.archive[-1], "g002-m00", state.library.tasks["t00000"]
        recipe = dataclasses.replace(state.recipes[oldest], id=member)
        store.put(recipe, store.get(oldest))
        record = dataclasses.replace(record, children=[recipe])
        number = state.pool.next_id
        new = dataclasses.replace(task, id=f"t{number:05d}")
        state = dataclasses.replace(
            state,
            archive=(*state.archive[:-1], member),
            recipes={**state.recipes, member: recipe},
            library=dataclasses.replace(state.library, tasks={**state.library.tasks, new.id: new}),
            pool=dataclasses.replace(state.pool, next_id=number + 1),
        )
        armed = True
        return state, record

    with monkeypatch.context() as patch:
        patch.setattr(Generation, "finish", then_arm)
        patch.setattr(run_directory, "write_atomic", write_until_full)
        patch.setattr(member_files, "write_atomic", write_until_full)
        if part == "member":
            patch.setattr(member_store, "save_member", save_until_full)
        if part == "task":
            patch.setattr(run_directory, "save_task", save_until_full)
        refused(
            arguments(existing, base, seeds, *more),
            *("No space left on device", "generation 1 is safe", "make room"),
        )
    after = run_reader.read_manifest(existing)
    assert (after.generation, after.archive, after.kept) == (1, before.archive, before.kept)
    assert acdc_run(existing, *more) == 0
    after = run_reader.read_manifest(existing)
    assert after.generation == 2
    lines = (existing / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["generation"] for line in lines] == [0, 1, 2]
    assert not list(existing.rglob("*.tmp"))


def test_disk_fills_up_while_reporting(
    acdc_run: Any,
    models: Models,
    arguments: Any,
    refused: _Expected,
    existing: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, *seeds = models

    def full(path: Path, _: str) -> None:
        raise _no_space(path)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "write_atomic", full)
        refused(arguments(existing, base, seeds), "results.json", "No space left on device")
    assert acdc_run(existing) == 0
    assert (existing / "results.json").exists()
