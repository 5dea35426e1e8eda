"""The bytes that pass between the parent, a zygote and its children.

Three channels, none of which carries pickles:

* *control*, a SOCK_SEQPACKET pair between parent and zygote. The parent sends `FORK` with one
  descriptor attached, or `KILL`; the zygote answers each fork with one `STATUS` record.
* *job*, a stream pair made for one call: `JOB` header and a JSON payload to the child, frames
  back. A frame `ASK` is answered with a `REPLY` header and JSON. The zygote passes its end on and
  never reads from it, because whatever it read would stay in its heap, and the children of later
  calls inherit that heap.
* the *hello* of a new zygote, one JSON packet on the control channel.

A child's frames carry a token that the parent drew for the call. A token does not make a child
trustworthy; it makes bytes that were sprayed at every descriptor worthless.
"""

import json
import math
import struct
from typing import Any, NamedTuple, NoReturn

FORK = b"F"
KILL = b"K"

TOKEN_BYTES = 16
JOB = struct.Struct("<16sBHHI")  # token, operation, items, CPU seconds of each, payload's length
INSPECT, SCORE, RUN = 1, 2, 3

FRAME = struct.Struct("<16sBII")  # token, tag, item, length of the body
READY = 1  # every restriction is in force and no untrusted byte has been looked at
LOADED = 2  # the source has been executed
VALUE = 3  # a score: one double
REPORT = 4  # an inspection: JSON
ERROR = 5  # the task's own fault: text
MEMORY = 6  # the same, because memory ran out
SUBMISSION = 7  # the submission's fault, which the scorer let through: text
RESULT = 8  # what a submission's function returned: JSON
ASK = 9  # the item wants something from outside: JSON, a list that starts with JUDGE or CALL
TAGS = frozenset((READY, LOADED, VALUE, REPORT, ERROR, MEMORY, SUBMISSION, RESULT, ASK))

REPLY = struct.Struct("<BI")  # GRANTED, REFUSED or FAILED; length of a JSON value or text
GRANTED, REFUSED, FAILED = 1, 2, 3  # FAILED: the submission did, not the question
JUDGE = "judge"  # [JUDGE, instructions, submission, criteria] -> a number
CALL = "call"  # [CALL, source, function, arguments, keyword arguments] -> what it returned

DOUBLE = struct.Struct("<d")
STATUS = struct.Struct("<iid")  # errno of a failed fork or 0, wait status, CPU seconds

MAX_DETAIL = 500  # bytes of an error text; the child cuts, the parent refuses
MAX_DEPTH = 32  # nesting of a JSON value
MAX_INSTANCES = 64
MAX_ITEMS = 64  # submissions scored by one child


class ProtocolError(Exception):
    """The child sent something that the code in `runner` never sends."""


class Frame(NamedTuple):
    """One record from a child: its tag, the item it is about, and its body."""

    tag: int
    item: int
    body: bytes


def pack_frame(token: bytes, tag: int, item: int, body: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return FRAME.pack(token, tag, item, len(body)) + body


def take_frames(buffer: bytearray, token: bytes, max_body: int) -> list[Frame]:
    """Remove the complete frames from the front of `buffer` and return them.

    Raises:
        ProtocolError: a header with a wrong token, an unknown tag or a length above `max_body`.
            Lengths are checked before any byte of the body is waited for.
    """
    frames: list[Frame] = []
    while len(buffer) >= FRAME.size:
        found, tag, item, length = FRAME.unpack_from(buffer)
        if found != token or tag not in TAGS or length > max_body:
            raise ProtocolError("the task wrote to the sandbox's own descriptor")
        end = FRAME.size + length
        if len(buffer) < end:
            break
        frames.append(Frame(tag, item, bytes(buffer[FRAME.size : end])))
        del buffer[:end]
    return frames


def check_plain(value: object, depth: int = 0) -> None:
    """Refuse what JSON cannot carry unchanged.

    Exact types only: a subclass of `int` or `str` may behave as it likes when it is looked at.
    Tuples are let through; they come back as lists.

    Raises:
        ValueError: says what is wrong.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    kind = type(value)
    if kind is dict:
        for key, entry in value.items():  # type: ignore[attr-defined]
            if type(key) is not str:
                raise ValueError(f"the key {key!r:.40} is not a string")
            check_plain(entry, depth + 1)
    elif kind is list or kind is tuple:
        for entry in value:  # type: ignore[attr-defined]
            check_plain(entry, depth + 1)
    elif kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise ValueError("a number is not finite")
    elif kind is not str and kind is not int and kind is not bool and value is not None:
        raise ValueError(f"a {kind.__name__:.40} is not JSON")


def parse_plain(body: bytes) -> Any:
    """JSON from the other side.

    Raises:
        ValueError: it is not JSON, or not all of it can be written down again.
        RecursionError, MemoryError: it is nested, or large, beyond reason.
    """

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError("a number is not finite")
        return value

    def refuse(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    value = json.loads(body, parse_float=finite, parse_constant=refuse)
    check_plain(value)
    json.dumps(value, ensure_ascii=False).encode()  # lone surrogates, which no file could hold
    return value
