"""The decoder of every family: one definition, every weight declared once.

`Transformer` declares each weight with its shape, dtype, logical axes and initial scale.
Initialisation, sharding, checkpoint conversion and the forward pass all follow from that.
Outside this file the weights are a flat dictionary from dotted path to array, one leaf per
layer per weight: a stacked [layers, ...] leaf is copied by every decoding step on a GPU.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from acdc_jax.models.attention import AttentionMask, KVCache, attention_masks
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.kernels.head_sharding import HeadSharding
from acdc_jax.models.kernels.options import XLA_ONLY, Kernels
from acdc_jax.models.layers import Context, Layer, Linear, Norm
from acdc_jax.models.rotary import rope_angles, rope_frequencies
from acdc_jax.params import Params
from acdc_jax.sharding import Axes

LowRank = Mapping[str, tuple[jax.Array, jax.Array]]
"""Path of a matrix → A [rank, in] and B [out, rank] of its LoRA adapter."""


class FusedParams(flax.struct.PyTreeNode):  # type: ignore[misc]
    """A member's weights in the layout for decoding, from `fuse_weights`.

    Query, key and value projections are one matrix, gate and up are one, and all matrices are
    [in, out]. Operators, checkpoints and export know only the stored layout, `Params`.

    Attributes:
        leaves: Dotted path → array.
    """

    leaves: Params

    def __getitem__(self, path: str) -> jax.Array:
        return self.leaves[path]


class Transformer(nnx.Module):  # type: ignore[misc]
    """A decoder-only language model; its weights are abstract until `nnx.merge` fills them.

    Args:
        config: Shape of the decoder.
        fused: Whether to declare the weights of `FusedParams` instead of the stored ones, which
            have one matrix [out, in] per projection.
    """

    def __init__(self, config: ModelConfig, fused: bool = False) -> None:
        self.config = config
        size = (config.hidden_size, config.vocab_size, ("vocab", "embed"), config.dtype)
        self.embed = Linear(*size)
        self.layers = nnx.List([Layer(config, fused) for _ in range(config.num_layers)])
        self.norm = Norm(config, config.hidden_size)
        self.head = None if config.tie_embeddings else Linear(*size, transposed=fused)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache: KVCache | None,
        valid: jax.Array | None,
        last: jax.Array | None,
        kernels: Kernels,
    ) -> tuple[jax.Array, KVCache | None]:
        """Return logits and the updated cache; see `forward`."""
        config = self.config
        slots = tokens.shape[1] if cache is None else cache.k[0].shape[1]
        masks = attention_masks(self._windows(), positions, slots, valid)
        contexts = self._contexts(positions, masks, kernels)
        with jax.named_scope("embed"):
            x, update = self._embed(tokens, kernels.heads)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            kv_cache = None if cache is None else (cache.k[i], cache.v[i])
            with jax.named_scope(f"layer_{i}"):
                x, update, (k, v) = layer(x, update, kv_cache, contexts[config.window(i)])
            keys.append(k)
            values.append(v)
        with jax.named_scope("head"):
            logits = self.logits(self._last_norm(x, update, last, kernels))
        return logits, None if cache is None else KVCache(tuple(keys), tuple(values))

    def hidden_states(
        self,
        x: jax.Array,
        positions: jax.Array,
        segments: jax.Array | None,
        kernels: Kernels,
        recompute: bool,
    ) -> jax.Array:
        """Return what the output head reads; see the function of this name."""
        masks = attention_masks(self._windows(), positions, x.shape[1], None, segments)
        contexts = self._contexts(positions, masks, kernels)

        def run(
            layer: Layer, context: Context, x: jax.Array, update: jax.Array | None
        ) -> tuple[jax.Array, jax.Array]:
            x, update, _ = layer(x, update, None, context)
            return x, update

        x, update = self._scale(x), None
        for i, layer in enumerate(self.layers):
            step = partial(run, layer, contexts[self.config.window(i)])
            x, update = (jax.checkpoint(step) if recompute else step)(x, update)
        return self._last_norm(x, update, None, kernels)

    def logits(self, x: jax.Array) -> jax.Array:
        """Return the logits [B, T, vocabulary] float32 of hidden states [B, T, D]."""
        logits: jax.Array
        logits = (self.embed if self.head is None else self.head)(x, jnp.dtype("float32"))
        softcap = self.config.logit_softcap
        return softcap * jnp.tanh(logits / softcap) if softcap else logits

    def _windows(self) -> set[int]:
        return {self.config.window(i) for i in range(self.config.num_layers)}

    def _contexts(
        self, positions: jax.Array, masks: dict[int, AttentionMask], kernels: Kernels
    ) -> dict[int, Context]:
        """Return what layers share, by window."""
        # Layers with a window may have separate rotary frequencies.
        angles = {
            local: rope_angles(positions, *rope_frequencies(self.config, local=local))
            for local in map(bool, masks)
        }
        return {
            window: Context(positions, angles[window > 0], mask, kernels)
            for window, mask in masks.items()
        }

    def _embed(
        self, tokens: jax.Array, heads: HeadSharding | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Return the residual stream [B, T, D], and a first update [devices, B, T, D] or None.

        With peer inboxes, the stream starts at zero and the update holds each device's rows.
        """
        table = self.embed.weight[...]
        if heads is None or heads.inboxes is None:
            return self._scale(table[tokens]), None
        axis = heads.axis

        def look_up(table: jax.Array, tokens: jax.Array) -> jax.Array:
            row = tokens - jax.lax.axis_index(axis) * len(table)
            inside = (row >= 0) & (row < len(table))
            return jnp.where(inside[..., None], table[jnp.where(inside, row, 0)], 0)[None]

        sharded, replicated = PartitionSpec(axis), PartitionSpec()
        in_specs = (sharded, replicated)
        run = jax.shard_map(look_up, mesh=heads.mesh, in_specs=in_specs, out_specs=sharded)
        update = run(table, tokens)
        return jnp.zeros(update.shape[1:], update.dtype), update

    def _scale(self, x: jax.Array) -> jax.Array:
        if self.config.scale_embedding:
            return x * jnp.asarray(self.config.hidden_size**0.5, x.dtype)
        return x

    def _last_norm(
        self, x: jax.Array, update: jax.Array | None, last: jax.Array | None, kernels: Kernels
    ) -> jax.Array:
        """Return the hidden states of the tokens that `last` names."""
        if last is not None and update is not None:
            x = jnp.take_along_axis(x, last.reshape(len(x), -1, 1), axis=1)
            update = jnp.take_along_axis(update, last.reshape(1, len(x), -1, 1), axis=2)
        return self.norm.add_and_norm(x, update, kernels)[1]


