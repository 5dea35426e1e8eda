"""Building blocks of the decoder. Every weight is declared here, with its logical axes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from acdc_jax.models.attention import AttentionMask, dot_product_attention, update_cache
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.kernels import decode_attention, residual_norm
from acdc_jax.models.kernels.options import Kernels
from acdc_jax.models.rotary import rope
from acdc_jax.sharding import Axes

KeysAndValues = tuple[jax.Array, jax.Array]

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}

# The product down to the residual stream has long sums and few columns. With few rows, it has too
# few blocks of columns to keep a whole GPU reading. The sums are therefore split into parts, which
# the next residual sum adds up. Measured on an H100.
_FEW_ROWS, _PARTS = 128, 2


@dataclass(frozen=True)
class Context:
    """What all layers with the same window share in one call.

    Attributes:
        positions: [B, T] int32.
        angles: Cosine and sine of the rotary angles, [B, T, 1, head_dim / 2] float32.
        mask: Which slots the tokens attend to.
        kernels: Which kernels run.
    """

    positions: jax.Array
    angles: tuple[jax.Array, jax.Array]
    mask: AttentionMask
    kernels: Kernels


def _weight(shape: tuple[int, ...], axes: Axes, dtype: str, scale: float, mean: float = 0.0) -> Any:
    """Declare one weight: N(mean, scale²) at initialisation, `axes` its logical axes."""
    value = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    return nnx.Param(value, out_sharding=axes, eager_sharding=False, scale=scale, mean=mean)


class Linear(nnx.Module):  # type: ignore[misc]
    """x Wᵀ + b, with W [out, in] as Hugging Face stores it, or, transposed, [in, out].

    Attributes:
        low_rank: A [rank, in] and B [out, rank] of a LoRA adapter, which adds x Aᵀ Bᵀ; or None.
    """

    low_rank: tuple[jax.Array, jax.Array] | None = None

    def __init__(
        self,
        n_in: int,
        n_out: int,
        axes: Axes,
        dtype: str,
        *,
        bias: bool = False,
        gain: float = 1,
        transposed: bool = False,
    ) -> None:
        shape = (n_in, n_out) if transposed else (n_out, n_in)
        axes_of_weight = axes[::-1] if transposed else axes
        self.weight = _weight(shape, axes_of_weight, dtype, gain * n_in**-0.5)
        self.bias = _weight((n_out,), axes[:1], dtype, 0.0) if bias else None
        self.product = "bti,io->bto" if transposed else "bti,oi->bto"

    def __call__(self, x: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
        """Return [B, T, out], in `dtype` or, without one, in the dtype of the weights."""
        single = dtype is not None and x.shape[:2] == (1, 1)
        if single:  # for a single row, XLA on a GPU would first convert the whole weight to `dtype`
            x = jnp.concatenate([x, x], axis=1)
        y: jax.Array = jnp.einsum(self.product, x, self.weight[...], preferred_element_type=dtype)
        y = y[:, :1] if single else y
        if self.bias is not None:
            bias: jax.Array = self.bias[...]
            y = y + bias[None, None, :]
        if self.low_rank is not None:
            a, b = self.low_rank
            y = y + jnp.einsum("btr,or->bto", jnp.einsum("bti,ri->btr", x, a), b)
        return y

    def partial_sums(self, x: jax.Array, count: int) -> jax.Array:
        """Return [count, B, T, out], float32 parts of the sums; W is transposed, without a bias.

        With a count of 1, the one part has the dtype of the weights and includes the bias.
        """
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


class FusedLinear(nnx.Module):  # type: ignore[misc]
    """Several projections of one input as one matrix [in, shards, out / shards].

    A shard belongs to one device: its part of every projection, one after the other.
    """

    def __init__(
        self, n_in: int, sizes: Sequence[int], axes: Axes, dtype: str, *, bias: bool = False
    ) -> None:
        self.sizes, n_out = sizes, sum(sizes)
        self.weight = _weight((n_in, 1, n_out), (axes[1], axes[0], None), dtype, n_in**-0.5)
        self.bias = _weight((1, n_out), (axes[0], None), dtype, 0.0) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [B, T, shards, out / shards]."""
        y: jax.Array = jnp.einsum("bti,iso->btso", x, self.weight[...])
        return y if self.bias is None else y + self.bias[...][None, None]

    def split(self, y: jax.Array) -> list[jax.Array]:
        """Return [B, T, size] for each projection, given what `__call__` returns."""
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

    def add_and_norm(
        self, x: jax.Array, update: jax.Array | None, kernels: Kernels
    ) -> tuple[jax.Array, jax.Array]:
        """Add an update [parts, B, T, D] to the stream [B, T, D]; return the sum and its norm."""
        if update is None:
            return x, self(x)
        if kernels.residual_norm and not self.centred and residual_norm.fits(x):
            weight, kernel = self.weight[...], residual_norm.residual_norm
            return kernel(x, update, weight, eps=self.eps, heads=kernels.heads)
        x = x + _total(update, x.dtype)
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
            self.qkv = FusedLinear(width, (n_q, n_kv, n_kv), ("heads", "embed"), dtype, bias=bias)
        else:
            self.q = Linear(width, n_q, ("heads", "embed"), dtype, bias=bias)
            self.k = Linear(width, n_kv, ("kv_heads", "embed"), dtype, bias=bias)
            self.v = Linear(width, n_kv, ("kv_heads", "embed"), dtype, bias=bias)
        gain = (2 * config.num_layers) ** -0.5  # keeps the residual stream's variance near one
        axes = ("embed", "heads")
        self.o = Linear(n_q, width, axes, dtype, bias=config.o_bias, gain=gain, transposed=fused)
        self.q_norm = Norm(config, head_dim) if config.qk_norm else None
        self.k_norm = Norm(config, head_dim) if config.qk_norm else None
        self.fused = fused

    def __call__(
        self, x: jax.Array, kv_cache: KeysAndValues | None, context: Context, parts: int
    ) -> tuple[jax.Array, KeysAndValues]:
        """Return the update [parts, B, T, D] and the keys and values [B, S, KV, H] with new ones.

        Args:
            x: [B, T, D], normed.
            kv_cache: Keys and values of earlier tokens.
            context: What all layers share.
            parts: Number of partial sums.
        """
        config, kernels = self.config, context.kernels
        fused_qkv = self.qkv(x) if self.fused else None
        qkv = (
            [project(x) for project in (self.q, self.k, self.v)]
            if fused_qkv is None
            else self.qkv.split(fused_qkv)
        )
        q, k, v = (y.reshape(*x.shape[:2], -1, config.head_dim) for y in qkv)
        if self.q_norm is not None and self.k_norm is not None:
            q, k, fused_qkv = self.q_norm(q), self.k_norm(k), None
        scale, softcap = config.query_scale, config.attention_softcap
        if (
            kernels.decode_attention
            and kv_cache is not None
            and context.mask.lengths is not None  # one token per row, without a window
            and not softcap
            and decode_attention.fits(q, k, kv_cache[0])
        ):
            stacked_qkv = (
                decode_attention.concatenate_qkv(q, k, v, kernels.heads)
                if fused_qkv is None
                else fused_qkv[:, 0]
            )
            output, kv_cache = decode_attention.decode_attention(
                stacked_qkv,
                context.angles,
                context.positions,
                kv_cache,
                scale=(scale or config.head_dim) ** -0.5,
                heads=kernels.heads,
            )
            return self.o.partial_sums(output, parts), kv_cache
        q, k = rope(q, *context.angles), rope(k, *context.angles)
        if kv_cache is not None and kv_cache[0].shape[1] > x.shape[1]:
            k = update_cache(kv_cache[0], k, context.positions)
            v = update_cache(kv_cache[1], v, context.positions)
        output = dot_product_attention(
            q, k, v, context.mask, scale=scale, softcap=softcap, kernels=kernels
        )
        return self.o.partial_sums(output, parts), (k, v)


