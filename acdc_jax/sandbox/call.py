"""The messages between the parent and one child."""

import socket
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from acdc_jax.sandbox.host_requests import HostRequests, RequestFailed
from acdc_jax.sandbox.item_clock import Cut
from acdc_jax.sandbox.jail import wire
from acdc_jax.sandbox.jail.wire import Frame, ProtocolError

_LISTEN_S = 5.0  # for a child to take the answer to its question


@dataclass
class Reply:
    """The reply of one child, and how it ended.

    Attributes:
        frames: The frames that it sent.
        status: Its wait status.
        cut: Why an item was ended by the sandbox; None if no time limit ended it.
        violation: How it broke the protocol, or None. If it did, none of its frames is trusted.
        request_failure: Why the parent could not answer its question, or None. It was then killed
            through no fault of its own.
        killed: It was killed neither by the sandbox nor by its limits, but by the kernel, which ran
            out of memory, or by someone else on this machine.
        cpu_s: CPU seconds that it used.
    """

    frames: list[Frame] = field(default_factory=list)
    status: int = 0
    cut: Cut | None = None
    violation: str | None = None
    request_failure: str | None = None
    killed: bool = False
    cpu_s: float = 0.0


class Received(NamedTuple):
    """The result of one `Call.receive`.

    Attributes:
        progress: Whether a frame arrived.
        waited_s: Seconds spent on answering questions.
        more: Whether more may arrive.
    """

    progress: bool
    waited_s: float
    more: bool


class Call:
    """The parent's end of one child's job channel."""

    def __init__(
        self,
        job: socket.socket,
        token: bytes,
        items: int,
        max_body: int,
        host_requests: HostRequests | None,
    ) -> None:
        """Read frames from `job`.

        Args:
            job: The parent's socket.
            token: The token that the child's frames must carry.
            items: Results that the child may send.
            max_body: Maximum bytes of a frame's body.
            host_requests: Answers the child's questions; None if it may ask none.
        """
        self.job, self.reply = job, Reply()
        self._token, self._max_body, self._host_requests = token, max_body, host_requests
        self._max_frames = items + 2  # READY and LOADED
        self._buffer = bytearray()

    def receive(self, ended: bool) -> Received:
        """Read what has arrived, and answer questions.

        Args:
            ended: The child is dead, so nothing more will arrive.
        """
        before, start, has_question = len(self.reply.frames), time.monotonic(), False
        more = _read_available(self.job, self._buffer, None if ended else self._max_body)
        if self.reply.violation is None:
            try:
                has_question = self._take_frames(ended)
            except ProtocolError as error:
                self.reply.violation = str(error)
        waited_s = time.monotonic() - start if has_question else 0.0
        return Received(len(self.reply.frames) > before, waited_s, more)

    def _take_frames(self, ended: bool) -> bool:
        """Move complete frames from the buffer to the reply; return whether one was a question.

        Raises:
            ProtocolError: The child broke the protocol.
        """
        has_question = False
        for frame in wire.take_frames(self._buffer, self._token, self._max_body):
            if frame.tag == wire.ASK:
                has_question = True
                self._answer(frame, ended)
                continue
            self.reply.frames.append(frame)
            if self._host_requests is not None:
                self._host_requests.next_item()
        if len(self.reply.frames) > self._max_frames or (ended and self._buffer):
            raise ProtocolError("the task wrote more results than it had items")
        return has_question

    def _answer(self, frame: Frame, ended: bool) -> None:
        """Answer a question.

        Raises:
            ProtocolError: The child may not ask, or does not read the answer.
        """
        if self._host_requests is None:
            raise ProtocolError("the task asked a question, which is not allowed")
        if ended or self.reply.request_failure is not None:
            return  # the child is dead, or about to be killed
        try:
            answer = self._host_requests.answer(frame.body)
        except RequestFailed as error:
            self.reply.request_failure = str(error)
            return
        self.job.settimeout(_LISTEN_S)
        try:
            self.job.sendall(answer)
        except ConnectionError:
            pass  # the child died; its status tells why
        except TimeoutError:
            raise ProtocolError("the task asked a question and did not read the answer") from None
        finally:
            self.job.setblocking(False)


def _read_available(job: socket.socket, buffer: bytearray, max_bytes: int | None) -> bool:
    """Read what has arrived, about `max_bytes` at most; return whether more may arrive later."""
    count = 0
    while max_bytes is None or count <= max_bytes:
        try:
            data = job.recv(1 << 16)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not data:
            return False
        buffer += data
        count += len(data)
    return True
