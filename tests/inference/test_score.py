"""Log-probabilities of texts: against a plain forward pass, on meshes, in few compilations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.errors import AcdcError
from acdc_jax.inference import score
from acdc_jax.inference.score import log_likelihoods
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.kernels.options import Kernels
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.transformer import forward, param_shapes
from acdc_jax.params import Params
from acdc_jax.sharding import make_mesh

CONFIG = ModelConfig("LlamaForCausalLM", 40, 32, 48, 1, 4, 2, 8, max_positions=64)
RNG = np.random.default_rng(0)
WEIGHTS = {
    path: jnp.asarray(RNG.normal(size=leaf.shape) * leaf.shape[-1] ** -0.5, leaf.dtype)
    for path, leaf in param_shapes(CONFIG).items()
}
TEXTS = [RNG.integers(0, 40, n).tolist() for n in (2, 65, 9, 61, 12, 12, 3, 64, 8, 5)]
COUNTS = [1, 64, 3, 1, 11, 9, 2, 20, 7, 2]
# Questions with choices of one token, and one of which a choice continues another.
for stem in ([5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8]):
    TEXTS += [[*stem, letter] for letter in (10, 11, 12, 13, 14)]
    COUNTS += [1] * 5
TEXTS += [[5, 6], [5, 6, 7], [5, 6, 7, 10]]
COUNTS += [1, 2, 3]


@pytest.fixture(scope="module")
def expected() -> tuple[list[float], list[bool]]:
    """Log-probabilities from all logits of all texts, and whether greedy decoding says them."""
    tokens = np.zeros((len(TEXTS), 64), np.int32)
    for row, text in enumerate(TEXTS):
        tokens[row, : len(text) - 1] = text[:-1]
    positions = np.broadcast_to(np.arange(64, dtype=np.int32), tokens.shape)
    every, _ = jax.jit(forward, static_argnums=0)(CONFIG, WEIGHTS, tokens, positions)
    totals, greedy = [], []
    for logits, text, count in zip(np.asarray(every, np.float64), TEXTS, COUNTS, strict=True):
        part = logits[len(text) - 1 - count : len(text) - 1]
        chosen = part[np.arange(count), text[-count:]] - np.log(np.exp(part).sum(-1))
        totals.append(float(chosen.sum()))
        greedy.append(np.array_equal(part.argmax(-1), text[-count:]))
    assert any(greedy)
    assert not all(greedy)
    return totals, greedy


def _scored(weights: Params = WEIGHTS, batch_size: int = 8) -> list[tuple[float, bool]]:
    found = {
        i: (total, greedy)
        for i, total, greedy in log_likelihoods(
            CONFIG, weights, TEXTS, COUNTS, pad_token=0, batch_size=batch_size
        )
    }
    assert sorted(found) == list(range(len(TEXTS)))
    return [found[i] for i in range(len(TEXTS))]


@pytest.mark.parametrize("how", ["one by one", "in groups", "decode layout", "mesh"])
def test_a_plain_forward_pass_says_the_same(
    how: str, expected: tuple[list[float], list[bool]]
) -> None:
    weights = WEIGHTS
    if how == "decode layout":
        weights = fuse_weights(CONFIG, WEIGHTS)
    elif how == "mesh":
        mesh = make_mesh("model:2", jax.devices()[:2])
        weights = jax.device_put(WEIGHTS, param_shardings(mesh, CONFIG, population=False))
    totals, greedy = zip(*_scored(weights, 1 if how == "one by one" else 8), strict=True)
    np.testing.assert_allclose(totals, expected[0], rtol=0, atol=1e-4)
    assert list(greedy) == expected[1]


def test_one_compilation_for_each_length_and_none_afterwards() -> None:
    score._score_tails.clear_cache()
    _scored()
    compiled = score._score_tails._cache_size()
    assert compiled <= 3  # 8, 12 and 64 tokens
    _scored({path: leaf + 1 for path, leaf in WEIGHTS.items()})
    assert score._score_tails._cache_size() == compiled


def test_texts_that_differ_at_the_end_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    tails = score._score_tails

    def count(
        config: ModelConfig, tail: int, kernels: Kernels, weights: Params, *arrays: jax.Array
    ) -> object:
        nonlocal read
        read += int((arrays[1] > 1).sum())
        return tails(config, tail, kernels, weights, *arrays)

    monkeypatch.setattr(score, "_score_tails", count)
    texts = [[1, 2, 3, letter] for letter in range(10, 20)]
    list(log_likelihoods(CONFIG, WEIGHTS, texts, [1] * 10, pad_token=0, batch_size=4))
    assert read == 1


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ([1], 1, "1 of 1 tokens"),
        ([1, 2], 0, "0 of 2 tokens"),
        ([1] * 66, 1, "window is 64"),
    ],
)
def test_refusals(text: list[int], count: int, message: str) -> None:
    with pytest.raises(AcdcError, match=message):
        log_likelihoods(CONFIG, WEIGHTS, [text], [count], pad_token=0, batch_size=1)


def test_a_soft_cap_counts() -> None:
    """Scores are of the logits that decoding sees."""
    capped = dataclasses.replace(CONFIG, logit_softcap=1.0)
    (plain,) = log_likelihoods(CONFIG, WEIGHTS, [[1, 2]], [1], pad_token=0, batch_size=1)
    (soft,) = log_likelihoods(capped, WEIGHTS, [[1, 2]], [1], pad_token=0, batch_size=1)
    assert plain[1] != soft[1]
