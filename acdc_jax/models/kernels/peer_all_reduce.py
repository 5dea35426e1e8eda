"""Sums over devices that kernels make themselves, by writing into each other's memory.

A decoding step over several GPUs adds up small arrays, twice a layer. XLA's collective operations
start anew each time, and cannot be part of the graph of kernels that a GPU runs by itself: the
pauses around them are longer than the sum. Here every GPU has an inbox that the others write to.
Three numbers go along with the turn that they belong to, eight bytes that arrive together, so that
a GPU sees by itself when its inbox is complete (as NCCL does for small sums: its "LL" protocol).
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

PIECES = 3  # in which a row travels: a message has a number of each, and the turn
LEAST_WIDTH = 128  # every thread of a warp has two messages

# PTX, for two messages at once: there are two of every argument, and of the result. A message's
# address is that of an inbox (low and high half) and an offset in bytes. The high half of its
# second word is the turn. Nothing is done for messages that only fill a row up ("wanted" is zero),
# nor for the device itself.
_BEGIN = """
.reg .b64 a0, a1, o0, o1;
mov.b64 a0, {$2, $4}; cvt.u64.u32 o0, $6; add.u64 a0, a0, o0;
mov.b64 a1, {$3, $5}; cvt.u64.u32 o1, $7; add.u64 a1, a1, o1;"""
# Arguments: address, offset, both words, wanted. The result is the second word.
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
    """Looks until the second words of all other devices' messages, so many bytes apart, have come.

    Arguments: address and offset of the first device's, the second word that the device has itself
    sent, wanted, its rank. The result is zero.
    """
    look, check = [], []
    for sender in range(devices):
        for i in range(2):  # all are on their way before the first is looked at
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
    """One word of a message that has come.

    Arguments: address, offset, the device's own word, wanted. The result is the own word where
    nothing is wanted.
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
class Peers:
    """Where devices find each other's inboxes; every device has its own part of each array.

    Attributes:
        inbox: [devices, 2, devices, rows, messages, 2] int32: for even and odd turns, from each
            device, three 16-bit numbers and the last 16 bits of their turn.
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


def messages(width: int) -> int:
    """How many a row takes, counted with those that only fill it up."""
    count: int = pl.next_power_of_2(pl.cdiv(width, PIECES))
    return count


def connect(mesh: Mesh, axis: str, rows: int, width: int) -> Peers:
    """Gives every device of a mesh an inbox for [rows, width] numbers of 16 bits.

    The arrays must outlive what is computed with them, and must not be donated.

    Args:
        mesh: GPUs of this process that reach each other's memory; one axis, of more than one.
        axis: Its name.
        rows: Most rows of a sum.
        width: Their length, at least `LEAST_WIDTH`.
    """
    devices = mesh.devices.flatten()
    count, each = len(devices), NamedSharding(mesh, PartitionSpec(axis))
    inbox = jnp.zeros((count, 2, count, rows, messages(width), 2), jnp.int32, device=each)
    turns = jnp.zeros((count, rows), jnp.int32, device=each)
    jax.block_until_ready((inbox, turns))  # nobody writes before all is empty
    place = {shard.device: shard.data.unsafe_buffer_pointer() for shard in inbox.addressable_shards}
    pointers = np.array([place[device] for device in devices], np.uint64).view(np.int32)
    table = np.broadcast_to(pointers.reshape(1, count, 2), (count, count, 2))
    ranks = np.arange(count, dtype=np.int32)[:, None]
    return Peers(inbox, turns, jax.device_put(table, each), jax.device_put(ranks, each))


def exchange(
    pieces: list[jax.Array],
    inside: jax.Array,
    row: jax.Array,
    dtype: jnp.dtype,
    inbox_ref: Any,
    turns_ref: Any,
    addresses_ref: Any,
    ranks_ref: Any,
) -> tuple[list[jax.Array], jax.Array]:
    """In a kernel, sums the three pieces of a row over all devices; each gets the same bits.

    Args:
        pieces: Three of [messages] float32, of this device.
        inside: [messages] bool, those that say something.
        row: Which row this is.
        dtype: Of 16 bits, to which they are rounded on the way.
        inbox_ref: [1, 2, devices, rows, messages, 2] int32; only its shape is looked at.
        turns_ref: [1, rows] int32.
        addresses_ref: [1, devices, 2] int32.
        ranks_ref: [1, 1] int32.

    Returns:
        The sums, and the row's turn, to be written down once no warp will look for the last one.
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

    def call(text: str, owner: jax.Array, *given: jax.Array) -> jax.Array:
        address = [addresses_ref[0, owner, i] for i in range(2)]
        args = [jnp.broadcast_to(x, (count,)) for x in (*address, *given)]
        found: jax.Array
        (found,) = plgpu.elementwise_inline_asm(
            text,
            args=args,
            constraints=",".join(["=&r"] * 2 + ["r"] * 2 * len(args)),
            pack=2,
            result_shape_dtypes=[jax.ShapeDtypeStruct((count,), jnp.int32)],
        )
        return found

    # Each result is wanted by the next call, so that nothing is left out or done too early.
    sent = second
    wanted = [(inside & (rank != other)).astype(jnp.int32) for other in range(devices)]
    for other in range(devices):
        sent = call(_SEND, jnp.int32(other), at(rank), first, sent, wanted[other])
    text = _await(devices, rows * count * 8)
    zero = call(text, rank, at(jnp.int32(0)), sent, inside.astype(jnp.int32), rank)
    totals = [jnp.zeros((count,), jnp.float32)] * PIECES
    for other in range(devices):
        words = [
            call(_take(word), rank, at(jnp.int32(other)) + zero, own, wanted[other])
            for word, own in enumerate((first, second))
        ]
        numbers = [
            jax.lax.bitcast_convert_type((x & 0xFFFF).astype(jnp.uint16), dtype)
            for x in (words[0], words[0] >> 16, words[1])
        ]
        totals = [t + x.astype(jnp.float32) for t, x in zip(totals, numbers, strict=True)]
    return totals, turn
