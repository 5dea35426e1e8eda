"""An exported member is an ordinary Hugging Face folder."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax import checkpoint
from acdc_jax.checkpoint import Manifest
from acdc_jax.evaluate.skills import SkillMatrix
from acdc_jax.evolve.children import seed_recipe
from acdc_jax.main import main
from acdc_jax.model import hf
from acdc_jax.model.transformer import forward
from acdc_jax.state import Record, State
from acdc_jax.tasks.library import Library
from acdc_jax.tasks.pool import Pool

torch = pytest.importorskip("torch", reason="transformers' decoders need PyTorch")


@pytest.fixture
def run_dir(write_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A run directory with one member, as a generation's commit leaves it."""
    source = write_model(tmp_path / "source", 3)
    config = hf.read_config(source)
    weights = hf.load_weights(source, config)
    name, run_dir = "g000-m00", tmp_path / "run"
    empty = SkillMatrix((name,), (), np.zeros((1, 0), np.int8))
    recipes = {name: seed_recipe(name)}
    state = State(
        0, (name,), recipes, {name: weights}, empty, Pool(), Library(), None, {0: (name,)}
    )
    run_dir.mkdir()
    checkpoint.commit(
        run_dir, Manifest(checkpoint.SCHEMA, -1, (0, 0), {}, 0, (), {}), state, Record()
    )
    source.rename(run_dir / "model")
    (run_dir / "model" / "model.safetensors").unlink()
    fields = json.dumps(dataclasses.asdict(config))
    (run_dir / "model" / "acdc_model.json").write_text(fields)
    return run_dir


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_transformers_computes_the_same(run_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    assert main(["export", str(run_dir), "g000-m00", str(out)]) == 0
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    messages = [{"role": "user", "content": "mirror: abcd"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(str(out))
        theirs = model(torch.tensor([tokens])).logits.numpy()
    config = hf.read_config(out)
    positions = jnp.arange(len(tokens), dtype=jnp.int32)[None]
    ours, _ = forward(
        config, hf.load_weights(out, config), jnp.asarray([tokens], jnp.int32), positions
    )
    assert np.abs(np.asarray(jax.device_get(ours)) - theirs).max() < 1e-4


def test_bad_requests_are_one_line(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    for argv, status, named in (
        ([str(run_dir), "g009-m09", out], 1, "g009-m09"),
        ([str(tmp_path / "nowhere"), "g000-m00", out], 1, "nowhere"),
        ([str(run_dir), "g000-m00"], 2, "usage"),
        ([str(run_dir), "g000-m00", str(run_dir)], 1, "not an empty folder"),
    ):
        assert main(["export", *argv]) == status
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert named in error
    assert not Path(out).exists()
