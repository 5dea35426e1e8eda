"""Peer inboxes are used only if a trial sums correctly; the kernel itself needs GPUs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acdc_jax.bench.decode import step_settings
from acdc_jax.inference import all_reduce_trial
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.fused_weights import fuse_weights
from acdc_jax.models.kernels import residual_norm
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.models.transformer import init_params
from acdc_jax.sharding import make_mesh

CONFIG = ModelConfig("LlamaForCausalLM", 40, 32, 48, 1, 4, 2, 8, max_positions=64)
MESH = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))


@pytest.mark.parametrize("off", [0, 1])
def test_sums_are_tried_out(
    off: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that gets a wrong one is named."""

    def stand_in(x: jax.Array, parts: jax.Array, *_: Any, **named: Any) -> tuple[jax.Array, ...]:
        assert named["heads"].inboxes is not None
        total = x + parts.sum(0).astype(x.dtype)
        return total.at[1, 5].add(off), x

    monkeypatch.setattr(residual_norm, "residual_norm", stand_in)
    all_reduce_trial.sums_are_right.cache_clear()
    assert all_reduce_trial.sums_are_right(MESH, "model", 3, 48, jnp.dtype("bfloat16")) == (not off)
    assert ("got a wrong sum from its peers" in caplog.text) == bool(off)
    all_reduce_trial.sums_are_right.cache_clear()


def test_the_trial_compiles_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that can be seen without one."""
    texts = []

    def lowered(run: Any, **_: Any) -> Any:
        def call(*given: Any) -> Any:
            traced = real(run).trace(*given)
            texts.append(traced.lower(lowering_platforms=("cuda",)).as_text())
            return given[0]

        return call

    real = jax.jit
    monkeypatch.setattr(all_reduce_trial.jax, "jit", lowered)
    all_reduce_trial.sums_are_right.cache_clear()
    assert not all_reduce_trial.sums_are_right(
        MESH, "model", 2, 3584, jnp.dtype("bfloat16")
    )  # nothing was added
    all_reduce_trial.sums_are_right.cache_clear()
    assert "residual_norm" in texts[0]


@pytest.mark.parametrize("right", [True, False])
def test_devices_exchange_where_their_sums_are_right(
    right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are tried out first."""
    mesh = make_mesh("model:2", jax.devices()[:2])
    weights = init_params(CONFIG, jax.random.key(0))
    placed = jax.device_put(weights, param_shardings(mesh, CONFIG, population=False))
    fused_params = fuse_weights(CONFIG, placed)
    monkeypatch.setattr(all_reduce_trial, "LEAST_WIDTH", CONFIG.hidden_size)
    monkeypatch.setattr(all_reduce_trial, "reachable", lambda mesh: True)
    monkeypatch.setattr(residual_norm, "fits", lambda x: True)
    monkeypatch.setattr(all_reduce_trial, "sums_are_right", lambda *given: right)
    settings = step_settings(CONFIG, fused_params, 8)
    kernels = dataclasses.replace(settings.kernels, residual_norm=True)
    settings = dataclasses.replace(settings, kernels=kernels)
    found = all_reduce_trial.choose_inboxes(settings, fused_params, 4)
    assert (found is not None) == right
