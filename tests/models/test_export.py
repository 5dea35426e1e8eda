"""What is exported is what was loaded, and transformers loads it as it is."""

import dataclasses
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest

from acdc_jax.models import hf, hf_export
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.transformer import init_params
from tests.support.hf_checkpoints import Checkpoint

pytestmark = pytest.mark.xdist_group("torch")


def test_every_family(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """transformers' own logits of it are the same to the last bit, and so is what we read back."""
    import torch
    from transformers import AutoModelForCausalLM

    config = hf.read_config(checkpoint.folder)
    weights = hf.load_weights(checkpoint.folder, config)
    hf_export.save(tmp_path / "out", config, weights, checkpoint.folder, max_shard_bytes=20_000)
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    assert all(file.stat().st_size < 20_000 + 4096 for file in files)  # and the header

    again = hf.read_config(tmp_path / "out")
    assert again == config
    for path, leaf in hf.load_weights(tmp_path / "out", again).items():
        assert np.asarray(leaf).tobytes() == np.asarray(weights[path]).tobytes()

    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype="auto", attn_implementation="eager"
    ).eval()
    assert type(model) is type(checkpoint.model)
    tokens = torch.arange(3, 33)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, checkpoint.model(tokens).logits)


@pytest.mark.parametrize("name", ["qwen2-tied", "llama3"])
def test_bfloat16(name: str, checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    """Loaded and exported in bfloat16: transformers' shards and ours hold the same bytes."""
    import copy

    from safetensors.torch import load_file

    model = copy.deepcopy(checkpoints[name].model).bfloat16()
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    (tmp_path / "theirs" / "generation_config.json").write_text('{"eos_token_id": 2}')
    config = hf.read_config(tmp_path / "theirs")
    assert config.dtype == "bfloat16"
    weights = hf.load_weights(tmp_path / "theirs", config)
    hf_export.save(tmp_path / "ours", config, weights, tmp_path / "theirs", max_shard_bytes=20_000)

    def read(folder: Path) -> dict[str, bytes]:
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        files = {file: load_file(folder / file) for file in set(index.values())}
        return {
            key: bytes(files[file][key].view(-1).untyped_storage()) for key, file in index.items()
        }

    assert read(tmp_path / "theirs") == read(tmp_path / "ours")


def test_padded_vocabulary(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    """Rows that no token uses are kept, and so are their bytes."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoints["qwen2-tied"].folder)
    model.resize_token_embeddings(112)
    model.save_pretrained(tmp_path / "theirs")
    config = hf.read_config(tmp_path / "theirs")
    assert config == dataclasses.replace(
        hf.read_config(checkpoints["qwen2-tied"].folder), vocab_size=112
    )
    weights = hf.load_weights(tmp_path / "theirs", config)
    hf_export.save(tmp_path / "ours", config, weights, checkpoints["qwen2-tied"].folder)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(ours.lm_head.weight, model.lm_head.weight)
    assert ours.lm_head.weight.shape == (112, 32)


@pytest.mark.parametrize(("version", "warns"), [(None, False), ("5.1.0", False), ("4.40.0", True)])
def test_a_large_tokenizer(
    version: str | None, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers warns of those of Mistral's models that its version 4 wrote."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer

    words = {"<end>": 0} | {f"word{i}": i for i in range(1, 100_002)}
    tokenizer = Tokenizer(models.WordLevel(words, "<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    source = tmp_path / "source"
    source.mkdir()
    tokenizer.save(str(source / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (source / "tokenizer_config.json").write_text(json.dumps(fields))
    config = {"eos_token_id": 0, "transformers_version": version}
    (source / "config.json").write_text(json.dumps(config))

    shape = ModelConfig("MistralForCausalLM", 99, 8, 8, 1, 1, 1, 8)
    hf_export.save(tmp_path / "out", shape, init_params(shape, jax.random.key(0)), source)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        AutoTokenizer.from_pretrained(tmp_path / "out")
    finally:
        logger.removeHandler(caplog.handler)
    assert ("incorrect regex pattern" in caplog.text) == warns
