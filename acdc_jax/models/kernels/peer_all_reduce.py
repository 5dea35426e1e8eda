"""All-reduce inside kernels: GPUs write into each other's memory.

A decoding step over several GPUs sums small arrays, twice per layer. XLA launches each collective
operation separately and cannot record it into a CUDA graph: the gaps around it take longer than the
sum. Here every GPU has an inbox that the others write to. A message is eight bytes, which arrive
together: three 16-bit numbers and the number of their turn. From the turns, a GPU sees without
further synchronisation that its inbox is complete (as in NCCL's "LL" protocol for small sums).
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

# Polls, for about ten minutes; then the program ends with an error. While a system page-locks
# memory, a device may be unable to start for half a minute.
_PATIENCE = 2**30

PIECES = 3  # of a row: a message has one number of each, and the turn
LEAST_WIDTH = 128  # so that every thread of a warp has two messages

# PTX for two messages at once: every argument, and the result, comes twice. A message's address is
# that of an inbox (low and high half) plus an offset in bytes. The high half of its second word is
# the turn. Padding messages ("active" is zero) and those of the device to itself are skipped.
_BEGIN = """
.reg .b64 a0, a1, o0, o1;
mov.b64 a0, {$2, $4}; cvt.u64.u32 o0, $6; add.u64 a0, a0, o0;
mov.b64 a1, {$3, $5}; cvt.u64.u32 o1, $7; add.u64 a1, a1, o1;"""
# Arguments: address, offset, both words, active. The result is the second word.
_SEND = f"""{{{_BEGIN}
.reg .b64 d0, d1;
.reg .pred p0, p1;
mov.b64 d0, {{$8, $10}};
mov.b64 d1, {{$9, $11}};
setp.ne.u32 p0, $12, 0;
setp.ne.u32 p1, $13, 0;
@p0 st.volatile.global.b64 [a0], d0;
@p1 st.volatile.global.b64 [a1], d1;
mov.b32 $0, $10;
mov.b32 $1, $11;
}}"""


def _await(devices: int, apart: int) -> str:
    """Return PTX that polls until the second words of all other devices' messages have arrived.

    Its arguments: address and offset of the first device's message, the second word that this
    device sent, active, its rank. The result is zero.

    Args:
        devices: Number of devices.
        apart: Bytes between the messages of two devices.
    """
    look, check = [], []
    for sender in range(devices):
        for i in range(2):  # issue all loads before the first check
            word = f"w{2 * sender + i}"
            look.append(f"setp.ne.and.u32 other, ${12 + i}, {sender}, p{i};")
            look.append(f"mov.b32 {word}, ${8 + i};")
            look.append(f"@other ld.volatile.global.b32 {word}, [a{i} + {sender * apart + 4}];")
            check.append(f"xor.b32 {word}, {word}, ${8 + i}; or.b32 missing, missing, {word};")
    return "\n".join(
        [
            f"{{{_BEGIN}",
            f".reg .b32 w<{2 * devices}>, missing, looks;",
            ".reg .pred p0, p1, other, again, late;",
            "setp.ne.u32 p0, $10, 0;",
            "setp.ne.u32 p1, $11, 0;",
            "mov.b32 looks, 0;",
            "LOOK:",
            *look,
            "mov.b32 missing, 0;",
            *check,
            "setp.gt.u32 again, missing, 65535;",
            "add.u32 looks, looks, 1;",
            f"setp.gt.u32 late, looks, {_PATIENCE};",
            "@late trap;",
            "@again bra LOOK;",
            "mov.b32 $0, 0;",
            "mov.b32 $1, 0;",
            "}",
        ]
    )


def _take(word: int) -> str:
    """Return PTX that reads one word of a message that has arrived.

    Its arguments: address, offset, the device's own word, active. Where a message is not active,
    the result is the own word.
    """
    return f"""{{{_BEGIN}
.reg .pred p0, p1;
setp.ne.u32 p0, $10, 0;
setp.ne.u32 p1, $11, 0;
mov.b32 $0, $8;
mov.b32 $1, $9;
@p0 ld.volatile.global.b32 $0, [a0 + {4 * word}];
@p1 ld.volatile.global.b32 $1, [a1 + {4 * word}];
}}"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PeerInboxes:
    """Inboxes of the devices, and their addresses; the first axis of each array is sharded.

    Attributes:
        inbox: [devices, 2, devices, rows, messages, 2] int32: for even and odd turns, from each
            device, three 16-bit numbers and the last 16 bits of their turn.
        turns: [devices, rows] int32, the last turn of each row. Kernels increment it in place,
            which XLA does not know.
        addresses: [devices, devices, 2] int32, addresses of all inboxes.
        ranks: [devices, 1] int32, each device's own index.
    """

    inbox: jax.Array
    turns: jax.Array
    addresses: jax.Array
    ranks: jax.Array


