"""The store: what is put in comes out, within its budget, and nothing referred to is ever lost."""

import shutil
import tempfile
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from orbax.checkpoint._src.serialization import replica_slices

from acdc_jax.errors import AcdcError
from acdc_jax.evolution.skills import SkillMatrix
from acdc_jax.runtime import member_store, run_directory, run_reader
from acdc_jax.runtime.background_commit import BackgroundCommits
from acdc_jax.runtime.breed import member_id, seed_recipe
from acdc_jax.runtime.member_files import load_member, on_disk, save_member
from acdc_jax.runtime.member_store import MemberStore
from acdc_jax.runtime.memory_budget import Budget, bytes_on_device, choose_budget
from acdc_jax.runtime.run_reader import Manifest
from acdc_jax.runtime.state import Record, State
from acdc_jax.sharding import make_mesh, sharding
from acdc_jax.tasks.library import Library
from acdc_jax.tasks.pool import Pool

_MEMBER = 4 * 8 * 4  # bytes


def _shapes(mesh="model:4"):
    where = sharding(make_mesh(mesh, jax.devices()), ("heads", "embed"), (8, 4))
    return {"w": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=where)}


def _weights(value):
    leaf = np.full((8, 4), value, np.float32)
    return {"w": jax.device_put(leaf, _shapes()["w"].sharding)}


def _room(device, host):
    """A budget for so many members (each device has a quarter of one).

    Two leaves, here as large as a member, are on their way between devices and the disk.
    """
    return Budget(device * _MEMBER / 4, (host + 2.1) * _MEMBER / 0.75)


def _fill(store, count):
    for i in range(count):
        store.put(seed_recipe(f"g000-m{i:02d}", _weights(i)), _weights(i))


def _value(store, member):
    weights = store.get(member)
    assert weights["w"].sharding == _shapes()["w"].sharding
    return float(weights["w"][0, 0])


def _check_room(store, device, host):
    with store._lock:  # the reader may be at work
        assert len(store._device) <= device
        assert len(store._host) <= host


@pytest.mark.parametrize(("device", "host"), [(0, 0), (1, 0), (0, 1), (2, 1), (1, 3), (9, 0)])
def test_every_member_comes_back_and_no_tier_is_overfull(tmp_path, device, host):
    store = MemberStore(tmp_path, [_shapes()], _room(device, host))
    for i in range(6):
        store.put(seed_recipe(f"g000-m{i:02d}", _weights(i)), _weights(i))
        _check_room(store, device, host)
    for i in (5, 0, 3, 0, 1, 2, 4, 5):
        store.prefetch([member_id(0, (i + 1) % 6), member_id(0, (i + 2) % 6)])
        assert _value(store, member_id(0, i)) == i
        _check_room(store, device, host)
    spilled = sum(on_disk(path) for path in tmp_path.glob("*"))
    assert spilled >= 6 - device - host


def test_budgets_count_bytes():
    shapes = _shapes()
    assert bytes_on_device(shapes) == _MEMBER / 4
    assert _room(2, 3).members_on_device(shapes) == 2
    assert _room(2, 3).members_on_host(shapes) == 3
    assert Budget(1e9, 6.1 * _MEMBER / 0.75).members_on_host(_shapes("pop:4")) == 1  # four copies
    assert choose_budget(2, 3, shapes) == Budget(2e9, 3e9)
    # Of 48 GB: two of Qwen2.5-7B (15.2 GB, the largest leaf 1.1 GB), and 36 GB page-locked at most.
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaf = jax.ShapeDtypeStruct((545_000_000,), jnp.bfloat16, sharding=here)
    assert Budget(0, 48e9).members_on_host({f"{i}": leaf for i in range(14)}) == 2
    automatic = choose_budget(0, 0, shapes)
    assert 0 < automatic.device < 1e13
    assert 0 < automatic.host < 1e13


def test_a_member_goes_to_the_disk_in_turn(tmp_path, monkeypatch):
    """Page-locked memory is wanted for no more than the largest leaf at a time."""
    taken, transfer = [], replica_slices.transfer_arrays_to_host

    def spy(arrays, *args, **kwargs):
        taken.append(sum(leaf.nbytes for leaf in arrays))
        return transfer(arrays, *args, **kwargs)

    monkeypatch.setattr(replica_slices, "transfer_arrays_to_host", spy)
    sizes = [1024, 4096, 512, 512, 2048, 1024]
    weights = {f"w{i}": jnp.full((size,), i, jnp.float32) for i, size in enumerate(sizes)}
    recipe = seed_recipe(member_id(0, 0), weights)
    save_member(tmp_path / recipe.id, weights, recipe)
    assert sum(taken) == 4 * sum(sizes)
    assert max(taken) == 4 * 4096
    shapes = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for path, leaf in weights.items()
    }
    found, _ = load_member(tmp_path / recipe.id, shapes)
    jax.tree.map(np.testing.assert_array_equal, found, weights)


