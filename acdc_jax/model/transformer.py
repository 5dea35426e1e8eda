"""The decoder of every family: one definition, every weight declared once.

`Transformer` declares each weight with its shape, dtype, logical axes and initial scale.
Initialisation, sharding, checkpoint conversion and the forward pass all follow from that.
Outside this file the weights are a flat dictionary from dotted path to array, one leaf per
layer per weight: a stacked [layers, ...] leaf is copied by every decoding step on a GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from acdc_jax.model import decode_attention, residual_norm
from acdc_jax.model.attention import (
    Cache,
    Sight,
    attend,
    rope,
    rope_angles,
    rope_frequencies,
    sights,
    write,
)
from acdc_jax.model.config import ModelConfig
from acdc_jax.model.spread import Spread

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
    """x Wᵀ + b, with W [out, in] as Hugging Face stores it, or, turned, [in, out]."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        axes: Axes,
        dtype: str,
        *,
        bias: bool = False,
        gain: float = 1,
        turned: bool = False,
    ) -> None:
        shape = (n_in, n_out) if turned else (n_out, n_in)
        self.weight = _weight(shape, axes[::-1] if turned else axes, dtype, gain * n_in**-0.5)
        self.bias = _weight((n_out,), axes[:1], dtype, 0.0) if bias else None
        self.product = "bti,io->bto" if turned else "bti,oi->bto"

    def __call__(self, x: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
        """Returns [B, T, out], in `dtype` if that is not the weights'."""
        y: jax.Array = jnp.einsum(self.product, x, self.weight[...], preferred_element_type=dtype)
        if self.bias is not None:
            bias: jax.Array = self.bias[...]
            y = y + bias[None, None, :]
        return y

    def parts(self, x: jax.Array, count: int) -> jax.Array:
        """Returns [count, B, T, out]: W, turned and without a bias, in parts of float32 sums."""
        if count == 1:
            return self(x)[None]
        batch, tokens, width = x.shape
        y: jax.Array = jnp.einsum(
            "rpi,pio->pro",
            x.reshape(batch * tokens, count, -1),
            self.weight[...].reshape(count, width // count, -1),
            preferred_element_type=jnp.float32,
        )
        return y.reshape(count, batch, tokens, -1)


class Joined(nnx.Module):  # type: ignore[misc]
    """Several projections of one input as one matrix [in, shards, out / shards].

    A shard is what one device has: its part of every projection, one after the other.
    """

    def __init__(
        self, n_in: int, sizes: Sequence[int], axes: Axes, dtype: str, *, bias: bool = False
    ) -> None:
        self.sizes, n_out = sizes, sum(sizes)
        self.weight = _weight((n_in, 1, n_out), (axes[1], axes[0], None), dtype, n_in**-0.5)
        self.bias = _weight((1, n_out), (axes[0], None), dtype, 0.0) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, T, shards, out / shards]."""
        y: jax.Array = jnp.einsum("bti,iso->btso", x, self.weight[...])
        return y if self.bias is None else y + self.bias[...][None, None]

    def split(self, y: jax.Array) -> list[jax.Array]:
        """Returns one [B, T, size] for each projection, of all of them together."""
        ends = np.cumsum(self.sizes)[:-1] // y.shape[2]
        return [part.reshape(*y.shape[:2], -1) for part in jnp.split(y, ends, axis=-1)]


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

    def after(
        self, x: jax.Array, parts: jax.Array | None, spread: Spread | None
    ) -> tuple[jax.Array, jax.Array]:
        """Adds parts [parts, B, T, D] to the residual stream [B, T, D]; returns it and its norm."""
        if parts is None:
            return x, self(x)
        if not self.centred and residual_norm.supported(x):
            weight, kernel = self.weight[...], residual_norm.residual_norm
            return kernel(x, parts, weight, eps=self.eps, spread=spread)
        x = x + _total(parts, x.dtype)
        return x, self(x)


def _total(parts: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return parts.sum(0).astype(dtype) if len(parts) > 1 else parts[0]


class Attention(nnx.Module):  # type: ignore[misc]
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig, fused: bool) -> None:
        self.config = config
        head_dim = config.head_dim
        width, dtype, bias = config.hidden_size, config.dtype, config.qkv_bias
        n_q, n_kv = config.num_heads * head_dim, config.num_kv_heads * head_dim
        if fused:
            self.qkv = Joined(width, (n_q, n_kv, n_kv), ("heads", "embed"), dtype, bias=bias)
        else:
            self.q = Linear(width, n_q, ("heads", "embed"), dtype, bias=bias)
            self.k = Linear(width, n_kv, ("kv_heads", "embed"), dtype, bias=bias)
            self.v = Linear(width, n_kv, ("kv_heads", "embed"), dtype, bias=bias)
        gain = (2 * config.num_layers) ** -0.5  # keeps the residual stream's variance near one
        self.o = Linear(
            n_q, width, ("embed", "heads"), dtype, bias=config.o_bias, gain=gain, turned=fused
        )
        self.q_norm = Norm(config, head_dim) if config.qk_norm else None
        self.k_norm = Norm(config, head_dim) if config.qk_norm else None
        self.fused = fused

    def __call__(
        self,
        x: jax.Array,
        angles: Angles,
        sight: Sight,
        positions: jax.Array,
        past: tuple[jax.Array, jax.Array] | None,
        spread: Spread | None,
        parts: int,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns parts [parts, B, T, D] of a sum, and the keys and values [B, S, KV, H]."""
        config = self.config
        joined = self.qkv(x) if self.fused else None
        qkv = [y(x) for y in (self.q, self.k, self.v)] if joined is None else self.qkv.split(joined)
        q, k, v = (y.reshape(*x.shape[:2], -1, config.head_dim) for y in qkv)
        if self.q_norm is not None and self.k_norm is not None:
            q, k, joined = self.q_norm(q), self.k_norm(k), None
        scale, softcap = config.query_scale, config.attention_softcap
        alone = past is not None and sight.lengths is not None and not softcap
        if past is not None and alone and decode_attention.supported(q, k, past[0]):
            together = decode_attention.join(q, k, v, spread) if joined is None else joined[:, 0]
            factor = (scale or config.head_dim) ** -0.5
            fused = decode_attention.decode_attention
            seen, kept = fused(together, angles, positions, past, scale=factor, spread=spread)
            return self.o.parts(seen, parts), kept
        q, k = rope(q, *angles), rope(k, *angles)
        if past is not None and past[0].shape[1] > x.shape[1]:
            k, v = write(past[0], k, positions), write(past[1], v, positions)
        seen = attend(q, k, v, sight, scale=scale, softcap=softcap)
        return self.o.parts(seen, parts), (k, v)


class Mlp(nnx.Module):  # type: ignore[misc]
    """Gated feed-forward layer (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig, fused: bool) -> None:
        self.activation = config.activation
        width, inner, dtype = config.hidden_size, config.intermediate_size, config.dtype
        if fused:
            self.gate_up = Joined(width, (inner, inner), ("mlp", "embed"), dtype)
        else:
            self.gate = Linear(width, inner, ("mlp", "embed"), dtype)
            self.up = Linear(width, inner, ("mlp", "embed"), dtype)
        gain = (2 * config.num_layers) ** -0.5
        self.down = Linear(inner, width, ("embed", "mlp"), dtype, gain=gain, turned=fused)
        self.fused = fused

    def __call__(self, x: jax.Array, parts: int) -> jax.Array:
        """Returns parts [parts, B, T, D] of a sum."""
        fused = self.fused
        gate, up = self.gate_up.split(self.gate_up(x)) if fused else (self.gate(x), self.up(x))
        return self.down.parts(_ACTIVATIONS[self.activation](gate) * up, parts)


# The product down to the residual stream has long sums and few columns. With few rows there are too
# few blocks of columns to keep all of a GPU reading: so that there are more, the sums are cut into
# parts, which are added up together with what comes next. Measured on an H100.
_FEW_ROWS, _PARTS = 128, 2


class Layer(nnx.Module):  # type: ignore[misc]
    """One decoder layer: attention and feed-forward, normed before and in some families after."""

    def __init__(self, config: ModelConfig, fused: bool) -> None:
        self.config, self.fused = config, fused
        width = config.hidden_size
        self.attention_norm = Norm(config, width)
        self.attention = Attention(config, fused)
        self.attention_post_norm = Norm(config, width) if config.post_norms else None
        self.mlp_norm = Norm(config, width)
        self.mlp = Mlp(config, fused)
        self.mlp_post_norm = Norm(config, width) if config.post_norms else None

    def __call__(
        self,
        x: jax.Array,
        parts: jax.Array | None,
        angles: Angles,
        sight: Sight,
        positions: jax.Array,
        past: tuple[jax.Array, jax.Array] | None,
        spread: Spread | None,
    ) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
        """Runs the layer.

        Args:
            x: The residual stream [B, T, D], without
            parts: [parts, B, T, D] of the sum that the layer before adds; None: of no layer.
            angles: Rotary angles.
            sight: What the tokens see.
            positions: [B, T] int32.
            past: Keys and values of earlier tokens.
            spread: Where the heads lie.

        Returns:
            The residual stream, parts of what this layer adds, and the keys and values looked at.
        """
        counts = self._cuts(x, spread)
        x, normed = self.attention_norm.after(x, parts, spread)
        parts, seen = self.attention(normed, angles, sight, positions, past, spread, counts[0])
        if self.attention_post_norm is not None:
            parts = self.attention_post_norm(_total(parts, x.dtype))[None]
        x, normed = self.mlp_norm.after(x, parts, spread)
        parts = self.mlp(normed, counts[1])
        if self.mlp_post_norm is not None:
            parts = self.mlp_post_norm(_total(parts, x.dtype))[None]
        return x, parts, seen

    def _cuts(self, x: jax.Array, spread: Spread | None) -> tuple[int, int]:
        """Into how many parts the sums of attention and of the feed-forward layer are cut."""
        connected = spread is not None and spread.peers is not None
        devices = spread.mesh.size if spread is not None and connected else 1
        few = x.shape[0] * x.shape[1] <= _FEW_ROWS
        here = self.fused and few and (connected or spread is None)
        more = here and not self.config.intermediate_size % (_PARTS * devices)
        return devices, _PARTS * devices if more else devices


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
def _structure(
    config: ModelConfig, fused: bool = False
) -> tuple[Any, dict[str, tuple[tuple[Any, ...], Any]]]:
    """The module without its weights, and each dotted path's NNX path and declaration."""
    graph, state = nnx.split(Transformer(config, fused))
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
    graph, declared = _structure(
        replace(config, tie_embeddings="head.weight" not in weights),
        "layers.0.attention.qkv.weight" in weights,
    )
    filled = [(path, param.replace(weights[name])) for name, (path, param) in declared.items()]
    model = nnx.merge(graph, nnx.from_flat_state(filled))
    logits: jax.Array
    logits, cache = model(tokens, positions, cache, valid, last, spread)
    return logits, cache


def decode_layout(config: ModelConfig, weights: Weights) -> Weights:
    """The layout that a GPU decodes fastest from: fewer and larger matrices, and turned.

    What lies on several devices stays there: every device joins its own parts of the matrices.

    Args:
        config: The decoder.
        weights: One member's weights as stored. What has been laid out anew is taken out of this
            dictionary, so that no more than one matrix is there twice; hand over a copy to keep it.

    Returns:
        Weights for `forward`; what stays as it is, is shared.
    """
    wanted = _structure(replace(config, tie_embeddings="head.weight" not in weights), True)[1]
    laid_out = {}
    # Large ones first: small ones then fit into the gaps that these leave in a device's memory.
    for name in sorted(wanted, key=lambda name: -wanted[name][1].get_value().size):
        *path, module, kind = name.split(".")
        parts = [".".join((*path, part, kind)) for part in _JOINED.get(module, (module,))]
        if module in _JOINED or (module in _TURNED and kind == "weight"):
            leaves = [weights.pop(part) for part in parts]
            lay_out = _join if module in _JOINED else _turn
            # Waits: memory is free again only when it has been read.
            laid_out[name] = jax.block_until_ready(lay_out(leaves, *_cut(leaves[-1])))
    return {**weights, **laid_out}


_JOINED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
_TURNED = ("o", "down", "head")


def mesh_of(where: jax.sharding.Sharding) -> Mesh | None:
    """The mesh over whose axes a weight lies; None where it is on one device without any."""
    if isinstance(where, NamedSharding) and isinstance(where.mesh, Mesh):
        return where.mesh
    return None


def _cut(leaf: jax.Array) -> tuple[Mesh | None, tuple[str | None, ...]]:
    """The mesh over which a weight lies, and the axis of it that cuts each of its own axes."""
    where = leaf.sharding
    spec = where.spec if isinstance(where, NamedSharding) else ()
    return mesh_of(where), (*spec, *(None,) * (leaf.ndim - len(spec)))


def _placed(x: jax.Array, mesh: Mesh | None, spec: tuple[str | None, ...]) -> jax.Array:
    if mesh is None:
        return x
    placed: jax.Array = jax.lax.with_sharding_constraint(
        x, NamedSharding(mesh, PartitionSpec(*spec))
    )
    return placed


@partial(jax.jit, static_argnums=(1, 2))
def _join(leaves: list[jax.Array], mesh: Mesh | None, cut: tuple[str | None, ...]) -> jax.Array:
    """[out, in] each → [in, shards, out / shards]; biases [out] each → [shards, out / shards]."""
    shards = mesh.shape[cut[0]] if mesh is not None and cut[0] is not None else 1
    by_shard = [leaf.reshape(shards, -1, *leaf.shape[1:]) for leaf in leaves]
    joined = jnp.concatenate(by_shard, axis=1)
    if joined.ndim == 2:
        return _placed(joined, mesh, (cut[0], None))
    return _placed(joined.transpose(2, 0, 1), mesh, (cut[1], cut[0], None))


@partial(jax.jit, static_argnums=(1, 2))
def _turn(leaves: list[jax.Array], mesh: Mesh | None, cut: tuple[str | None, ...]) -> jax.Array:
    """[out, in] → [in, out]."""
    return _placed(leaves[0].T, mesh, cut[::-1])
