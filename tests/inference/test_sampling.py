"""Distributions of what is sampled, against numpy and transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.inference.sampling import Sampling, confidence, filter_logits, sample

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], np.float32)
DRAWS = 40_000


def frequencies(sampling: Sampling) -> np.ndarray:
    """How often each token is drawn, in many rows at once."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    logits = jnp.broadcast_to(jnp.asarray(LOGITS), (DRAWS, LOGITS.size))
    tokens, _ = jax.jit(sample, static_argnums=2)(logits, keys, sampling)
    assert tokens.dtype == jnp.int32
    return np.bincount(np.asarray(tokens), minlength=LOGITS.size) / DRAWS


def softmax(logits: np.ndarray) -> np.ndarray:
    """In float64."""
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature(temperature: float) -> None:
    """Frequencies are those of the softmax, within five standard deviations."""
    expected = softmax(LOGITS / temperature)
    error = np.abs(frequencies(Sampling(temperature)) - expected)
    assert (error < 5 * np.sqrt(expected / DRAWS)).all()


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 1), (0.7, 2), (0.85, 3), (0.95, 4), (1.0, 6)])
def test_top_p(top_p: float, kept: int) -> None:
    """Only the nucleus is drawn, in its own proportions."""
    expected = softmax(np.where(np.arange(6) < kept, LOGITS, -np.inf))
    measured = frequencies(Sampling(1.0, top_p))
    assert (np.abs(measured - expected) <= 5 * np.sqrt(expected / DRAWS)).all()


def test_temperature_comes_before_the_nucleus() -> None:
    """At 2.0 the distribution is flatter, so that the nucleus is larger."""
    kept = int((np.cumsum(softmax(LOGITS / 2)) - softmax(LOGITS / 2) < 0.85).sum())
    assert kept == 4
    assert np.count_nonzero(frequencies(Sampling(2.0, 0.85))) == kept


def test_greedy() -> None:
    """The most likely; of equals the first; no key needed."""
    logits = jnp.asarray([[0.0, 3.0, 3.0], [5.0, 1.0, 2.0]])
    assert sample(logits, None, Sampling())[0].tolist() == [1, 0]
    with pytest.raises(ValueError, match="keys"):
        sample(logits, None, Sampling(1.0))


def test_rows_are_independent() -> None:
    """A row's token depends on its own key and logits."""
    keys = jax.random.split(jax.random.key(1), 8)
    logits = jax.random.normal(jax.random.key(2), (8, 20))
    together, _ = sample(logits, keys, Sampling(1.0, 0.8))
    alone = [sample(logits[i : i + 1], keys[i : i + 1], Sampling(1.0, 0.8))[0][0] for i in range(8)]
    assert together.tolist() == [int(token) for token in alone]


@pytest.mark.xdist_group("torch")
@pytest.mark.parametrize(
    "sampling",
    [
        *(Sampling(1.0, top_p=top_p) for top_p in (1e-6, 0.1, 0.5, 0.9, 0.999)),
        *(Sampling(1.0, top_k=top_k) for top_k in (1, 7, 50, 99)),
        *(Sampling(1.0, min_p=min_p) for min_p in (0.001, 0.3, 1.0)),
        Sampling(0.7, 0.8, 20, 0.05),
        Sampling(1.9, 0.99, 45, 0.01),
    ],
)
def test_what_stays_equals_transformers(sampling: Sampling) -> None:
    """The same tokens, with the same logits."""
    import torch
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = np.random.default_rng(0).standard_normal((16, 50)).astype(np.float32) * 3
    logits[0] = -np.abs(logits[0])
    logits[1, ::2], logits[1, 1::2] = 0.0, -0.0
    theirs = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        theirs.append(TopKLogitsWarper(min(sampling.top_k, 50)))
    if sampling.top_p < 1:
        theirs.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        theirs.append(MinPLogitsWarper(sampling.min_p))
    expected = theirs(None, torch.tensor(logits)).numpy()
    ours = np.asarray(filter_logits(jnp.asarray(logits), sampling))
    # Of equals, as in row 1, they keep some and we keep all.
    np.testing.assert_allclose(np.delete(ours, 1, 0), np.delete(expected, 1, 0), rtol=1e-6)
    assert np.isfinite(ours[1]).all()


def test_confidence() -> None:
    """Against float64."""
    logits = np.random.default_rng(0).standard_normal((4, 30)).astype(np.float32) * 5
    wide = logits.astype(np.float64)
    log_probs = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    tokens = np.array([3, 0, 29, 7], np.int32)
    chosen, mean = confidence(jnp.asarray(logits), jnp.asarray(tokens))
    np.testing.assert_allclose(chosen, log_probs[np.arange(4), tokens], atol=1e-5)
    np.testing.assert_allclose(mean, log_probs.mean(-1), atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"top_k": 0},
        {"min_p": -0.1},
        {"min_p": 2.0},
    ],
)
def test_refusals(values: dict[str, float]) -> None:
    """Values that mean nothing, by name."""
    with pytest.raises(ValueError, match=f"{next(iter(values))} must be"):
        Sampling(**values)  # type: ignore[arg-type]


def test_the_greedy_token_is_numpys() -> None:
    """With ties, infinities and NaN; its logit tells whether there is a NaN."""
    logits = np.random.default_rng(0).standard_normal((9, 257)).astype(np.float32)
    logits[1, 5] = logits[2] = np.nan
    logits[3, [7, 90]] = np.inf
    logits[4], logits[5] = 0, -np.inf
    logits[6, [8, 30]] = logits[6].max()
    logits[7, [9, 40]] = np.nan
    token, logit = jax.jit(lambda x: sample(x, None, Sampling()))(logits)
    np.testing.assert_array_equal(token, logits.argmax(-1))
    np.testing.assert_array_equal(logit, logits.max(-1))
