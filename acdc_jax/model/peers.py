"""Sums over devices that kernels make themselves, by writing into each other's memory.

A decoding step over several GPUs adds up small arrays, twice a layer. XLA's collective operations
start anew each time, and cannot be part of the graph of kernels that a GPU runs by itself: the
pauses around them are longer than the sum. Here every GPU has an inbox that the others write to.
Each number goes along with the turn that it belongs to, eight bytes that arrive together, so that a
GPU sees by itself when its inbox is complete (as NCCL does for small messages: its "LL" protocol).
"""

import ctypes
import itertools
import os
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Looks, about ten minutes; then the program ends with an error. While a system page-locks memory, a
# device may not be able to start for half a minute.
_PATIENCE = 2**30

LEAST_WIDTH = 128  # every thread of a warp has two words

# PTX, for two words at once: $0 and $1 are the results, of which every argument then has two too.
# A word's address is that of an inbox (low and high half) and an offset in bytes.
_ADDRESSES = """
.reg .b64 a0, a1, o0, o1, d0, d1;
mov.b64 a0, {$2, $4}; cvt.u64.u32 o0, $6; add.u64 a0, a0, o0;
mov.b64 a1, {$3, $5}; cvt.u64.u32 o1, $7; add.u64 a1, a1, o1;"""
# Arguments: address, offset, word, turn, whether it is another device's; the result is the turn.
_SEND = f"""{{{_ADDRESSES}
.reg .pred other;
setp.ne.u32 other, $12, 0;
mov.b64 d0, {{$8, $10}};
mov.b64 d1, {{$9, $11}};
@other st.volatile.global.b64 [a0], d0;
@other st.volatile.global.b64 [a1], d1;
mov.b32 $0, $10;
mov.b32 $1, $11;
}}"""
# The same arguments; the result is what was sent, or the given word if it is this device's.
_RECEIVE = f"""{{{_ADDRESSES}
.reg .b32 t0, t1, looks;
.reg .pred mine, again, late;
mov.b32 $0, $8;
mov.b32 $1, $9;
setp.eq.u32 mine, $12, 0;
@mine bra DONE;
mov.b32 looks, 0;
LOOK:
ld.volatile.global.b64 d0, [a0];
ld.volatile.global.b64 d1, [a1];
mov.b64 {{$0, t0}}, d0;
mov.b64 {{$1, t1}}, d1;
xor.b32 t0, t0, $10;
xor.b32 t1, t1, $11;
or.b32 t0, t0, t1;
setp.ne.u32 again, t0, 0;
add.u32 looks, looks, 1;
setp.gt.u32 late, looks, {_PATIENCE};
@late trap;
@again bra LOOK;
DONE:
}}"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Peers:
    """Where devices find each other's inboxes; every device has its own part of each array.

    Attributes:
        inbox: [devices, 2, devices, rows, words, 2] int32: for even and odd turns, from each
            device, two 16-bit numbers and their turn.
        turns: [devices, rows] int32, the last turn of each row. Kernels count it up in place, which
            XLA does not know.
        addresses: [devices, devices, 2] int32, of all inboxes.
        ranks: [devices, 1] int32, each device's own number.
    """

    inbox: jax.Array
    turns: jax.Array
    addresses: jax.Array
    ranks: jax.Array


def reachable(mesh: Mesh) -> bool:
    """Whether all devices of a mesh are this process's GPUs and can write into each other's memory.

    XLA enables it wherever the driver says that it can be; memory of other allocators than its
    usual one is not shared.
    """
    devices = mesh.devices.flatten()
    usual = os.environ.get("XLA_PYTHON_CLIENT_ALLOCATOR", "default") in ("default", "bfc")
    if not usual or any(device.process_index != jax.process_index() for device in devices):
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    found = ctypes.c_int()
    return all(
        driver.cuDeviceCanAccessPeer(
            ctypes.byref(found), one.local_hardware_id, other.local_hardware_id
        )
        == 0
        and found.value == 1
        for one, other in itertools.permutations(devices, 2)
    )


def connect(mesh: Mesh, axis: str, rows: int, width: int) -> Peers:
    """Gives every device of a mesh an inbox for [rows, width] numbers of 16 bits.

    The arrays must outlive what is computed with them, and must not be donated.

    Args:
        mesh: GPUs of this process that reach each other's memory; one axis, of more than one.
        axis: Its name.
        rows: Most rows of a sum.
        width: Their length, an even number, at least `LEAST_WIDTH`.
    """
    devices = mesh.devices.flatten()
    count, words = len(devices), pl.next_power_of_2(width // 2)
    each = NamedSharding(mesh, PartitionSpec(axis))
    inbox = jnp.zeros((count, 2, count, rows, words, 2), jnp.int32, device=each)
    turns = jnp.zeros((count, rows), jnp.int32, device=each)
    jax.block_until_ready((inbox, turns))  # nobody writes before all is empty
    place = {shard.device: shard.data.unsafe_buffer_pointer() for shard in inbox.addressable_shards}
    pointers = np.array([place[device] for device in devices], np.uint64).view(np.int32)
    table = np.broadcast_to(pointers.reshape(1, count, 2), (count, count, 2))
    ranks = np.arange(count, dtype=np.int32)[:, None]
    return Peers(inbox, turns, jax.device_put(table, each), jax.device_put(ranks, each))


def exchange(
    halves: list[jax.Array],
    row: jax.Array,
    dtype: jnp.dtype,
    inbox_ref: Any,
    turns_ref: Any,
    addresses_ref: Any,
    ranks_ref: Any,
) -> tuple[list[jax.Array], jax.Array]:
    """In a kernel, sums the two halves of a row over all devices; each gets the same bits.

    Args:
        halves: Two of [words] float32, of this device.
        row: Which row this is.
        dtype: Of 16 bits, to which they are rounded on the way.
        inbox_ref: [1, 2, devices, rows, words, 2] int32; only its shape is looked at.
        turns_ref: [1, rows] int32.
        addresses_ref: [1, devices, 2] int32.
        ranks_ref: [1, 1] int32.

    Returns:
        The sums, and the row's turn, to be written down once no warp will look for the last one.
    """
    _, _, devices, rows, words, _ = inbox_ref.shape
    rank, turn = ranks_ref[0, 0], turns_ref[0, row] + 1
    low, high = (
        jax.lax.bitcast_convert_type(x.astype(dtype), jnp.uint16).astype(jnp.int32) for x in halves
    )
    packed = low | (high << 16)

    def spread(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x, (words,))

    def call(text: str, owner: jax.Array, sender: jax.Array, turns: jax.Array) -> jax.Array:
        where = (((turn & 1) * devices + sender) * rows + row) * words + jnp.arange(words)
        address = [spread(addresses_ref[0, owner, i]) for i in range(2)]
        other = spread((owner != sender).astype(jnp.int32))
        given = *address, where * 8, packed, turns, other
        (found,) = plgpu.elementwise_inline_asm(
            text,
            args=given,
            constraints=",".join(["=&r"] * 2 + ["r"] * 2 * len(given)),
            pack=2,
            result_shape_dtypes=[jax.ShapeDtypeStruct((words,), jnp.int32)],
        )
        return found

    # Each result is wanted by the next call, so that nothing is left out or done too early.
    sent = spread(turn)
    for other in range(devices):
        sent = call(_SEND, jnp.int32(other), rank, sent)
    totals = [jnp.zeros((words,), jnp.float32)] * 2
    for other in range(devices):
        got = call(_RECEIVE, rank, jnp.int32(other), sent)
        parts = got & 0xFFFF, (got >> 16) & 0xFFFF
        numbers = [jax.lax.bitcast_convert_type(x.astype(jnp.uint16), dtype) for x in parts]
        totals = [t + x.astype(jnp.float32) for t, x in zip(totals, numbers, strict=True)]
    return totals, turn
