"""The decoder of every family: one definition, every weight declared once.

`Transformer` declares each weight with its shape, dtype, logical axes and initial scale.
Initialisation, sharding, checkpoint conversion and the forward pass all follow from that.
Outside this file the weights are a flat dictionary from dotted path to array, one leaf per
layer per weight: a stacked [layers, ...] leaf is copied by every decoding step on a GPU.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from acdc_jax.model.attention import Cache, attention, rope, rope_angles, rope_frequencies
from acdc_jax.model.config import ModelConfig

Weights = dict[str, jax.Array]
Axes = tuple[str | None, ...]
Angles = tuple[jax.Array, jax.Array]

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}


def _weight(shape: tuple[int, ...], axes: Axes, dtype: str, scale: float, mean: float = 0.0) -> Any:
    """Declares one weight: N(mean, scale²) at initialisation, `axes` its logical axes."""
    value = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    return nnx.Param(value, out_sharding=axes, eager_sharding=False, scale=scale, mean=mean)


class Linear(nnx.Module):  # type: ignore[misc]
    """x Wᵀ + b, with W [out, in] as Hugging Face stores it."""

    def __init__(
        self, n_in: int, n_out: int, axes: Axes, dtype: str, *, bias: bool = False, gain: float = 1
    ) -> None:
        self.weight = _weight((n_out, n_in), axes, dtype, gain * n_in**-0.5)
        self.bias = _weight((n_out,), axes[:1], dtype, 0.0) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = jnp.einsum("bti,oi->bto", x, self.weight[...])
        if self.bias is not None:
            bias: jax.Array = self.bias[...]
            y = y + bias[None, None, :]
        return y


class Norm(nnx.Module):  # type: ignore[misc]
    """Root-mean-square norm over the last axis (arXiv 1910.07467), in float32."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        self.eps, self.centred = config.rms_norm_eps, config.centred_norms
        mean = 0.0 if self.centred else 1.0
        self.weight = _weight((width,), ("norm",), config.dtype, 0.0, mean=mean)

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        scaled = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        weight = jnp.expand_dims(self.weight[...], tuple(range(x.ndim - 1)))
        if self.centred:
            return (scaled * (1.0 + weight.astype(jnp.float32))).astype(x.dtype)
        return scaled.astype(x.dtype) * weight


