"""What passes between the parent and one child."""

import socket
import time
from dataclasses import dataclass, field

from acdc_jax.sandbox.host_requests import HostRequests, RequestFailed
from acdc_jax.sandbox.jail import wire
from acdc_jax.sandbox.jail.wire import Frame, ProtocolError

_LISTEN_S = 5.0  # for a child to take an answer that it asked for


@dataclass
class Reply:
    """All that is known about one child.

    Attributes:
        frames: what it sent.
        status: its wait status.
        timed_out: it was killed because an item took longer than `wall_s`.
        forged: it broke the protocol, so none of its frames is to be believed.
        failed: it was killed because a question of it could not be answered, which is our fault.
        killed: it was killed neither by us nor by its limits: by the kernel, which ran out of
            memory, or by somebody else on this machine.
        cpu_s: CPU seconds that it used.
    """

    frames: list[Frame] = field(default_factory=list)
    status: int = 0
    timed_out: bool = False
    forged: str | None = None
    failed: str | None = None
    killed: bool = False
    cpu_s: float = 0.0


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
        self.job, self.reply = job, Reply()
        self._token, self._max_body, self._desk = token, max_body, host_requests
        self._most_frames = items + 2  # READY and LOADED
        self._buffer = bytearray()

    def receive(self, ended: bool) -> tuple[bool, float, bool]:
        """Take what has arrived, and answer questions.

        Args:
            ended: the child is dead, so what has arrived is all there is.

        Returns:
            Whether a frame came, the seconds spent on questions, whether more may come.
        """
        before, began, asked = len(self.reply.frames), time.monotonic(), False
        more = _read_available(self.job, self._buffer, None if ended else self._max_body)
        if self.reply.forged is None:
            try:
                for frame in wire.take_frames(self._buffer, self._token, self._max_body):
                    if frame.tag == wire.ASK:
                        asked = True
                        self._answer(frame, ended)
                    else:
                        self.reply.frames.append(frame)
                        if self._desk is not None:
                            self._desk.next_item()
                if len(self.reply.frames) > self._most_frames or (ended and self._buffer):
                    raise ProtocolError("the task wrote more results than it had items")
            except ProtocolError as error:
                self.reply.forged = str(error)
        waited = time.monotonic() - began if asked else 0.0
        return len(self.reply.frames) > before, waited, more

    def _answer(self, frame: Frame, ended: bool) -> None:
        if self._desk is None:
            raise ProtocolError("the task asked for what nobody answers")
        if ended or self.reply.failed is not None:
            return  # nobody is there to be answered
        try:
            answer = self._desk.answer(frame.body)
        except RequestFailed as error:
            self.reply.failed = str(error)
            return
        self.job.settimeout(_LISTEN_S)
        try:
            self.job.sendall(answer)
        except ConnectionError:
            pass  # it died; its status will tell
        except TimeoutError:
            raise ProtocolError("the task asked and did not listen") from None
        finally:
            self.job.setblocking(False)


def _read_available(job: socket.socket, buffer: bytearray, most: int | None) -> bool:
    """Read what has arrived, at most `most` bytes; whether there may be more later."""
    got = 0
    while most is None or got <= most:
        try:
            data = job.recv(1 << 16)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not data:
            return False
        buffer += data
        got += len(data)
    return True