def has_plain_updates(config: ModelConfig) -> bool:
    """Return whether layers add plain matrix products to the stream, and norms are not centred."""
    return not (config.o_bias or config.post_norms or config.centred_norms)


@lru_cache(maxsize=32)
def structure(
    config: ModelConfig, fused: bool = False
) -> tuple[Any, dict[str, tuple[tuple[Any, ...], Any]]]:
    """Return the module without its weights, and each path's NNX path and declaration."""
    graph, state = nnx.split(Transformer(config, fused))
    return graph, {
        ".".join(map(str, path)): (path, param) for path, param in nnx.to_flat_state(state)
    }


def param_shapes(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and dtype of every weight, by dotted path."""
    return {name: param.get_value() for name, (_, param) in structure(config)[1].items()}


def logical_axes(config: ModelConfig) -> dict[str, Axes]:
    """Return the logical axes of every weight, by dotted path.

    The names are "vocab", "embed", "heads", "kv_heads", "mlp" and "norm"; `sharding.RULES` maps
    them to axes of a mesh.
    """
    return {
        name: param.get_metadata("out_sharding")
        for name, (_, param) in structure(config)[1].items()
    }


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Draw fresh weights: N(0, 1/fan-in) matrices, zero biases, unit norm gains.

    Projections back into the residual stream are divided by √(2 · layers) (GPT-2).

    Args:
        config: Shape of the decoder.
        key: Typed PRNG key; one key is split off for each weight.

    Returns:
        Weights in the dtype of the configuration.
    """
    declared = structure(config)[1]
    params = {}
    for subkey, (name, (_, param)) in zip(
        jax.random.split(key, len(declared)), declared.items(), strict=True
    ):
        shape = param.get_value()
        noise = param.get_metadata("scale") * jax.random.normal(subkey, shape.shape, jnp.float32)
        params[name] = (param.get_metadata("mean") + noise).astype(shape.dtype)
    return params


def forward(
    config: ModelConfig,
    params: Params | FusedParams,
    tokens: jax.Array,
    positions: jax.Array,
    cache: KVCache | None = None,
    valid: jax.Array | None = None,
    *,
    last: jax.Array | None = None,
    kernels: Kernels = XLA_ONLY,
) -> tuple[jax.Array, KVCache | None]:
    """Run the decoder; pure, for jit (`config` static), vmap and grad.

    Args:
        config: Shape of the decoder.
        params: One member's weights, as stored or fused.
        tokens: [batch, tokens] int32.
        positions: [batch, tokens] int32, counted from the first token that is not padding.
        cache: Keys and values of earlier tokens, or None. With a cache, padding is to the right,
            and the tokens' keys and values are written into the slots that `positions` names; the
            caller makes sure that these slots exist. As many tokens as slots fill a fresh cache.
        valid: [batch, tokens] bool, False for padding; only without a cache. None: padding, if any,
            is to the right.
        last: [batch] or [batch, k] int32, the tokens of each row whose logits are computed; None:
            all.
        kernels: Which kernels run, and over which devices; see `choose_kernels`.

    Returns:
        Logits [batch, tokens (or 1, or k), vocabulary] float32, and the cache with the tokens
        added (None without a cache). Logits of padding are meaningless.

    Raises:
        ValueError: `cache` and `valid` are both given, or the weights are not those that the
            configuration declares.
    """
    if cache is not None and valid is not None:
        raise ValueError("give cache or valid, not both: with a cache, padding is to the right")
    logits: jax.Array
    logits, cache = _merge(config, params)(tokens, positions, cache, valid, last, kernels)
    return logits, cache


def hidden_states(
    config: ModelConfig,
    params: Params,
    embedded: jax.Array,
    positions: jax.Array,
    *,
    segments: jax.Array | None = None,
    low_rank: LowRank = MappingProxyType({}),
    kernels: Kernels = XLA_ONLY,
    recompute: bool = False,
) -> jax.Array:
    """Run the decoder up to its output head, for training; see `output_logits`.

    Args:
        config: Shape of the decoder.
        params: One member's weights, as stored.
        embedded: [batch, tokens, hidden size], the tokens' rows of the embedding; padding is to the
            right. How they are looked up decides how the embedding's gradient is computed.
        positions: [batch, tokens] int32, from 0 in each segment.
        segments: [batch, tokens] int32, one number for each text of a row; None: one text.
        low_rank: Path of a matrix → A and B of its LoRA adapter, see `layers.Linear`; scaled.
        kernels: Which kernels run. Only packed attention has a gradient.
        recompute: Whether a gradient computes each layer again, rather than keep what is inside.

    Returns:
        [batch, tokens, hidden size].

    Raises:
        ValueError: The weights are not those that the configuration declares.
    """
    model = _merge(config, params)
    for path, matrices in low_rank.items():
        module = model
        for part in path.split(".")[:-1]:
            module = module[int(part)] if part.isdecimal() else getattr(module, part)
        module.low_rank = nnx.data(matrices)
    states: jax.Array = model.hidden_states(embedded, positions, segments, kernels, recompute)
    return states


def output_logits(config: ModelConfig, params: Params, states: jax.Array) -> jax.Array:
    """Return the logits [batch, tokens, vocabulary] float32 of some of the `hidden_states`."""
    logits: jax.Array = _merge(config, params).logits(states)
    return logits


def _merge(config: ModelConfig, params: Params | FusedParams) -> Any:
    """Return the module with its weights."""
    fused = isinstance(params, FusedParams)
    leaves = params.leaves if isinstance(params, FusedParams) else params
    graph, declared = structure(config, fused)
    if leaves.keys() != declared.keys():
        path = min(leaves.keys() ^ declared.keys())
        problem = "is missing" if path in declared else "has no place in the model"
        raise ValueError(f"weight {path} {problem}")
    state = [(path, param.replace(leaves[name])) for name, (path, param) in declared.items()]
    return nnx.merge(graph, nnx.from_flat_state(state))
