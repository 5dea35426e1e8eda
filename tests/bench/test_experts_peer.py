"""The torch loop that fine-tuning is compared with: it trains the same."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from acdc_jax.bench import experts_peer, torch_process
from acdc_jax.errors import AcdcError
from acdc_jax.models import hf
from acdc_jax.models.transformer import forward
from acdc_jax.quickstart.train import TINY
from acdc_jax.training.examples import Example
from acdc_jax.training.packing import pack
from tests.support.hf_checkpoints import Checkpoint

pytestmark = pytest.mark.xdist_group("torch")  # one process imports torch, not each

_LENGTH = 48


def _examples() -> list[Example]:
    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(4, 99, size).tolist(), [i >= size // 2 for i in range(size)])
        for size in (24, 9, 5, 30, 12)
    ]


def _our_loss(folder: Path) -> float:
    """The mean loss of the answers' tokens, each conversation alone."""
    config = hf.read_config(folder)
    params = hf.load_weights(folder, config)
    losses = list[float]()
    for tokens, answer in _examples():
        ids = jnp.asarray([tokens], jnp.int32)
        logits, _ = forward(config, params, ids, jnp.arange(ids.shape[1], dtype=jnp.int32)[None])
        all_losses = optax.softmax_cross_entropy_with_integer_labels(logits[0, :-1], ids[0, 1:])
        losses += np.asarray(all_losses)[answer[1:]].tolist()
    return float(np.mean(losses))


@pytest.mark.parametrize("name", ["qwen2-tied", "llama3"])
def test_the_peer_trains_the_same(
    name: str, checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """Each way begins with our loss, in one pass or several, and joined rows do, too."""
    folder = checkpoints[name].folder
    data = tmp_path / "data.npz"
    packed = pack(_examples(), _LENGTH)
    experts_peer._save(data, _examples(), packed)
    task: dict[str, Any] = {
        "dtype": "float32",
        "data": str(data),
        "batch_tokens": packed.tokens.size,
        "steps": 1,
        "weights": str(folder),
        "compiled": False,
    }
    expected = _our_loss(folder)
    with np.load(data) as file:
        arrays = dict(file)
    for parts in (1, 2):
        for way in experts_peer.WAYS:
            speed = experts_peer._time(task, way, arrays, parts)
            assert speed.tokens_per_second > 0
            assert speed.first_loss == pytest.approx(expected, rel=1e-5), way


def _varlen_attention(
    q: Any, k: Any, v: Any, starts: Any, ends: Any, longest: int, _: int, *, window_size: Any
) -> Any:
    """What torch's function computes on a GPU, sequence by sequence."""
    import torch
    from torch.nn import functional

    assert window_size == (-1, 0)
    results = []
    for a, b in zip(starts[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert b - a <= longest
        heads = (x[a:b].transpose(0, 1) for x in (q, k, v))
        results.append(functional.scaled_dot_product_attention(*heads, is_causal=True))
    return torch.cat(results, 1).transpose(0, 1)


def test_joined_rows(checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    """With attention to sequences of different lengths, which only GPUs have."""
    import torch
    from torch.nn.attention import varlen

    monkeypatch.setattr(varlen, "varlen_attn", _varlen_attention)
    folder = checkpoints["llama3"].folder
    task = {"weights": str(folder)}
    packed = pack(_examples(), _LENGTH)
    model = experts_peer._model(task, "cpu", experts_peer._register_varlen())
    ((part,),), tokens = experts_peer._packed_steps(packed, packed.tokens.size, 1, joined=True)
    assert part["input_ids"].shape == (1, packed.tokens.size)
    assert tokens == 80
    with torch.no_grad():
        loss = experts_peer._packed_loss(model)(experts_peer._on("cpu", part))
    assert float(loss) == pytest.approx(_our_loss(folder), rel=1e-5)


def test_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are read; a failure is one line; without torch there is nothing to compare."""
    output = [json.dumps(["packed", 1.5, 4.0, 1, "sdpa", None]), ""]

    def run(command: list[str], **options: Any) -> Any:
        task = json.loads(command[-1])
        assert Path(task["data"]).is_file()
        assert task["config"]["model_type"] == "qwen2"
        stdout, stderr = output
        return SimpleNamespace(
            returncode=int(stderr != ""), stdout=f"note\n{stdout}", stderr=stderr
        )

    monkeypatch.setattr(torch_process.subprocess, "run", run)

    def measure() -> Any:
        return experts_peer.measure(
            "packed", TINY, _examples(), batch_tokens=96, length=_LENGTH, steps=1
        )

    assert measure() == experts_peer.Speed("packed", 1.5, 4.0, 1, "sdpa", None)
    output[1] = "Traceback\n  …\nRuntimeError: no kernel"
    with pytest.raises(AcdcError, match=r"failed \(RuntimeError: no kernel\); --nopeer"):
        measure()
    output[1] = "ModuleNotFoundError: No module named 'torch'"
    assert measure() is None
