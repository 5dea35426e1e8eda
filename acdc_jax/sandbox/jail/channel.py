"""The child's end of the job channel."""

import json
import os
from typing import Any

from . import wire

JOB = 3  # descriptor of the job channel


def read(length: int) -> bytes:
    """Read exactly `length` bytes from the parent. The process exits if the parent closes."""
    data = bytearray()
    while len(data) < length:
        chunk = os.read(JOB, length - len(data))
        if not chunk:
            os._exit(70)
        data += chunk
    return bytes(data)


class Channel:
    """Sends frames about the current item to the parent, and reads its answers."""

    def __init__(self, token: bytes, max_body: int) -> None:
        """Send frames with `token` and at most `max_body` bytes each."""
        self.token, self.max_body, self.item = token, max_body, 0

    def send(self, tag: int, body: bytes = b"") -> None:
        """Send one frame."""
        data = wire.pack_frame(self.token, tag, self.item, body)
        while data:
            data = data[os.write(JOB, data) :]

    def ask(self, question: list[Any]) -> tuple[int, Any]:
        """Ask the parent; return its verdict (see `wire`) and a value or a text."""
        body = json.dumps(question, allow_nan=False).encode()
        if len(body) > self.max_body:
            return wire.REFUSED, f"a helper's arguments exceed {self.max_body // 1024} KiB"
        self.send(wire.ASK, body)
        verdict, length = wire.REPLY.unpack(read(wire.REPLY.size))
        return verdict, json.loads(read(length))