def test_prefetch_reads_ahead(tmp_path):
    writer = MemberStore(tmp_path, [_shapes()], _room(9, 9))
    _fill(writer, 3)
    for i in range(3):
        writer.save(seed_recipe(member_id(0, i), _weights(i)))
    store = MemberStore(tmp_path, [_shapes()], _room(2, 1))
    store.prefetch([member_id(0, i) for i in range(3)])
    for coming in list(store._reads.values()):
        coming.result()
    assert list(store._device) == [(0, member_id(0, 0)), (0, member_id(0, 1))]
    assert _value(store, member_id(0, 0)) == 0


def test_what_is_nowhere_comes_from_elsewhere_or_not_at_all(tmp_path):
    asked = []

    def seed():
        asked.append("g000-m00")
        return _weights(7)

    store = MemberStore(tmp_path, [_shapes()], _room(1, 0), loaders={"g000-m00": seed})
    assert _value(store, "g000-m00") == _value(store, "g000-m00") == 7
    assert asked == ["g000-m00"]
    _fill(store, 3)
    with pytest.raises(AcdcError, match="g000-m09: there is no such member"):
        MemberStore(tmp_path, [_shapes()], _room(1, 0)).get("g000-m09")
    with pytest.raises(AcdcError, match="g000-m09: there is no such member"):
        store.get("g000-m09")


def test_foreign_files_of_a_member_are_ignored(tmp_path):
    store = MemberStore(tmp_path, [_shapes()], _room(0, 0))
    _fill(store, 1)
    for folder in ("", "weights", "weights/w"):
        for name in (".DS_Store", ".nfs0001", "._w", "note"):
            (tmp_path / "g000-m00" / folder / name).write_text("")
    assert _value(MemberStore(tmp_path, [_shapes()], _room(2, 2)), "g000-m00") == 0


@pytest.mark.parametrize("where", ["get", "prefetch"])
def test_damage_is_noticed_once_a_member_is_read(tmp_path, where):
    writer = MemberStore(tmp_path, [_shapes()], _room(0, 0))
    _fill(writer, 1)
    chunk = tmp_path / "g000-m00/weights/w/0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\x01")
    store = MemberStore(tmp_path, [_shapes()], _room(2, 2))
    if where == "prefetch":
        store.prefetch(["g000-m00"])
    with pytest.raises(AcdcError, match=r"g000-m00: is damaged .*restore the folder"):
        store.get("g000-m00")


@pytest.mark.parametrize(
    ("path", "dtype", "reason"),
    [
        ("w", jnp.bfloat16, r"w is float32\[8, 4\], not bfloat16\[8, 4\]"),
        ("v", jnp.float32, r"v is missing, not float32\[8, 4\]"),
    ],
)
def test_a_member_of_another_shape_is_refused(tmp_path, path, dtype, reason):
    _fill(MemberStore(tmp_path, [_shapes()], _room(0, 0)), 1)
    leaf = jax.ShapeDtypeStruct((8, 4), dtype, sharding=_shapes()["w"].sharding)
    with pytest.raises(AcdcError, match=rf"g000-m00: the member cannot be read \({reason}\)"):
        load_member(tmp_path / "g000-m00", {path: leaf})


def test_a_failed_write_loses_only_what_is_not_committed(tmp_path, monkeypatch):
    (tmp_path / "members").mkdir()
    store = MemberStore(tmp_path / "members", [_shapes()], _room(9, 9))
    first = Manifest(run_reader.SCHEMA, -1, (0, 0), {}, 0, (), {})
    with BackgroundCommits(tmp_path, first, store) as commits:
        _fill(store, 2)
        commits.begin(*_generation(0, ["g000-m00", "g000-m01"], {}))
        commits.wait()

        def full(folder, *_):
            raise AcdcError(f"{folder}: cannot be written (no space)")

        monkeypatch.setattr(member_store, "save_member", full)
        recipe = seed_recipe("g001-m00", _weights(5))
        store.put(recipe, _weights(5))
        commits.begin(*_generation(1, ["g000-m00", "g001-m00"], {}))  # the next one goes on
        assert _value(store, "g001-m00") == 5
        with pytest.raises(AcdcError, match=r"g001-m00: .*no space.*; generation 0 is safe"):
            commits.begin(*_generation(2, ["g000-m00", "g001-m00"], {}))
    manifest = run_reader.read_manifest(tmp_path)
    assert (manifest.generation, manifest.archive) == (0, ("g000-m00", "g000-m01"))
    state = run_reader.read_state(tmp_path, manifest, None)
    assert state.archive == ("g000-m00", "g000-m01")


