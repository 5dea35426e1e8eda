"""Distributions of what is sampled, against numpy and transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.errors import ConfigError
from acdc_jax.generate.sampling import Sampling, nucleus, sample

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], np.float32)
DRAWS = 40_000


def frequencies(sampling: Sampling) -> np.ndarray:
    """How often each token is drawn, in many rows at once."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    logits = jnp.broadcast_to(jnp.asarray(LOGITS), (DRAWS, LOGITS.size))
    tokens = jax.jit(sample, static_argnums=2)(logits, keys, sampling)
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
    assert sample(logits, None, Sampling()).tolist() == [1, 0]
    with pytest.raises(ValueError, match="keys"):
        sample(logits, None, Sampling(1.0))


def test_rows_are_independent() -> None:
    """A row's token depends on its own key and logits."""
    keys = jax.random.split(jax.random.key(1), 8)
    logits = jax.random.normal(jax.random.key(2), (8, 20))
    together = sample(logits, keys, Sampling(1.0, 0.8))
    alone = [sample(logits[i : i + 1], keys[i : i + 1], Sampling(1.0, 0.8))[0] for i in range(8)]
    assert together.tolist() == [int(token) for token in alone]


@pytest.mark.xdist_group("torch")
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_nucleus_equals_transformers(top_p: float) -> None:
    """The same tokens stay."""
    import torch
    from transformers import TopPLogitsWarper

    logits = np.random.default_rng(0).standard_normal((16, 50)).astype(np.float32) * 3
    theirs = TopPLogitsWarper(top_p)(None, torch.tensor(logits)).numpy()
    np.testing.assert_array_equal(nucleus(jnp.asarray(logits), top_p), theirs)


@pytest.mark.parametrize("values", [(-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_refusals(values: tuple[float, float]) -> None:
    """Values that mean nothing."""
    with pytest.raises(ConfigError, match="must be"):
        Sampling(*values)