class Mlp(nnx.Module):  # type: ignore[misc]
    """Gated feed-forward layer (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig, fused: bool) -> None:
        self.activation = config.activation
        width, inner, dtype = config.hidden_size, config.intermediate_size, config.dtype
        if fused:
            self.gate_up = FusedLinear(width, (inner, inner), ("mlp", "embed"), dtype)
        else:
            self.gate = Linear(width, inner, ("mlp", "embed"), dtype)
            self.up = Linear(width, inner, ("mlp", "embed"), dtype)
        gain = (2 * config.num_layers) ** -0.5
        self.down = Linear(inner, width, ("embed", "mlp"), dtype, gain=gain, transposed=fused)
        self.fused = fused

    def __call__(self, x: jax.Array, kernels: Kernels, parts: int) -> jax.Array:
        """Return the update [parts, B, T, D], given the normed stream [B, T, D]."""
        return self.down.partial_sums(self._hidden(x, kernels), parts)

    def _hidden(self, x: jax.Array, kernels: Kernels) -> jax.Array:
        if self.fused:
            if kernels.swiglu:
                from acdc_jax.models.kernels import swiglu  # imports Mosaic, see there

                weight: jax.Array = self.gate_up.weight[...]
                if swiglu.fits(x, weight, self.activation, kernels.heads):
                    return swiglu.swiglu(x, weight, kernels.heads)
            gate, up = self.gate_up.split(self.gate_up(x))
        else:
            gate, up = self.gate(x), self.up(x)
        return _ACTIVATIONS[self.activation](gate) * up


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
        update: jax.Array | None,
        kv_cache: KeysAndValues | None,
        context: Context,
    ) -> tuple[jax.Array, jax.Array, KeysAndValues]:
        """Run the layer.

        Args:
            x: The residual stream [B, T, D], without the update of the layer before.
            update: That update, as partial sums [parts, B, T, D]; None: there is none.
            kv_cache: Keys and values of earlier tokens.
            context: What all layers share.

        Returns:
            The residual stream, the update of this layer, and the keys and values.
        """
        attention_parts, mlp_parts = self._parts(x, context.kernels)
        with jax.named_scope("attention"):
            x, normed = self.attention_norm.add_and_norm(x, update, context.kernels)
            update, keys_and_values = self.attention(normed, kv_cache, context, attention_parts)
            if self.attention_post_norm is not None:
                update = self.attention_post_norm(_total(update, x.dtype))[None]
        with jax.named_scope("mlp"):
            x, normed = self.mlp_norm.add_and_norm(x, update, context.kernels)
            update = self.mlp(normed, context.kernels, mlp_parts)
            if self.mlp_post_norm is not None:
                update = self.mlp_post_norm(_total(update, x.dtype))[None]
        return x, update, keys_and_values

    def _parts(self, x: jax.Array, kernels: Kernels) -> tuple[int, int]:
        """Return the numbers of partial sums of attention and of the feed-forward layer."""
        if kernels.heads is not None:
            # Without inboxes, XLA splits and sums by itself.
            devices = 1 if kernels.heads.inboxes is None else kernels.heads.mesh.size
            return devices, devices
        few = x.shape[0] * x.shape[1] <= _FEW_ROWS
        even = not self.config.intermediate_size % _PARTS
        return 1, _PARTS if self.fused and few and even else 1
