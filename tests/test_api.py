"""The public API, line by line, on tiny checkpoints."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import acdc_jax as acdc
from acdc_jax.flags import parse_flags
from acdc_jax.models.transformer import FusedParams
from acdc_jax.run_options import ProcessOptions
from acdc_jax.sharding import make_mesh

FAMILIES = Path(acdc.__file__).parent / "quickstart" / "families"


def test_names_are_imported_on_first_use() -> None:
    """`import acdc_jax` is quick; `coevolve` is the function, not the module of that name."""
    code = (
        "import sys, acdc_jax as acdc; assert 'jax' not in sys.modules\n"
        "import acdc_jax.coevolve\n"
        "for name in acdc.__all__: assert getattr(acdc, name) is not None, name\n"
        "from acdc_jax.coevolve import step\n"
        "assert acdc.coevolve.__module__ == 'acdc_jax.experiment'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'merge_models'"):
        _ = acdc.merge_models  # type: ignore[attr-defined]


def test_the_block_of_the_readme(write_model: Callable[..., Path], tmp_path: Path) -> None:
    """Load, merge, mutate, ask, evaluate, select and save."""
    folders = [write_model(tmp_path / str(i), i, max_positions=128) for i in range(3)]
    base, a, b = map(acdc.load_hf, folders)
    child = acdc.merge(base, [a, b], weights=[0.5, 0.5], method="ties", density=0.5)
    child = acdc.mutate(child, jax.random.key(0), acdc.SVDNoise(scale=0.25, rank=256))
    answer = acdc.generate(child, ["Why is the sky blue?"], max_new_tokens=64)[0]
    assert isinstance(answer, str)
    tasks = acdc.load_tasks(FAMILIES)[:2]
    skills = acdc.evaluate([a, b, child], tasks, max_new_tokens=4)
    assert skills.shape == (3, 2)
    assert skills.dtype == np.int8
    assert (skills >= 0).all()
    assert set(acdc.select(skills, size=16).tolist()) == {0, 1, 2}
    acdc.save_hf(child, tmp_path / "child")
    again = acdc.load_hf(tmp_path / "child")
    jax.tree.map(np.testing.assert_array_equal, again.params, child.params)
    assert again.stop_tokens == child.stop_tokens
    assert acdc.generate(again, ["Why is the sky blue?"], max_new_tokens=64) == [answer]


def test_coevolve(
    models: tuple[Path, ...], arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    """One state per generation; a finished run yields nothing more."""
    _, *argv = arguments(tmp_path / "run", models[0], models[1:])
    config = parse_flags(acdc.Config, argv)
    states = list(acdc.coevolve(config))
    assert [state.generation for state in states] == [0, 1]
    assert len(states[-1].archive) == config.run.population == 4
    assert list(acdc.coevolve(config)) == []


def test_a_model_is_a_pytree(models: tuple[Path, ...]) -> None:
    """Its leaves are the weights; where they go and their dtype are arguments of `load_hf`."""
    mesh = make_mesh("model:2", jax.devices()[:2])
    model = acdc.load_hf(models[0], dtype="bfloat16", sharding=mesh)
    assert model.config.dtype == "bfloat16"
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(model))
    up = model.params["layers.0.mlp.up.weight"]
    assert up.addressable_shards[0].data.shape[0] * 2 == up.shape[0]
    child = acdc.merge(model, [model], method="linear")
    assert child.params["layers.0.mlp.up.weight"].sharding == up.sharding
    doubled = jax.tree.map(lambda leaf: leaf + leaf, model)
    assert isinstance(doubled, acdc.Model)
    assert doubled.config == model.config
    one = acdc.load_hf(models[0], sharding=jax.sharding.SingleDeviceSharding(jax.devices()[1]))
    assert {d for leaf in jax.tree.leaves(one) for d in leaf.devices()} == {jax.devices()[1]}


def test_operators_take_any_pytree() -> None:
    """Nested trees too; a merge of equal weights is the mean."""
    base = {"layers": [{"up": {"weight": jnp.zeros((4, 4))}}]}
    parents = [jax.tree.map(lambda x, i=i: x + i, base) for i in (1.0, 3.0)]
    merged = acdc.merge(base, parents)
    np.testing.assert_allclose(merged["layers"][0]["up"]["weight"], 2.0)
    noise = acdc.GaussianNoise(scale=1.0)
    mutated = acdc.mutate(base, jax.random.key(0), noise)
    assert jax.tree.structure(mutated) == jax.tree.structure(base)
    assert np.any(np.asarray(mutated["layers"][0]["up"]["weight"]))
    assert not np.any(np.asarray(base["layers"][0]["up"]["weight"]))


def test_weights_may_be_numpys(models: tuple[Path, ...]) -> None:
    """`jax.device_get` of a model is a model; a scalar is no matrix to be mutated."""
    model, other = map(acdc.load_hf, models[:2])
    host, noise = jax.device_get(model), acdc.GaussianNoise(scale=1.0)
    ask = {"prompts": ["Why?"], "max_new_tokens": 4}
    assert acdc.generate(host, **ask) == acdc.generate(model, **ask)
    for operate in (
        lambda model: acdc.mutate(model, jax.random.key(0), noise),
        lambda model: acdc.merge(model, [other, model], method="ties", density=0.5),
    ):
        jax.tree.map(np.testing.assert_array_equal, operate(host).params, operate(model).params)
    with pytest.raises(ValueError, match="is not a matrix"):
        acdc.mutate({"up": {"weight": 1.0}}, jax.random.key(0), noise)


def test_a_mesh_of_any_kind_of_axes(models: tuple[Path, ...]) -> None:
    """`jax.make_mesh` makes axes of another kind than `acdc_jax.sharding.make_mesh`."""
    mesh = jax.make_mesh((2,), ("model",), devices=jax.devices()[:2])
    sharded, model = acdc.load_hf(models[0], sharding=mesh), acdc.load_hf(models[0])
    up = sharded.params["layers.0.mlp.up.weight"]
    assert up.addressable_shards[0].data.shape[0] * 2 == up.shape[0]
    ask = {"prompts": ["Why?"], "max_new_tokens": 4}
    assert acdc.generate(sharded, **ask) == acdc.generate(model, **ask)


def test_wrong_arguments(models: tuple[Path, ...]) -> None:
    """ValueError and TypeError in the library's words."""
    base, a, b = map(acdc.load_hf, models)
    wide = a.replace(config=a.config.__class__(**{**vars(a.config), "rope_theta": 5.0}))
    with pytest.raises(ValueError, match=r"parent 1 has rope_theta 5\.0, but the base has"):
        acdc.merge(base, [a, wide])
    with pytest.raises(ValueError, match="at least one parent"):
        acdc.merge(base, [])
    with pytest.raises(ValueError, match=r"weights has shape \(1,\), but there are 2 parents"):
        acdc.merge(base, [a, b], weights=[1.0])
    with pytest.raises(ValueError, match="dare_ties drops entries at random: pass key="):
        acdc.merge(base, [a, b], method="dare_ties", density=0.5)
    with pytest.raises(ValueError, match="density"):
        acdc.merge(base, [a, b], method="linear", density=0.5)
    with pytest.raises(TypeError, match="densty"):
        acdc.merge(base, [a, b], densty=0.5)
    with pytest.raises(ValueError, match=r"weight b is missing from the base"):
        acdc.merge({"a": jnp.ones(2)}, [{"a": jnp.ones(2), "b": jnp.ones(2)}])
    with pytest.raises(ValueError, match="a key"):
        acdc.generate(a, ["x"], sampling=acdc.Sampling(1.0))
    gate = "layers.0.mlp.gate.weight"
    with pytest.raises(ValueError, match=rf"weight {gate} is missing"):
        acdc.generate(a.replace(params={p: x for p, x in a.params.items() if p != gate}), ["x"])
    with pytest.raises(ValueError, match="skills are 1"):
        acdc.select(np.full((2, 3), 2, np.int8), 1)
    with pytest.raises(ValueError, match="no task families there"):
        acdc.load_tasks(models[0])
    assert not isinstance(a.params, FusedParams)


def test_what_cannot_work_is_a_value_error() -> None:
    config = acdc.Config(processes=ProcessOptions(num_processes=2, coordinator="localhost:1"))
    with pytest.raises(ValueError, match="one process"):
        next(iter(acdc.coevolve(config)))
    with pytest.raises(ValueError, match="no leaf is a projection"):
        acdc.mutate({"matrix": jnp.ones((4, 4))}, jax.random.key(0), acdc.GaussianNoise())
    one = {"a": jnp.ones(2)}
    with pytest.raises(ValueError, match="weights must be finite"):
        acdc.merge(one, [one, one], weights=[0.5, float("nan")])
    with pytest.raises(ValueError, match="nowhere"):
        acdc.load_tasks("nowhere")
    assert len(acdc.load_tasks("general")) > 10
