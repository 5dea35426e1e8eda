"""One kernel for the attention of a decoding step: rotation, writing to the cache, attention.

Each part of it reads little; as kernels of their own, the launches cost more than the work. The
softmax is computed block by block, as in FlashAttention (arXiv 2205.14135); where there are fewer
rows and heads than a GPU has processors, parts of a row are read at once, and a second kernel puts
them together.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.sharding import PartitionSpec

from acdc_jax.models.attention import runs_kernels
from acdc_jax.models.kernels.head_sharding import Spread, cut_along, run_spread

BLOCK = 64  # slots that are read at once; a cache's slots must be a multiple
# What keeps all of a GPU reading, measured on an H100. Where not every processor has a row and head
# of its own, each reads more at once; where not every fourth has, several share one.
_WIDE = 2 * BLOCK
_SHARED_FROM, _MOST_PARTS = 4, 8
# Blocks on their way to a processor at once, for few rows and for many.
_FEW, _FEW_STAGES, _MANY_STAGES = 256, 3, 4
_ROWS = 16  # the least that a GPU multiplies at once: query heads of one key head, and padding


def supported(q: jax.Array, k: jax.Array, past: jax.Array) -> bool:
    """Whether this kind of device runs the kernel for such heads and such a cache."""
    group, head_dim = q.shape[2] // k.shape[2], q.shape[3]
    fits = group <= _ROWS and head_dim in (64, 128) and past.shape[1] % BLOCK == 0
    return fits and runs_kernels(q)


def join(q: jax.Array, k: jax.Array, v: jax.Array, spread: Spread | None) -> jax.Array:
    """What `decode_attention` takes, of [batch, 1, heads or kv_heads, head_dim] each."""
    shards = 1 if spread is None or spread.axis is None else spread.mesh.shape[spread.axis]
    return jnp.concatenate([x.reshape(len(x), shards, -1) for x in (q, k, v)], axis=-1)


def decode_attention(
    qkv: jax.Array,
    angles: tuple[jax.Array, jax.Array],
    positions: jax.Array,
    past: tuple[jax.Array, jax.Array],
    *,
    scale: float,
    spread: Spread | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """What `rope`, `write` and `attention` do together, for one token per row.

    Args:
        qkv: [batch, shards, (heads + 2 kv_heads) / shards * head_dim], not rotated: every device's
            queries, then its keys, then its values, as one projection makes them or `join` does.
        angles: Cosine and sine, [batch, 1, 1, head_dim / 2] float32.
        positions: [batch, 1] int32, the tokens' slots. Each sees all slots before it and itself.
        past: Keys and values [batch, slots, kv_heads, head_dim] of earlier tokens.
        scale: Factor of the scores.
        spread: Where the heads lie; None: on one device.
        interpret: Whether to emulate the kernel, on a device that cannot run it.

    Returns:
        [batch, 1, heads * head_dim], and the keys and values with the new ones among them, in the
        memory of `past`.
    """
    heads, whole = cut_along(spread, 2), PartitionSpec()
    run = partial(_run, scale=scale, interpret=interpret)
    given = cut_along(spread, 1), whole, whole, heads
    seen, kept = run_spread(run, spread, given, heads)(qkv, angles, positions, past)
    return seen, kept


def _run(
    qkv: jax.Array,
    angles: tuple[jax.Array, jax.Array],
    positions: jax.Array,
    past: tuple[jax.Array, jax.Array],
    *,
    scale: float,
    interpret: bool,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """`decode_attention` of one device's heads."""
    batch, _, kv_heads, head_dim = past[0].shape
    qkv = qkv.reshape(batch, -1, head_dim)
    heads = qkv.shape[1] - 2 * kv_heads
    parts, width = _cuts(batch * kv_heads, past[0])
    seen = jax.ShapeDtypeStruct((batch, heads, head_dim), qkv.dtype)
    of_parts = [
        jax.ShapeDtypeStruct((batch, parts, heads, *rest), jnp.float32)
        for rest in ((head_dim,), (), ())
    ]
    made = [seen] if parts == 1 else of_parts
    call = pl.pallas_call(
        partial(_kernel, group=heads // kv_heads, scale=scale, width=width),
        grid=(batch, kv_heads, parts),
        out_shape=(*made, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in past)),
        input_output_aliases={4: len(made), 5: len(made) + 1},
        compiler_params=plgpu.CompilerParams(
            num_warps=4, num_stages=_FEW_STAGES if batch * kv_heads <= _FEW else _MANY_STAGES
        ),
        interpret=interpret,
        name="decode_attention",
    )
    cosine, sine = (angle[:, 0, 0] for angle in angles)
    *found, keys, values = call(qkv, cosine, sine, positions[:, 0], *past)
    if parts > 1:
        put_together = pl.pallas_call(
            _put_together,
            grid=(batch, heads),
            out_shape=seen,
            compiler_params=plgpu.CompilerParams(num_warps=1, num_stages=1),
            interpret=interpret,
            name="put_together",
        )
        found = [put_together(*found)]
    return found[0].reshape(batch, 1, heads * head_dim), (keys, values)


