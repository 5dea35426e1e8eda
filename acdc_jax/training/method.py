"""What is trained: all weights, or LoRA adapters beside a base that stays as it is."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from acdc_jax.models.config import ModelConfig
from acdc_jax.models.kernels.options import Kernels, choose_kernels
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.params import Params
from acdc_jax.training import lora
from acdc_jax.training.batches import Batch
from acdc_jax.training.fit import Loss
from acdc_jax.training.loss import answer_loss, cast_params


class Method(NamedTuple):
    """One of the two ways.

    Attributes:
        init: Returns what is trained of one expert, given the base and a PRNG key.
        loss: Of one expert.
        shardings: Path → sharding of a leaf [experts, …] of what is trained.
        keeps_base: Whether the loss reads the base.
        weights: Returns an expert's weights, given the base, if it is kept, and what was trained.
    """

    init: Callable[[Params, jax.Array], Params]
    loss: Loss
    shardings: Mapping[str, NamedSharding]
    keeps_base: bool
    weights: Callable[[Params, Params], Params]


def full(config: ModelConfig, mesh: Mesh, *, recompute: bool) -> Method:
    """Return the training of all weights.

    Args:
        config: Shape of the decoder.
        mesh: Devices.
        recompute: Whether a gradient computes each layer again.
    """
    kernels = _kernels(config, mesh)

    def init(base: Params, key: jax.Array) -> Params:
        return {path: leaf.astype(jnp.float32) for path, leaf in base.items()}

    def loss(base: Params, params: Params, batch: Batch) -> jax.Array:
        weights, table = cast_params(config, params)
        return answer_loss(config, weights, table, batch, kernels=kernels, recompute=recompute)

    def weights(base: Params, params: Params) -> Params:
        return {path: leaf.astype(config.dtype) for path, leaf in params.items()}

    return Method(init, loss, param_shardings(mesh, config, population=True), False, weights)


def adapters(
    config: ModelConfig, mesh: Mesh, rank: int, scale: float, *, recompute: bool
) -> Method:
    """Return the training of LoRA adapters on all projections; see `full`."""
    kernels = _kernels(config, mesh)

    def init(base: Params, key: jax.Array) -> Params:
        return lora.init_adapter(config, rank, key)

    def loss(base: Params, params: Params, batch: Batch) -> jax.Array:
        matrices = lora.low_rank(config, params, scale)
        return answer_loss(
            config,
            base,
            base["embed.weight"],
            batch,
            low_rank=matrices,
            kernels=kernels,
            recompute=recompute,
        )

    shardings = lora.adapter_shardings(mesh, config, rank)
    return Method(init, loss, shardings, True, partial(lora.merge_adapter, scale=scale))


def _kernels(config: ModelConfig, mesh: Mesh) -> Kernels:
    """Return the one kernel that has a gradient, where it runs: not on sharded heads."""
    alone = mesh.shape.get("model", 1) == 1
    return Kernels(packed_attention=alone and choose_kernels(config.dtype).packed_attention)