def reachable(mesh: Mesh) -> bool:
    """Return whether a mesh has only GPUs of this process that can access each other's memory.

    XLA enables peer access if the driver supports it. Only memory of its default allocator is
    shared.
    """
    devices = mesh.devices.flatten()
    default_allocator = os.environ.get("XLA_PYTHON_CLIENT_ALLOCATOR", "default") in (
        "default",
        "bfc",
    )
    if not default_allocator or any(
        device.process_index != jax.process_index() for device in devices
    ):
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    accessible = ctypes.c_int()
    return all(
        driver.cuDeviceCanAccessPeer(
            ctypes.byref(accessible), one.local_hardware_id, other.local_hardware_id
        )
        == 0
        and accessible.value == 1
        for one, other in itertools.permutations(devices, 2)
    )


def messages(width: int) -> int:
    """Return the number of messages of a row, padding included."""
    count: int = pl.next_power_of_2(pl.cdiv(width, PIECES))
    return count


def allocate_inboxes(mesh: Mesh, axis: str, rows: int, width: int) -> PeerInboxes:
    """Give every device of a mesh an inbox for [rows, width] numbers of 16 bits.

    The arrays must outlive all computations with them, and must not be donated.

    Args:
        mesh: GPUs of this process that can access each other's memory; one axis, of two or more.
        axis: Name of the axis.
        rows: Largest number of rows of a sum.
        width: Length of a row, at least `LEAST_WIDTH`.
    """
    devices = mesh.devices.flatten()
    count, each = len(devices), NamedSharding(mesh, PartitionSpec(axis))
    inbox = jnp.zeros((count, 2, count, rows, messages(width), 2), jnp.int32, device=each)
    turns = jnp.zeros((count, rows), jnp.int32, device=each)
    jax.block_until_ready((inbox, turns))  # no device writes before all inboxes are zero
    place = {shard.device: shard.data.unsafe_buffer_pointer() for shard in inbox.addressable_shards}
    pointers = np.array([place[device] for device in devices], np.uint64).view(np.int32)
    table = np.broadcast_to(pointers.reshape(1, count, 2), (count, count, 2))
    ranks = np.arange(count, dtype=np.int32)[:, None]
    return PeerInboxes(inbox, turns, jax.device_put(table, each), jax.device_put(ranks, each))


def sum_over_peers(
    pieces: list[jax.Array],
    inside: jax.Array,
    row: jax.Array,
    dtype: jnp.dtype,
    inbox_ref: Any,
    turns_ref: Any,
    addresses_ref: Any,
    ranks_ref: Any,
) -> tuple[list[jax.Array], jax.Array]:
    """Sum, in a kernel, the three pieces of a row over all devices; each gets the same bits.

    Args:
        pieces: Three arrays [messages] float32 of this device.
        inside: [messages] bool, False for padding.
        row: Index of the row.
        dtype: 16-bit dtype to which the numbers are rounded before they are sent.
        inbox_ref: [1, 2, devices, rows, messages, 2] int32; only its shape is used.
        turns_ref: [1, rows] int32.
        addresses_ref: [1, devices, 2] int32.
        ranks_ref: [1, 1] int32.

    Returns:
        The sums, and the row's turn. Store it in `turns_ref` once no warp needs the last one.
    """
    _, _, devices, rows, count, _ = inbox_ref.shape
    rank, turn = ranks_ref[0, 0], turns_ref[0, row] + 1
    a, b, c = (
        jax.lax.bitcast_convert_type(x.astype(dtype), jnp.uint16).astype(jnp.int32) for x in pieces
    )
    first, second = a | (b << 16), c | (turn << 16)

    def at(sender: jax.Array) -> jax.Array:
        begin: jax.Array = (((turn & 1) * devices + sender) * rows + row) * count
        return (begin + jnp.arange(count)) * 8

    def call(text: str, owner: jax.Array, *operands: jax.Array) -> jax.Array:
        address = [addresses_ref[0, owner, i] for i in range(2)]
        args = [jnp.broadcast_to(x, (count,)) for x in (*address, *operands)]
        result: jax.Array
        (result,) = plgpu.elementwise_inline_asm(
            text,
            args=args,
            constraints=",".join(["=&r"] * 2 + ["r"] * 2 * len(args)),
            pack=2,
            result_shape_dtypes=[jax.ShapeDtypeStruct((count,), jnp.int32)],
        )
        return result

    # Each call takes the result of the one before, so that none is dropped or reordered.
    result = second
    active = [(inside & (rank != other)).astype(jnp.int32) for other in range(devices)]
    for other in range(devices):
        result = call(_SEND, jnp.int32(other), at(rank), first, result, active[other])
    text = _await(devices, rows * count * 8)
    zero = call(text, rank, at(jnp.int32(0)), result, inside.astype(jnp.int32), rank)
    totals = [jnp.zeros((count,), jnp.float32)] * PIECES
    for other in range(devices):
        words = [
            call(_take(word), rank, at(jnp.int32(other)) + zero, value, active[other])
            for word, value in enumerate((first, second))
        ]
        numbers = [
            jax.lax.bitcast_convert_type((x & 0xFFFF).astype(jnp.uint16), dtype)
            for x in (words[0], words[0] >> 16, words[1])
        ]
        totals = [t + x.astype(jnp.float32) for t, x in zip(totals, numbers, strict=True)]
    return totals, turn