def _cuts(programs: int, past: jax.Array) -> tuple[int, int]:
    """Into how many parts each row and head is cut, and how many slots are read at once."""
    slots, device = past.shape[1], jax.devices()[0]
    processors: int = getattr(device, "core_count", 1)
    parts = processors // programs
    if parts >= _SHARED_FROM:
        return min(parts, _MOST_PARTS, slots // BLOCK), BLOCK
    needed = 2 * _FEW_STAGES * _WIDE * past.shape[3] * past.dtype.itemsize
    wide = programs <= processors and needed < getattr(device, "shared_memory_per_block_optin", 0)
    return 1, _WIDE if wide and slots % _WIDE == 0 else BLOCK


def _kernel(
    qkv_ref: Any,  # [batch, heads + 2 kv_heads, head_dim]
    cosine_ref: Any,  # [batch, head_dim / 2]
    sine_ref: Any,
    position_ref: Any,  # [batch]
    keys_ref: Any,  # [batch, slots, kv_heads, head_dim]
    values_ref: Any,
    seen_ref: Any,  # [batch, heads, head_dim], or of a row's parts [batch, parts, heads, head_dim],
    *refs: Any,  # and then sums of weights, and highest scores, [batch, parts, heads]; at last the
    # memory of `keys_ref` and of `values_ref`
    group: int,
    scale: float,
    width: int,
) -> None:
    """One row, or a part of it, and one key head: the query heads that share it."""
    *part_refs, new_keys_ref, new_values_ref = refs
    row, head, part = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    half, heads, kv_heads = cosine_ref.shape[1], seen_ref.shape[-2], keys_ref.shape[2]
    first, second = pl.ds(0, half), pl.ds(half, half)
    position, cosine, sine = position_ref[row], cosine_ref[row, :], sine_ref[row, :]

    def rotated(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        dtype, a, b = a.dtype, a.astype(jnp.float32), b.astype(jnp.float32)
        c, s = (x if a.ndim == 1 else x[None, :] for x in (cosine, sine))
        return (a * c - b * s).astype(dtype), (b * c + a * s).astype(dtype)

    # Halves of heads stay apart all the way: a score is the sum of theirs.
    rows = pl.ds(head * group, _ROWS)
    real = (jnp.arange(_ROWS) < group)[:, None]
    q1, q2 = rotated(
        *(plgpu.load(qkv_ref.at[row, rows, side], mask=real, other=0.0) for side in (first, second))
    )
    k1, k2 = rotated(*(qkv_ref[row, heads + head, side] for side in (first, second)))
    v = qkv_ref[row, heads + kv_heads + head, :]
    new_keys_ref[row, position, head, first] = k1
    new_keys_ref[row, position, head, second] = k2
    new_values_ref[row, position, head, :] = v

    def products(q: jax.Array, k: jax.Array) -> jax.Array:
        return jnp.sum(q.astype(jnp.float32) * k.astype(jnp.float32)[None, :], axis=1)

    def block(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        highest, total, seen = carry
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
            seen * shrink[:, None] + plgpu.dot(weights.astype(values.dtype), values),
        )

    # It starts with the new token, which every row sees: the maximum is finite from there on.
    start = (
        (products(q1, k1) + products(q2, k2)) * scale,
        jnp.ones((_ROWS,), jnp.float32),
        jnp.broadcast_to(v.astype(jnp.float32)[None, :], (_ROWS, 2 * half)),
    )
    blocks = pl.cdiv(position, width)
    if not part_refs:
        _, total, seen = jax.lax.fori_loop(0, blocks, block, start)
        seen = (seen / total[:, None]).astype(seen_ref.dtype)
        plgpu.store(seen_ref.at[row, rows, :], seen, mask=real)
        return
    # The first part has the new token; others may have nothing.
    a, b, c = (jnp.where(part == 0, x, no) for x, no in zip(start, _NOTHING, strict=True))
    each = pl.cdiv(blocks, seen_ref.shape[1])
    begin, end = part * each, jnp.minimum((part + 1) * each, blocks)
    highest, total, seen = jax.lax.fori_loop(begin, end, block, (a, b, c))
    plgpu.store(seen_ref.at[row, part, rows, :], seen, mask=real)
    for ref, figures in zip(part_refs, (total, highest), strict=True):
        plgpu.store(ref.at[row, part, rows], figures, mask=real[:, 0])


# The highest score, the sum of weights and what they weigh, where nothing is seen.
_NOTHING = (-1e30, 0.0, 0.0)


def _put_together(
    parts_ref: Any,  # [batch, parts, heads, head_dim]
    totals_ref: Any,  # [batch, parts, heads]
    highest_ref: Any,
    seen_ref: Any,  # [batch, heads, head_dim]
) -> None:
    """One row and one head: what its parts saw, as if they had been one."""
    row, head = pl.program_id(0), pl.program_id(1)
    parts = range(parts_ref.shape[1])
    highest = [highest_ref[row, part, head] for part in parts]
    most = reduce(jnp.maximum, highest)
    shares = [jnp.exp(one - most) for one in highest]
    total = sum(shares[part] * totals_ref[row, part, head] for part in parts)
    seen = sum(shares[part] * parts_ref[row, part, head, :] for part in parts)
    seen_ref[row, head, :] = (seen / total).astype(seen_ref.dtype)