def test_small_members_are_written_side_by_side(tmp_path, monkeypatch):
    (tmp_path / "members").mkdir()
    store = MemberStore(tmp_path / "members", [_shapes()], _room(9, 9))
    together = threading.Barrier(2, timeout=20)

    def wait_for_another(*member):
        together.wait()
        save_member(*member)

    monkeypatch.setattr(member_store, "save_member", wait_for_another)
    names = [f"g000-m{i:02d}" for i in range(4)]
    _fill(store, 4)
    first = Manifest(run_reader.SCHEMA, -1, (0, 0), {}, 0, (), {})
    with BackgroundCommits(tmp_path, first, store) as commits:
        commits.begin(*_generation(0, names, {}))
    for i, name in enumerate(names):
        weights, _ = load_member(tmp_path / "members" / name, _shapes())
        assert weights["w"][0, 0] == i


def _generation(number, archive, kept):
    """A state and a record with nothing but members in them."""
    recipes = {name: seed_recipe(name, _weights(_value_of(name))) for name in archive}
    skills = SkillMatrix(tuple(archive), (), np.zeros((len(archive), 0), np.int8))
    state = State(number, tuple(archive), recipes, skills, Pool(), Library(), None, kept)
    return state, Record([r for r in recipes.values() if r.id.startswith(f"g{number:03d}")])


def _value_of(name):
    return int(name[1:4]) * 10 + int(name[6:])


class Retention(RuleBasedStateMachine):
    """Generations are put, committed and killed in any order, in little memory.

    Whatever the manifest on disk refers to must be there, with the weights that were put.
    """

    @initialize(device=st.integers(0, 3), host=st.integers(0, 2))
    def begin(self, device, host):
        self.run_dir = Path(tempfile.mkdtemp())
        (self.run_dir / "members").mkdir()
        self.room, self.state = _room(device, host), None
        self.manifest = Manifest(run_reader.SCHEMA, -1, (0, 0), {}, 0, (), {})
        self.open()

    def open(self):
        self.store = MemberStore(self.run_dir / "members", [_shapes()], self.room)
        self.commits = BackgroundCommits(self.run_dir, self.manifest, self.store)

    @rule(children=st.integers(1, 3), keep=st.booleans(), draw=st.randoms(use_true_random=False))
    def generation(self, children, keep, draw):
        number = self.state.generation + 1 if self.state else 0
        archive = list(self.state.archive) if self.state else []
        for parent in archive[:2]:
            assert _value(self.store, parent) == _value_of(parent)
        for name in (member_id(number, c) for c in range(children)):
            weights = _weights(_value_of(name))
            self.store.put(seed_recipe(name, weights), weights)
            archive.append(name)
        draw.shuffle(archive)
        archive = archive[:3]
        kept = dict(self.state.kept) if self.state else {}
        if keep:
            kept[number] = tuple(archive)
        self.state, record = _generation(number, archive, kept)
        self.commits.begin(self.state, record)

    @precondition(lambda self: self.state is not None)
    @rule()
    def check(self):
        self.manifest = self.commits.wait()
        assert self.manifest == run_reader.read_manifest(self.run_dir)
        assert self.manifest.archive == self.state.archive
        folder = self.run_dir / "members"
        assert {path.name for path in folder.iterdir()} == set(self.manifest.retained)
        for name in set(self.manifest.retained):
            weights, _ = load_member(folder / name, _shapes())
            assert bool((weights["w"] == _value_of(name)).all())

    @precondition(lambda self: self.state is not None)
    @rule(half=st.booleans())
    def kill(self, half):
        """The process dies: memory is lost, and a folder of the next generation is half there."""
        self.check()
        if half:
            stray = self.run_dir / "members" / member_id(self.state.generation + 1, 0)
            stray.mkdir()
        run_directory._remove_uncommitted(self.run_dir, self.manifest)
        self.open()
        self.state = run_reader.read_state(self.run_dir, self.manifest, None)
        self.store.warm(self.state.archive)

    def teardown(self):
        if getattr(self, "state", None) is not None:
            self.check()
        shutil.rmtree(self.run_dir, ignore_errors=True)


TestRetention = Retention.TestCase
TestRetention.settings = settings(max_examples=6, stateful_step_count=8, deadline=None)
