"""The parent's side of one zygote."""

import contextlib
import dataclasses
import math
import os
import secrets
import select
import signal
import socket
import time
from typing import NamedTuple

from acdc_jax.sandbox.call import Call, Reply
from acdc_jax.sandbox.host_requests import HostRequests
from acdc_jax.sandbox.interpreter import PRELOADED, Interpreter, data_folders
from acdc_jax.sandbox.item_clock import ItemClock, Reading
from acdc_jax.sandbox.jail import wire
from acdc_jax.sandbox.launchers import Launcher
from acdc_jax.sandbox.outcomes import Limits
from acdc_jax.sandbox.start_zygote import start_zygote

_GRACE_S = 20.0  # for steps in which no task code runs
_TICK_S = 0.05


class Tier(NamedTuple):
    """A combination of kernel features that isolates task code."""

    name: str
    namespaces: bool
    landlock: bool
    seccomp: bool


class _Ending(NamedTuple):
    """How a child ended: its wait status, and the CPU seconds that it used."""

    status: int
    cpu_s: float


class ZygoteLost(Exception):
    """The zygote died or does not answer; nothing is known about the call."""


class Zygote:
    """A running zygote. One thread at a time may use it; any thread may call `kill`."""

    def __init__(
        self,
        interpreter: Interpreter,
        kind: str,
        tier: Tier,
        limits: Limits,
        launcher: Launcher | None = None,
    ) -> None:
        """Start a zygote and wait until it has isolated itself.

        Args:
            interpreter: Runs the zygote.
            kind: Which packages it preloads.
            tier: How it is isolated.
            limits: What one item may use.
            launcher: Starts the zygote, if any.

        Raises:
            SandboxError: The zygote did not start, or the tier is not available.
        """
        packages = interpreter.packages[kind]
        config = {
            "program": interpreter.program,
            # The new root is mounted on this folder, in the zygote's own mount namespace. It exists
            # and contains nothing that a task needs.
            "root": interpreter.program + "/jail",
            "paths": sorted({folder.rpartition("/")[0] for folder in packages}),
            "packages": interpreter.visible,
            "data": data_folders(),
            "preload": PRELOADED[kind],
            "namespaces": tier.namespaces,
            "landlock": tier.landlock,
            "seccomp": tier.seccomp,
            "memory_bytes": limits.memory_mb << 20,
            "file_bytes": limits.file_mb << 20,
            "scratch_bytes": limits.scratch_mb << 20,
            "output_bytes": limits.output_kb << 10,
            "processes": limits.processes,
        }
        self.process, self._control = start_zygote(interpreter, config, launcher)

    def call(
        self,
        operation: int,
        payload: bytes,
        items: int,
        limits: Limits,
        *,
        host_requests: HostRequests | None = None,
        eager: bool = True,
    ) -> Reply:
        """Fork a child, send it a payload, and collect what it sends until it is dead.

        Args:
            operation: `wire.INSPECT`, `wire.SCORE` or `wire.RUN`.
            payload: The operation's arguments, as JSON.
            items: Results that the child may send.
            limits: The time of each item. Other limits are those of the zygote's start.
            host_requests: Answers the child's questions; None if it may ask none.
            eager: Wake up whenever something arrives, not only at the child's end and every tick.

        Raises:
            ZygoteLost: The caller should start another zygote and call again.
        """
        token = secrets.token_bytes(wire.TOKEN_BYTES)
        header = wire.JOB.pack(token, operation, items, math.ceil(limits.cpu_s), len(payload))
        parent_end, child_end = socket.socketpair()
        try:
            with parent_end:
                with child_end:
                    socket.send_fds(self._control, [wire.FORK], [child_end.fileno()])
                parent_end.settimeout(_GRACE_S)
                # If the child has already died, its status tells why.
                with contextlib.suppress(ConnectionError):
                    parent_end.sendall(header + payload)
                parent_end.setblocking(False)
                call = Call(parent_end, token, items, limits.output_kb << 10, host_requests)
                return self._collect(call, limits, eager=eager)
        except OSError as error:
            raise ZygoteLost(str(error)) from error

    def _collect(self, call: Call, limits: Limits, *, eager: bool) -> Reply:
        """Wait for the child's end, and kill it if it takes too long.

        Scores are few bytes. They wait in the socket until the child has ended or a tick has
        passed, so that an ordinary call wakes up this process (and takes its interpreter lock)
        once. If the child may ask, or its answer may exceed the socket's buffer, every arrival
        wakes up this process.
        """
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        if eager:
            poller.register(call.job, select.POLLIN)
        reply, clock = call.reply, ItemClock(time.monotonic())
        start_limits = dataclasses.replace(limits, wall_s=_GRACE_S)  # until the child is ready
        looked = clock.start  # when the clocks were last read
        asked, killed = None, None  # when an answer was requested, and the child's end
        while True:
            ready = {descriptor for descriptor, _ in poller.poll(_TICK_S * 1000)}
            message = self._receive() if self._control.fileno() in ready else None
            ended = isinstance(message, _Ending)
            progress, waited_s, more = call.receive(ended)
            if eager and not more and not ended:
                poller.unregister(call.job)
                eager = False
            if isinstance(message, _Ending):
                reply.status, reply.cpu_s = message.status, message.cpu_s
                died_of_kill = os.waitstatus_to_exitcode(reply.status) == -signal.SIGKILL
                reply.killed = died_of_kill and killed is None and reply.cpu_s < limits.cpu_s
                return reply
            now = time.monotonic()
            # A whole frame is progress; single bytes are not, or a task could live forever by
            # sending them slowly. The number of frames is bounded by the number of items.
            clock = ItemClock(now) if progress else clock
            clock.start += waited_s
            if isinstance(message, Reading):
                asked = None
                if not progress:  # otherwise it may have been made during the item before
                    clock.read(message)
            if killed is not None:
                if now > killed + _GRACE_S:
                    raise ZygoteLost("a killed child did not end")
                continue
            if asked is not None and now > asked + _GRACE_S:
                raise ZygoteLost("the zygote does not answer")
            reply.cut = clock.cut(limits if reply.frames else start_limits)
            if reply.cut is not None or reply.violation is not None or reply.request_failure:
                self._control.send(wire.KILL)
                killed = now
            elif asked is None and now > looked + _TICK_S:
                self._control.send(wire.CLOCKS)
                asked = looked = now

    def _receive(self) -> "_Ending | Reading":
        """Return the zygote's message.

        Raises:
            ZygoteLost: The zygote died, or could not fork.
        """
        packet = self._control.recv(64)
        if len(packet) == wire.READING.size:
            return Reading(*wire.READING.unpack(packet))
        if len(packet) != wire.STATUS.size:
            raise ZygoteLost("the zygote died")
        fork_errno, status, cpu_s = wire.STATUS.unpack(packet)
        if fork_errno:
            raise ZygoteLost(f"fork failed with errno {fork_errno}")
        return _Ending(status, cpu_s)

    def kill(self) -> None:
        """End the zygote and its child at once. The kernel ends a PID namespace with its init."""
        with contextlib.suppress(OSError):  # a container may outlive the program that started it
            self._control.shutdown(socket.SHUT_RDWR)
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill the zygote and close the descriptors."""
        self.kill()
        self._control.close()
