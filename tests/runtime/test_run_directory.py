"""Commit and restore: what the manifest refers to stays, everything else goes."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax import flags
from acdc_jax.config import Config, RunOptions
from acdc_jax.errors import AcdcError, ConfigError
from acdc_jax.evolution.content_hash import content_hash
from acdc_jax.evolution.evosax_strategy import Strategy, es_init, to_arrays
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.files import write_atomic
from acdc_jax.inference.options import DecodeOptions
from acdc_jax.params import Params
from acdc_jax.runtime import run_directory, run_reader
from acdc_jax.runtime.breed import seed_recipe
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.memory_budget import Budget
from acdc_jax.runtime.run_reader import Manifest
from acdc_jax.runtime.state import Record, State
from acdc_jax.tasks.library import library_of
from acdc_jax.tasks.pool import Pool, task_id
from acdc_jax.tasks.task import Draft, Task

_STRATEGY = Strategy("CMA_ES", children=4, parents=2, groups=3)


def _shapes() -> dict[str, jax.ShapeDtypeStruct]:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {"w": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16, sharding=here)}


def _weights(name: str) -> Params:
    return {"w": jnp.full((2, 3), int(name[-2:]) + 0.5, jnp.bfloat16)}


def _store(run_dir: Path, archive: tuple[str, ...] = ()) -> MemberStore:
    store = MemberStore(run_dir / "members", [_shapes()], Budget())
    for name in archive:
        store.put(seed_recipe(name, _weights(name)), _weights(name))
    return store


def _commit(run_dir: Path, manifest: Manifest, state: State) -> Manifest:
    """BackgroundCommits a generation that made all of its archive."""
    record = Record(list(state.recipes.values()), metrics={"seconds": 1.0})
    return run_directory.commit(run_dir, manifest, state, record, _store(run_dir, state.archive))


def _state(generation: int, archive: tuple[str, ...], kept: dict[int, tuple[str, ...]]) -> State:
    """A state with two tasks more than the generation before."""
    drafts = [Draft(f"n{i}", f"task {i}", "c", 1, "e", "source", "novel") for i in range(9)]
    count = 2 + 2 * generation
    tasks = [Task(task_id(i), drafts[i], 0, {"1": [i]}, {"1": f"do {i}"}) for i in range(count)]
    active = tuple(task.id for task in tasks[1:])
    values = np.random.default_rng(generation).integers(-1, 2, (len(archive), len(active)))
    return State(
        generation=generation,
        archive=archive,
        recipes={name: seed_recipe(name, _weights(name)) for name in archive},
        skills=SkillMatrix(archive, active, values.astype(np.int8)),
        pool=Pool(active, {active[0]: "t00000"}, count),
        library=library_of(tasks),
        strategy=es_init(_STRATEGY, jax.random.key(generation)),
        kept=kept,
    )


_FIRST = ("g000-m00", "g000-m01")
_SECOND = ("g001-m00", "g000-m01")


@pytest.fixture
def two_generations(tmp_path: Path) -> Manifest:
    """Generation 0 is kept, generation 1 is current."""
    manifest = Manifest(run_reader.SCHEMA, -1, (0, 7), {}, 0, (), {})
    manifest = _commit(tmp_path, manifest, _state(0, _FIRST, {0: _FIRST}))
    return _commit(tmp_path, manifest, _state(1, _SECOND, {0: _FIRST}))


def test_restore_is_what_was_committed(tmp_path: Path, two_generations: Manifest) -> None:
    assert run_reader.read_manifest(tmp_path) == two_generations
    state, store = run_reader.read_state(tmp_path, two_generations, _STRATEGY), _store(tmp_path)
    expected = _state(1, _SECOND, {0: _FIRST})
    assert (state.generation, state.archive, state.kept) == (1, _SECOND, {0: _FIRST})
    assert state.pool == expected.pool
    assert state.recipes == expected.recipes
    assert dict(state.library.tasks) == dict(expected.library.tasks)
    assert np.array_equal(state.skills.values, expected.skills.values)
    assert state.skills.tasks == expected.skills.tasks
    for name in _SECOND:
        assert store.get(name)["w"].dtype == jnp.bfloat16
        assert bool((store.get(name)["w"] == _weights(name)["w"]).all())
    assert state.strategy is not None
    assert expected.strategy is not None
    for path, array in to_arrays(expected.strategy).items():
        np.testing.assert_array_equal(to_arrays(state.strategy)[path], array, err_msg=path)


def test_a_run_directory_may_be_moved(tmp_path: Path, two_generations: Manifest) -> None:
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    state = run_reader.read_state(moved, run_reader.read_manifest(moved), _STRATEGY)
    assert state.archive == _SECOND
    assert content_hash(_store(moved).get(_SECOND[0])) == state.recipes[_SECOND[0]].content


def test_only_unreferenced_members_are_deleted(tmp_path: Path, two_generations: Manifest) -> None:
    members = tmp_path / "members"
    assert {path.name for path in members.iterdir()} == {*_FIRST, *_SECOND}
    third = _state(2, ("g002-m00",), {0: _FIRST})
    younger = members / "g003-m01"  # of the generation that is at work meanwhile
    younger.mkdir()
    _commit(tmp_path, two_generations, third)
    assert younger.exists()
    younger.rmdir()
    assert {path.name for path in members.iterdir()} == {*_FIRST, "g002-m00"}


def test_what_was_not_committed_is_removed_and_what_is_foreign_ignored(
    tmp_path: Path, two_generations: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(run=RunOptions(run_dir=str(tmp_path)))
    (tmp_path / ".lock").touch()
    write_atomic(
        tmp_path / "manifest.json",
        json.dumps(
            json.loads((tmp_path / "manifest.json").read_text()) | {"flags": config.settings()}
        ),
    )
    stray = [
        *(tmp_path / folder / "g002.json" for folder in ("archive", "pool")),
        tmp_path / "archive" / "g001.json.tmp",
        tmp_path / "tasks" / "t00099" / "task.py",
        tmp_path / "members" / "g002-m05" / "recipe.json",
    ]
    foreign = [  # somebody else's, which is left alone
        *(
            tmp_path / folder / name
            for folder in ("archive", "members", "pool", "responses", "strategy", "tasks")
            for name in (".nfs000000001", ".DS_Store", "g999.txt", "g002-m05 copy/note", "t00099~")
        ),
        tmp_path / "tasks" / "t00098",  # a file
        tmp_path / "members" / "g002-m06",
        tmp_path / "archive" / "g003.json" / "note",  # a folder
        tmp_path / "archive" / "graph.json",
    ]
    for path in (*stray, *foreign):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"generation": 2}\n{"generation": 2, "cut sho')
    with run_directory.lock_run(config) as manifest:
        assert manifest.generation == 1
        assert not any(path.exists() for path in stray)
        assert all(path.exists() for path in foreign)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["generation"] for line in lines] == [0, 1]
        run_reader.read_state(tmp_path, manifest, _STRATEGY)  # nothing of it is gone
        _commit(tmp_path, manifest, _state(2, ("g002-m00",), {0: _FIRST}))
        assert all(path.exists() for path in foreign)
        assert capsys.readouterr().err.splitlines() == [
            f"acdc: {tmp_path}: ignores archive/.DS_Store, archive/.nfs000000001, "
            "archive/g002-m05 copy and 31 more: the run did not write them"
        ]
        with (
            pytest.raises(AcdcError, match="another process"),
            run_directory.lock_run(config),
        ):
            pass


def test_a_member_that_cannot_be_removed_does_not_end_the_commit(
    tmp_path: Path, two_generations: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, where somebody has one of its files open."""
    monkeypatch.setattr("os.rmdir", lambda *_, **__: (_ for _ in ()).throw(OSError("not empty")))
    manifest = _commit(tmp_path, two_generations, _state(2, ("g002-m00",), {0: _FIRST}))
    assert manifest.generation == 2
    for name in set(_SECOND) - set(_FIRST):  # it stays, but is no member
        assert not (tmp_path / "members" / name / "recipe.json").exists()