class Attention(nnx.Module):  # type: ignore[misc]
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        head_dim = config.head_dim
        width, dtype, bias = config.hidden_size, config.dtype, config.qkv_bias
        n_q, n_kv = config.num_heads * head_dim, config.num_kv_heads * head_dim
        self.q = Linear(width, n_q, ("heads", "embed"), dtype, bias=bias)
        self.k = Linear(width, n_kv, ("kv_heads", "embed"), dtype, bias=bias)
        self.v = Linear(width, n_kv, ("kv_heads", "embed"), dtype, bias=bias)
        gain = (2 * config.num_layers) ** -0.5  # keeps the residual stream's variance near one
        self.o = Linear(n_q, width, ("embed", "heads"), dtype, bias=config.o_bias, gain=gain)
        self.q_norm = Norm(config, head_dim) if config.qk_norm else None
        self.k_norm = Norm(config, head_dim) if config.qk_norm else None

    def __call__(
        self,
        x: jax.Array,
        angles: Angles,
        mask: jax.Array,
        past: tuple[jax.Array, jax.Array] | None,
        slot: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns the output [B, T, D] and the keys and values looked at, [B, S, KV, H] each."""
        batch, tokens, _ = x.shape
        config = self.config
        q = self.q(x).reshape(batch, tokens, -1, config.head_dim)
        k = self.k(x).reshape(batch, tokens, -1, config.head_dim)
        v = self.v(x).reshape(batch, tokens, -1, config.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rope(q, *angles), rope(k, *angles)
        if past is not None:
            k = jax.lax.dynamic_update_slice_in_dim(past[0], k, slot, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(past[1], v, slot, axis=1)
        seen = attention(q, k, v, mask, scale=config.query_scale, softcap=config.attention_softcap)
        return self.o(seen), (k, v)


class Mlp(nnx.Module):  # type: ignore[misc]
    """Gated feed-forward layer (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        self.activation = config.activation
        width, inner, dtype = config.hidden_size, config.intermediate_size, config.dtype
        self.gate = Linear(width, inner, ("mlp", "embed"), dtype)
        self.up = Linear(width, inner, ("mlp", "embed"), dtype)
        gain = (2 * config.num_layers) ** -0.5
        self.down = Linear(inner, width, ("embed", "mlp"), dtype, gain=gain)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(_ACTIVATIONS[self.activation](self.gate(x)) * self.up(x))


class Layer(nnx.Module):  # type: ignore[misc]
    """One decoder layer: attention and feed-forward, normed before and in some families after."""

    def __init__(self, config: ModelConfig) -> None:
        width = config.hidden_size
        self.attention_norm = Norm(config, width)
        self.attention = Attention(config)
        self.attention_post_norm = Norm(config, width) if config.post_norms else None
        self.mlp_norm = Norm(config, width)
        self.mlp = Mlp(config)
        self.mlp_post_norm = Norm(config, width) if config.post_norms else None

    def __call__(
        self,
        x: jax.Array,
        angles: Angles,
        mask: jax.Array,
        past: tuple[jax.Array, jax.Array] | None,
        slot: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns the residual stream [B, T, D] and the keys and values looked at."""
        y, seen = self.attention(self.attention_norm(x), angles, mask, past, slot)
        x = x + (y if self.attention_post_norm is None else self.attention_post_norm(y))
        y = self.mlp(self.mlp_norm(x))
        return x + (y if self.mlp_post_norm is None else self.mlp_post_norm(y)), seen


class Transformer(nnx.Module):  # type: ignore[misc]
    """A decoder-only language model; its weights are abstract until `nnx.merge` fills them."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.embed = Linear(config.hidden_size, config.vocab_size, ("vocab", "embed"), config.dtype)
        self.layers = nnx.List([Layer(config) for _ in range(config.num_layers)])
        self.norm = Norm(config, config.hidden_size)
        self.head = (
            None
            if config.tie_embeddings
            else Linear(config.hidden_size, config.vocab_size, ("vocab", "embed"), config.dtype)
        )

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache: Cache | None,
        valid: jax.Array,
        last_only: bool,
    ) -> tuple[jax.Array, Cache | None]:
        config, width = self.config, tokens.shape[1]
        start = jnp.zeros((), jnp.int32) if cache is None else cache.length
        if cache is not None:
            valid = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid, start, axis=1)
        # Causal by slot, not by position: padding on the left shifts positions, not slots.
        slots = jnp.arange(valid.shape[1], dtype=jnp.int32)[None, None, :]
        here = (start + jnp.arange(width, dtype=jnp.int32))[None, :, None]
        mask = (slots <= here) & valid[:, None, :]
        masks = {0: mask} | {
            window: mask & (slots > here - window) for window in set(config.windows) - {0}
        }
        # Layers with a window may rotate by frequencies of their own.
        angles = {
            local: rope_angles(positions, rope_frequencies(config, local=local))
            for local in {bool(config.window(i)) for i in range(config.num_layers)}
        }

        x = self.embed.weight[...][tokens]
        if config.scale_embedding:
            x = x * jnp.asarray(config.hidden_size**0.5, x.dtype)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            past = None if cache is None else (cache.k[i], cache.v[i])
            window = config.window(i)
            x, (k, v) = layer(x, angles[window > 0], masks[window], past, start)
            keys.append(k)
            values.append(v)
        x = self.norm(x[:, -1:] if last_only else x)
        head = (self.embed if self.head is None else self.head).weight[...]
        logits = jnp.einsum("btd,vd->btv", x, head, preferred_element_type=jnp.float32)
        if config.logit_softcap:
            logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
        if cache is not None:
            cache = Cache(tuple(keys), tuple(values), valid, start + width)
        return logits, cache


@lru_cache(maxsize=32)
def _structure(config: ModelConfig) -> tuple[Any, dict[str, tuple[tuple[Any, ...], Any]]]:
    """The module without its weights, and each dotted path's NNX path and declaration."""
    graph, state = nnx.split(Transformer(config))
    return graph, {
        ".".join(map(str, path)): (path, param) for path, param in nnx.to_flat_state(state)
    }


def shapes(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and dtype of every weight, by dotted path."""
    return {name: param.get_value() for name, (_, param) in _structure(config)[1].items()}


def logical_axes(config: ModelConfig) -> dict[str, Axes]:
    """Returns the logical axes of every weight, by dotted path.

    The names are "vocab", "embed", "heads", "kv_heads", "mlp" and "norm"; `sharding.RULES` maps
    them to axes of a mesh.
    """
    return {
        name: param.get_metadata("out_sharding")
        for name, (_, param) in _structure(config)[1].items()
    }


def init_weights(config: ModelConfig, key: jax.Array) -> Weights:
    """Draws fresh weights: N(0, 1/fan-in) matrices, zero biases, unit norm gains.

    Projections back into the residual stream are divided by √(2 · layers) (GPT-2).

    Args:
        config: The decoder.
        key: Typed PRNG key; one key is split off for each weight.

    Returns:
        Weights in the dtype of the configuration.
    """
    declared = _structure(config)[1]
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
    weights: Weights,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache | None = None,
    valid: jax.Array | None = None,
    *,
    last_only: bool = False,
) -> tuple[jax.Array, Cache | None]:
    """Runs the decoder; pure, for jit (`config`, `last_only` static), vmap and grad.

    Args:
        config: The decoder.
        weights: One member's weights. A "head.weight" is used even where the configuration ties
            the output head to the embedding, so that training can treat the two apart.
        tokens: [batch, tokens] int32.
        positions: [batch, tokens] int32, counted from the first token that is not padding.
        cache: Keys and values of earlier tokens, or None. `tokens` are written behind them; the
            caller sees to it that they fit.
        valid: [batch, tokens] bool, False for padding (to the left); None means all True.
        last_only: Compute the logits of the last token only, which is all that prefill needs.

    Returns:
        Logits [batch, tokens (or 1), vocabulary] in float32, and the cache with the tokens added
        (None without a cache). Logits of padding are meaningless.
    """
    graph, declared = _structure(replace(config, tie_embeddings="head.weight" not in weights))
    filled = [(path, param.replace(weights[name])) for name, (path, param) in declared.items()]
    model = nnx.merge(graph, nnx.from_flat_state(filled))
    if valid is None:
        valid = jnp.ones(tokens.shape, bool)
    logits: jax.Array
    logits, cache = model(tokens, positions, cache, valid, last_only)
    return logits, cache
