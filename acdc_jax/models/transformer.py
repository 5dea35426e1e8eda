"""The decoder of every family: one definition, every weight declared once.

`Transformer` declares each weight with its shape, dtype, logical axes and initial scale.
Initialisation, sharding, checkpoint conversion and the forward pass all follow from that.
Outside this file the weights are a flat dictionary from dotted path to array, one leaf per
layer per weight: a stacked [layers, ...] leaf is copied by every decoding step on a GPU.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from acdc_jax.models.attention import Cache, rope_angles, rope_frequencies, sights
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.kernels.head_sharding import Spread
from acdc_jax.models.layers import Layer, Linear, Norm
from acdc_jax.params import Params
from acdc_jax.sharding import Axes


class Transformer(nnx.Module):  # type: ignore[misc]
    """A decoder-only language model; its weights are abstract until `nnx.merge` fills them.

    The layout in which weights are stored has one matrix [out, in] per projection. `fused` is the
    layout for decoding, with query, key and value projections as one matrix, gate and up as one,
    and all of them [in, out].
    """

    def __init__(self, config: ModelConfig, fused: bool = False) -> None:
        self.config = config
        size = (config.hidden_size, config.vocab_size, ("vocab", "embed"), config.dtype)
        self.embed = Linear(*size)
        self.layers = nnx.List([Layer(config, fused) for _ in range(config.num_layers)])
        self.norm = Norm(config, config.hidden_size)
        self.head = None if config.tie_embeddings else Linear(*size, turned=fused)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache: Cache | None,
        valid: jax.Array | None,
        last: jax.Array | None,
        spread: Spread | None,
    ) -> tuple[jax.Array, Cache | None]:
        config = self.config
        slots = tokens.shape[1] if cache is None else cache.k[0].shape[1]
        windows = {config.window(i) for i in range(config.num_layers)}
        sight = sights(windows, positions, slots, valid)
        # Layers with a window may rotate by frequencies of their own.
        angles = {
            local: rope_angles(positions, rope_frequencies(config, local=local))
            for local in map(bool, windows)
        }

        x, parts = self._embed(tokens, spread)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            past = None if cache is None else (cache.k[i], cache.v[i])
            window = config.window(i)
            x, parts, (k, v) = layer(
                x, parts, angles[window > 0], sight[window], positions, past, spread
            )
            keys.append(k)
            values.append(v)
        if last is not None and parts is not None:
            x = jnp.take_along_axis(x, last.reshape(len(x), -1, 1), axis=1)
            parts = jnp.take_along_axis(parts, last.reshape(1, len(x), -1, 1), axis=2)
        _, x = self.norm.after(x, parts, spread)
        logits = (self.embed if self.head is None else self.head)(x, jnp.dtype("float32"))
        if config.logit_softcap:
            logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
        return logits, None if cache is None else Cache(tuple(keys), tuple(values))

    def _embed(
        self, tokens: jax.Array, spread: Spread | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """The residual stream [B, T, D], and parts [devices, B, T, D] of what is added first."""
        table, config = self.embed.weight[...], self.config
        if spread is None or spread.peers is None:
            x = table[tokens]
            if config.scale_embedding:
                x = x * jnp.asarray(config.hidden_size**0.5, x.dtype)
            return x, None
        axis = spread.axis

        def own(table: jax.Array, tokens: jax.Array) -> jax.Array:
            row = tokens - jax.lax.axis_index(axis) * len(table)
            here = (row >= 0) & (row < len(table))
            return jnp.where(here[..., None], table[jnp.where(here, row, 0)], 0)[None]

        rows, whole = PartitionSpec(axis), PartitionSpec()
        find = jax.shard_map(own, mesh=spread.mesh, in_specs=(rows, whole), out_specs=rows)
        parts = find(table, tokens)
        return jnp.zeros(parts.shape[1:], parts.dtype), parts


def plain_sums(config: ModelConfig) -> bool:
    """Whether layers add what their products give, with no bias, and norms are not centred."""
    return not (config.o_bias or config.post_norms or config.centred_norms)


@lru_cache(maxsize=32)
def structure(
    config: ModelConfig, fused: bool = False
) -> tuple[Any, dict[str, tuple[tuple[Any, ...], Any]]]:
    """The module without its weights, and each dotted path's NNX path and declaration."""
    graph, state = nnx.split(Transformer(config, fused))
    return graph, {
        ".".join(map(str, path)): (path, param) for path, param in nnx.to_flat_state(state)
    }


def param_shapes(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and dtype of every weight, by dotted path."""
    return {name: param.get_value() for name, (_, param) in structure(config)[1].items()}


def logical_axes(config: ModelConfig) -> dict[str, Axes]:
    """Returns the logical axes of every weight, by dotted path.

    The names are "vocab", "embed", "heads", "kv_heads", "mlp" and "norm"; `sharding.RULES` maps
    them to axes of a mesh.
    """
    return {
        name: param.get_metadata("out_sharding")
        for name, (_, param) in structure(config)[1].items()
    }


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Draws fresh weights: N(0, 1/fan-in) matrices, zero biases, unit norm gains.

    Projections back into the residual stream are divided by √(2 · layers) (GPT-2).

    Args:
        config: The decoder.
        key: Typed PRNG key; one key is split off for each weight.

    Returns:
        Weights in the dtype of the configuration.
    """
    declared = structure(config)[1]
    weights = {}
    for subkey, (name, (_, param)) in zip(
        jax.random.split(key, len(declared)), declared.items(), strict=True
    ):
        shape = param.get_value()
        noise = param.get_metadata("scale") * jax.random.normal(subkey, shape.shape, jnp.float32)
        weights[name] = (param.get_metadata("mean") + noise).astype(shape.dtype)
    return weights


def forward(
    config: ModelConfig,
    weights: Params,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache | None = None,
    valid: jax.Array | None = None,
    *,
    last: jax.Array | None = None,
    spread: Spread | None = None,
) -> tuple[jax.Array, Cache | None]:
    """Runs the decoder; pure, for jit (`config` static), vmap and grad.

    Args:
        config: The decoder.
        weights: One member's weights, as stored or in the layout of `decode_layout`. A
            "head.weight" is used even where the configuration ties the output head to the
            embedding, so that training can treat the two apart.
        tokens: [batch, tokens] int32.
        positions: [batch, tokens] int32, counted from the first token that is not padding.
        cache: Keys and values of earlier tokens, or None. With one, padding is to the right, and
            the tokens' keys and values are put into the slots that `positions` names; the caller
            sees to it that there are such slots. Tokens as many as slots fill a fresh cache.
        valid: [batch, tokens] bool, False for padding; only without a cache. None: padding, if any,
            is to the right.
        last: [batch] or [batch, k] int32, the only tokens of each row whose logits are wanted;
            None: all.
        spread: Over which devices the weights and the cache's heads lie; None: on one device, or
            without a cache.

    Returns:
        Logits [batch, tokens (or 1, or k), vocabulary] in float32, and the cache with the tokens
        added (None without a cache). Logits of padding are meaningless.
    """
    if cache is not None and valid is not None:
        raise ValueError("with a cache, padding is to the right and valid is not looked at")
    graph, declared = structure(
        replace(config, tie_embeddings="head.weight" not in weights),
        "layers.0.attention.qkv.weight" in weights,
    )
    filled = [(path, param.replace(weights[name])) for name, (path, param) in declared.items()]
    model = nnx.merge(graph, nnx.from_flat_state(filled))
    logits: jax.Array
    logits, cache = model(tokens, positions, cache, valid, last, spread)
    return logits, cache