@pytest.mark.parametrize("there", [".DS_Store", "lost+found"])
def test_a_folder_that_only_looks_used_may_hold_a_run(tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir()
    with run_directory.lock_run(Config(run=RunOptions(run_dir=str(tmp_path)))) as manifest:
        assert manifest.generation == -1


def test_other_flags_are_refused_only_once_something_is_committed(tmp_path: Path) -> None:
    run_dir = str(tmp_path / "run")
    for children in (4, 6):  # nothing is committed yet: flags may still be corrected
        config = Config(run=RunOptions(run_dir=run_dir, children=children))
        with run_directory.lock_run(config) as manifest:
            pass
    state = _state(0, _FIRST, {})
    _commit(Path(run_dir), manifest, state)
    other = Config(run=RunOptions(run_dir=run_dir, children=4))
    with pytest.raises(ConfigError, match="--children=4"), run_directory.lock_run(other):
        pass


def test_what_changes_in_mid_run_is_recorded(
    tmp_path: Path, two_generations: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Config(run=RunOptions(run_dir=str(tmp_path)))
    (tmp_path / ".lock").touch()
    manifest = dataclasses.replace(two_generations, flags=before.settings())
    write_atomic(tmp_path / "manifest.json", json.dumps(dataclasses.asdict(manifest)))
    after = dataclasses.replace(before.run, gibberish_filter=False, generations=9)
    for _ in range(2):  # the second time, nothing changes
        with run_directory.lock_run(dataclasses.replace(before, run=after)):
            pass
    (line,) = (tmp_path / "changes.jsonl").read_text().splitlines()
    assert json.loads(line) == {"generation": 2, "flags": {"gibberish_filter": [True, False]}}
    assert capsys.readouterr().err == (
        f"acdc: {tmp_path}: from generation 2 on, --gibberish_filter=false (it was true)\n"
    )


def test_flags_txt_repeats_the_run(tmp_path: Path) -> None:
    prompt = DecodeOptions(system_prompt="Think.\nThen answer. ")
    config = Config(run=RunOptions(run_dir=str(tmp_path / "run")), decode=prompt)
    with run_directory.lock_run(config):
        pass
    parsed = flags.parse_flags(Config, [f"--flagfile={tmp_path / 'run' / 'flags.txt'}"])
    assert parsed == config


def test_write_atomic_leaves_the_old_file_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError(5, "killed")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="killed") as error:
            write_atomic(path, "new")
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    write_atomic(path, b"new")
    assert path.read_text() == "new"
