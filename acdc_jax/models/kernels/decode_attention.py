"""One kernel for the attention of a decoding step: rotation, cache update and attention.

Each of these reads little; as separate kernels, their launches cost more than the work. The softmax
is computed block by block, as in FlashAttention (arXiv 2205.14135). If there are fewer rows and
heads than a GPU has processors, several processors read parts of one row, and a second kernel
combines them.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.sharding import PartitionSpec

from acdc_jax.models.kernels.head_sharding import HeadSharding, heads_spec, map_kernel

BLOCK = 64  # slots read at once; the slots of a cache must be a multiple
# Measured on an H100, to keep all of its processors reading. If there are more processors than
# pairs of row and head, each reads wider blocks; if four times as many, several share a pair.
_WIDE = 2 * BLOCK
_SHARED_FROM, _MOST_PARTS = 4, 8
# Blocks in flight per processor, for few pairs of row and head and for many.
_FEW, _FEW_STAGES, _MANY_STAGES = 256, 3, 4
_ROWS = 16  # the fewest rows of a GPU's matrix product: query heads of one key head, and padding
_HEAD_DIMS = (64, 128)


def fits(q: jax.Array, k: jax.Array, cache: jax.Array) -> bool:
    """Return whether the kernel takes such heads and such a cache.

    Args:
        q: [batch, 1, heads, head_dim].
        k: [batch, 1, kv_heads, head_dim].
        cache: [batch, slots, kv_heads, head_dim].
    """
    group, head_dim = q.shape[2] // k.shape[2], q.shape[3]
    return group <= _ROWS and head_dim in _HEAD_DIMS and cache.shape[1] % BLOCK == 0


def concatenate_qkv(
    q: jax.Array, k: jax.Array, v: jax.Array, heads: HeadSharding | None
) -> jax.Array:
    """Return the first argument of `decode_attention`.

    Args:
        q: [batch, 1, heads, head_dim].
        k: [batch, 1, kv_heads, head_dim].
        v: [batch, 1, kv_heads, head_dim].
        heads: How the heads are sharded; None: one device.
    """
    shards = 1 if heads is None else heads.shards
    return jnp.concatenate([x.reshape(len(x), shards, -1) for x in (q, k, v)], axis=-1)


def decode_attention(
    qkv: jax.Array,
    angles: tuple[jax.Array, jax.Array],
    positions: jax.Array,
    cache: tuple[jax.Array, jax.Array],
    *,
    scale: float,
    heads: HeadSharding | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Compute `rope`, `update_cache` and `dot_product_attention` for one token per row.

    Args:
        qkv: [batch, shards, (heads + 2 kv_heads) / shards * head_dim], not rotated: each device's
            queries, then its keys, then its values, as the fused projection or `concatenate_qkv`
            returns them.
        angles: Cosine and sine, [batch, 1, 1, head_dim / 2] float32.
        positions: [batch, 1] int32, the tokens' slots. Each attends to all slots before it and to
            itself.
        cache: Keys and values [batch, slots, kv_heads, head_dim] of earlier tokens.
        scale: Factor of the scores.
        heads: How the heads are sharded; None: one device.
        interpret: Whether to emulate the kernel, on a device that cannot run it.

    Returns:
        [batch, 1, heads * head_dim], and keys and values with the new ones included, in the memory
        of `cache`.
    """
    spec, replicated = heads_spec(heads, 2), PartitionSpec()
    run = partial(_run, scale=scale, interpret=interpret)
    in_specs = heads_spec(heads, 1), replicated, replicated, spec
    output, updated = map_kernel(run, heads, in_specs, spec)(qkv, angles, positions, cache)
    return output, updated


