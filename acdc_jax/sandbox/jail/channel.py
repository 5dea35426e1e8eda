"""A child's end of the job channel."""

import json
import os
from typing import Any

from . import wire

JOB = 3  # the descriptor of the job channel


def read(length: int) -> bytes:
    """Exactly `length` bytes from the parent; the process ends if the parent gives up."""
    data = bytearray()
    while len(data) < length:
        more = os.read(JOB, length - len(data))
        if not more:
            os._exit(70)
        data += more
    return bytes(data)


class Channel:
    """Frames to the parent about the item that is being worked on, and its answers."""

    def __init__(self, token: bytes, most: int) -> None:
        """`most`: bytes of a frame's body."""
        self.token, self.most, self.item = token, most, 0

    def send(self, tag: int, body: bytes = b"") -> None:
        """Send one frame."""
        data = wire.pack_frame(self.token, tag, self.item, body)
        while data:
            data = data[os.write(JOB, data) :]

    def ask(self, question: list[Any]) -> tuple[int, Any]:
        """Send an ASK frame and wait for the parent's verdict, with a value or a text."""
        body = json.dumps(question, allow_nan=False).encode()
        if len(body) > self.most:
            return wire.REFUSED, f"a helper's arguments exceed {self.most // 1024} KiB"
        self.send(wire.ASK, body)
        verdict, length = wire.REPLY.unpack(read(wire.REPLY.size))
        return verdict, json.loads(read(length))
