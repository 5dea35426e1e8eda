"""What the decoder is made of; every weight is declared here, with its logical axes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from acdc_jax.models.attention import Sight, attend, rope, write
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.kernels import decode_attention, residual_norm, swiglu
from acdc_jax.models.kernels.head_sharding import Spread
from acdc_jax.sharding import Axes

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
        alone = dtype is not None and x.shape[:2] == (1, 1)
        if alone:  # for a single row, XLA would first write all of the weight in `dtype` on a GPU
            x = jnp.concatenate([x, x], axis=1)
        y: jax.Array = jnp.einsum(self.product, x, self.weight[...], preferred_element_type=dtype)
        y = y[:, :1] if alone else y
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

    def __call__(self, x: jax.Array, parts: int, spread: Spread | None) -> jax.Array:
        """Returns parts [parts, B, T, D] of a sum."""
        return self.down.parts(self._hidden(x, spread), parts)

    def _hidden(self, x: jax.Array, spread: Spread | None) -> jax.Array:
        if self.fused:
            weight = self.gate_up.weight[...]
            if swiglu.supported(x, weight, self.activation, spread):
                return swiglu.gated_product(x, weight, spread)
            gate, up = self.gate_up.split(self.gate_up(x))
        else:
            gate, up = self.gate(x), self.up(x)
        return _ACTIVATIONS[self.activation](gate) * up


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
        parts = self.mlp(normed, counts[1], spread)
        if self.mlp_post_norm is not None:
            parts = self.mlp_post_norm(_total(parts, x.dtype))[None]
        return x, parts, seen

    def _cuts(self, x: jax.Array, spread: Spread | None) -> tuple[int, int]:
        """Into how many parts the sums of attention and of the feed-forward layer are cut."""
        if spread is not None:
            devices = 1 if spread.peers is None else spread.mesh.size  # XLA cuts and adds up itself
            return devices, devices
        few = x.shape[0] * x.shape[1] <= _FEW_ROWS
        even = not self.config.intermediate_size % _PARTS
        return 1, _PARTS if self.fused and few and even else 1