# Jitted, so that it is traced once for all layers.
@partial(jax.jit, static_argnames=("scale", "interpret"))
def _run(
    qkv: jax.Array,
    angles: tuple[jax.Array, jax.Array],
    positions: jax.Array,
    cache: tuple[jax.Array, jax.Array],
    *,
    scale: float,
    interpret: bool,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Run the kernel on one device's heads."""
    batch, _, kv_heads, head_dim = cache[0].shape
    qkv = qkv.reshape(batch, -1, head_dim)
    heads = qkv.shape[1] - 2 * kv_heads
    parts, width = _split(batch * kv_heads, cache[0])
    output = jax.ShapeDtypeStruct((batch, heads, head_dim), qkv.dtype)
    partial_outputs = [
        jax.ShapeDtypeStruct((batch, parts, heads, *rest), jnp.float32)
        for rest in ((head_dim,), (), ())
    ]
    outputs = [output] if parts == 1 else partial_outputs
    call = pl.pallas_call(
        partial(_kernel, group=heads // kv_heads, scale=scale, width=width),
        grid=(batch, kv_heads, parts),
        out_shape=(*outputs, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in cache)),
        input_output_aliases={4: len(outputs), 5: len(outputs) + 1},
        compiler_params=plgpu.CompilerParams(
            num_warps=4, num_stages=_FEW_STAGES if batch * kv_heads <= _FEW else _MANY_STAGES
        ),
        interpret=interpret,
        name="decode_attention",
    )
    cosine, sine = (angle[:, 0, 0] for angle in angles)
    *results, keys, values = call(qkv, cosine, sine, positions[:, 0], *cache)
    if parts > 1:
        combine = pl.pallas_call(
            _combine_parts,
            grid=(batch, heads),
            out_shape=output,
            compiler_params=plgpu.CompilerParams(num_warps=1, num_stages=1),
            interpret=interpret,
            name="combine_parts",
        )
        results = [combine(*results)]
    return results[0].reshape(batch, 1, heads * head_dim), (keys, values)


def _split(programs: int, cache: jax.Array) -> tuple[int, int]:
    """Return the number of parts of each row and head, and of slots read at once."""
    slots, device = cache.shape[1], jax.devices()[0]
    processors: int = getattr(device, "core_count", 1)
    parts = processors // programs
    if parts >= _SHARED_FROM:
        return min(parts, _MOST_PARTS, slots // BLOCK), BLOCK
    needed = 2 * _FEW_STAGES * _WIDE * cache.shape[3] * cache.dtype.itemsize
    wide = programs <= processors and needed < getattr(device, "shared_memory_per_block_optin", 0)
    return 1, _WIDE if wide and slots % _WIDE == 0 else BLOCK


def _kernel(
    qkv_ref: Any,  # [batch, heads + 2 kv_heads, head_dim]
    cosine_ref: Any,  # [batch, head_dim / 2]
    sine_ref: Any,
    position_ref: Any,  # [batch]
    keys_ref: Any,  # [batch, slots, kv_heads, head_dim]
    values_ref: Any,
    output_ref: Any,  # [batch, heads, head_dim], or per part [batch, parts, heads, head_dim]
    *refs: Any,  # per part, sums of weights and highest scores, [batch, parts, heads]; then the
    # memory of `keys_ref` and of `values_ref`
    group: int,
    scale: float,
    width: int,
) -> None:
    """Compute the query heads of one key head, for one row or a part of it."""
    *part_refs, new_keys_ref, new_values_ref = refs
    row, head, part = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    half, heads, kv_heads = cosine_ref.shape[1], output_ref.shape[-2], keys_ref.shape[2]
    first, second = pl.ds(0, half), pl.ds(half, half)
    position, cosine, sine = position_ref[row], cosine_ref[row, :], sine_ref[row, :]

    def rotate(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        dtype, a, b = a.dtype, a.astype(jnp.float32), b.astype(jnp.float32)
        c, s = (x if a.ndim == 1 else x[None, :] for x in (cosine, sine))
        return (a * c - b * s).astype(dtype), (b * c + a * s).astype(dtype)

    # The two halves of a head are kept apart: a score is the sum of theirs.
    rows = pl.ds(head * group, _ROWS)
    real = (jnp.arange(_ROWS) < group)[:, None]
    q1, q2 = rotate(
        *(plgpu.load(qkv_ref.at[row, rows, side], mask=real, other=0.0) for side in (first, second))
    )
    k1, k2 = rotate(*(qkv_ref[row, heads + head, side] for side in (first, second)))
    v = qkv_ref[row, heads + kv_heads + head, :]
    new_keys_ref[row, position, head, first] = k1
    new_keys_ref[row, position, head, second] = k2
    new_values_ref[row, position, head, :] = v

    def products(q: jax.Array, k: jax.Array) -> jax.Array:
        return jnp.sum(q.astype(jnp.float32) * k.astype(jnp.float32)[None, :], axis=1)

    def block(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        highest, total, output = carry
        slots = pl.ds(i * width, width)
        scores = plgpu.dot(q1, keys_ref[row, slots, head, first].T)
        scores += plgpu.dot(q2, keys_ref[row, slots, head, second].T)
        before = i * width + jnp.arange(width) < position
        scores = jnp.where(before[None, :], scores * scale, -jnp.inf)
        new = jnp.maximum(highest, jnp.max(scores, axis=1))
        weights, shrink = jnp.exp(scores - new[:, None]), jnp.exp(highest - new)
        values = values_ref[row, slots, head, :]
        return (
            new,
            total * shrink + jnp.sum(weights, axis=1),
            output * shrink[:, None] + plgpu.dot(weights.astype(values.dtype), values),
        )

    # Start with the new token, to which every row attends: the maximum is finite from then on.
    start = (
        (products(q1, k1) + products(q2, k2)) * scale,
        jnp.ones((_ROWS,), jnp.float32),
        jnp.broadcast_to(v.astype(jnp.float32)[None, :], (_ROWS, 2 * half)),
    )
    blocks = pl.cdiv(position, width)
    if not part_refs:
        _, total, output = jax.lax.fori_loop(0, blocks, block, start)
        output = (output / total[:, None]).astype(output_ref.dtype)
        plgpu.store(output_ref.at[row, rows, :], output, mask=real)
        return
    # Only the first part has the new token; other parts may be empty.
    a, b, c = (jnp.where(part == 0, x, empty) for x, empty in zip(start, _EMPTY, strict=True))
    each = pl.cdiv(blocks, output_ref.shape[1])
    begin, end = part * each, jnp.minimum((part + 1) * each, blocks)
    highest, total, output = jax.lax.fori_loop(begin, end, block, (a, b, c))
    plgpu.store(output_ref.at[row, part, rows, :], output, mask=real)
    for ref, values in zip(part_refs, (total, highest), strict=True):
        plgpu.store(ref.at[row, part, rows], values, mask=real[:, 0])


# Highest score, sum of weights and weighted sum of a part without tokens.
_EMPTY = (-1e30, 0.0, 0.0)


def _combine_parts(
    parts_ref: Any,  # [batch, parts, heads, head_dim]
    totals_ref: Any,  # [batch, parts, heads]
    highest_ref: Any,
    output_ref: Any,  # [batch, heads, head_dim]
) -> None:
    """Combine the parts of one row and one head into its attention."""
    row, head = pl.program_id(0), pl.program_id(1)
    parts = range(parts_ref.shape[1])
    highest = [highest_ref[row, part, head] for part in parts]
    most = reduce(jnp.maximum, highest)
    shares = [jnp.exp(score - most) for score in highest]
    total = sum(shares[part] * totals_ref[row, part, head] for part in parts)
    output = sum(shares[part] * parts_ref[row, part, head, :] for part in parts)
    output_ref[row, head, :] = (output / total).astype(output_ref.dtype)
