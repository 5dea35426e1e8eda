"""The messages between the parent, a zygote and its children.

There are two channels, and neither carries pickles:

* *control*, a SOCK_SEQPACKET pair between parent and zygote. A new zygote first sends one JSON
  packet. Then the parent sends `FORK` with one descriptor attached, `CLOCKS` or `KILL`. The zygote
  answers each fork with one `STATUS` record, and before it, while the child runs, each `CLOCKS`
  with one `READING`.
* *job*, a stream pair for one call. The parent sends a `JOB` header and a JSON payload, and the
  child sends frames. The parent answers a frame `ASK` with a `REPLY` header and JSON. The zygote
  passes its end on and never reads from it, because the data would stay in its heap, which the
  children of later calls inherit.

A child's frames carry a token that the parent drew for the call. The token does not make a child
trustworthy, but it makes bytes that are sent to every descriptor at random worthless.
"""

import json
import math
import struct
from typing import Any, NamedTuple, NoReturn

FORK = b"F"
KILL = b"K"
CLOCKS = b"C"

TOKEN_BYTES = 16
JOB = struct.Struct("<16sBHHI")  # token, operation, items, CPU seconds per item, payload length
INSPECT, SCORE, RUN = 1, 2, 3

FRAME = struct.Struct("<16sBII")  # token, tag, item, length of the body
READY = 1  # the child is isolated, and has not read any untrusted byte
LOADED = 2  # the source has been executed
VALUE = 3  # a score: one double
REPORT = 4  # an inspection: JSON
ERROR = 5  # the task failed: text
MEMORY = 6  # the task failed because memory ran out: text
SUBMISSION = 7  # the submission failed, and the scorer did not handle that: text
RESULT = 8  # the result of a submission's function: JSON
ASK = 9  # a question to the parent: JSON, a list that starts with JUDGE or CALL
TAGS = frozenset((READY, LOADED, VALUE, REPORT, ERROR, MEMORY, SUBMISSION, RESULT, ASK))

REPLY = struct.Struct("<BI")  # GRANTED, REFUSED or FAILED; length of a JSON value or text
GRANTED, REFUSED, FAILED = 1, 2, 3  # FAILED: the submission failed
JUDGE = "judge"  # [JUDGE, instructions, submission, criteria] → 1.0 (yes) or 0.0
CALL = "call"  # [CALL, source, function, arguments, keyword arguments] → result

DOUBLE = struct.Struct("<d")
STATUS = struct.Struct("<iid")  # errno of a failed fork or 0, wait status, CPU seconds
READING = struct.Struct("<ddx")  # CPU seconds, seconds of the monotonic clock; longer than STATUS

MAX_DETAIL = 500  # bytes of an error text; the child cuts longer ones, the parent refuses them
MAX_DEPTH = 32  # nesting of a JSON value
MAX_INSTANCES = 64
MAX_ITEMS = 64  # submissions scored by one child


class ProtocolError(Exception):
    """The child sent something that `runner` never sends."""


class Frame(NamedTuple):
    """One message of a child: its tag, the item that it is about, and its body."""

    tag: int
    item: int
    body: bytes


def pack_frame(token: bytes, tag: int, item: int, body: bytes = b"") -> bytes:
    """Return the bytes of one frame."""
    return FRAME.pack(token, tag, item, len(body)) + body


def take_frames(buffer: bytearray, token: bytes, max_body: int) -> list[Frame]:
    """Remove the complete frames from the front of `buffer` and return them.

    Raises:
        ProtocolError: A header has a wrong token, an unknown tag or a length above `max_body`.
            Headers are checked before their bodies have arrived.
    """
    frames: list[Frame] = []
    while len(buffer) >= FRAME.size:
        frame_token, tag, item, length = FRAME.unpack_from(buffer)
        if frame_token != token or tag not in TAGS or length > max_body:
            raise ProtocolError("the task wrote to the sandbox's own descriptor")
        end = FRAME.size + length
        if len(buffer) < end:
            break
        frames.append(Frame(tag, item, bytes(buffer[FRAME.size : end])))
        del buffer[:end]
    return frames


def check_plain(value: object, depth: int = 0) -> None:
    """Check that JSON can represent a value.

    Only exact types are allowed, because a subclass of `int` or `str` may behave arbitrarily.
    Tuples are allowed; they become lists.

    Raises:
        ValueError: JSON cannot represent it; the message gives the reason.
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
    """Parse JSON from the other side.

    Raises:
        ValueError: The body is not JSON, or contains values that no file can hold.
        RecursionError: It is nested too deeply.
        MemoryError: It is too large.
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
    json.dumps(value, ensure_ascii=False).encode()  # fails for lone surrogates
    return value
