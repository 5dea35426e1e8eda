"""The parent's end of one zygote."""

import contextlib
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
from acdc_jax.sandbox.jail import wire
from acdc_jax.sandbox.launchers import Launcher
from acdc_jax.sandbox.outcomes import Limits
from acdc_jax.sandbox.start_zygote import start

_GRACE_S = 5.0  # for what no task's code takes part in
_TICK_S = 0.05


class Tier(NamedTuple):
    """Which walls stand around the tasks' code."""

    name: str
    namespaces: bool
    landlock: bool
    seccomp: bool


class ZygoteLost(Exception):
    """The zygote died or fell silent, so nothing is known about the call it was in."""


class Zygote:
    """A running zygote. Used by one thread at a time; `kill` may be called from any."""

    def __init__(
        self,
        interpreter: Interpreter,
        kind: str,
        tier: Tier,
        limits: Limits,
        launcher: Launcher | None = None,
    ) -> None:
        """Start it and wait until it is sealed.

        Raises:
            SandboxError: a restriction of the tier cannot be had here, or it did not start.
        """
        packages = interpreter.packages[kind]
        config = {
            "program": interpreter.program,
            # Overmounted in the zygote's own mount namespace: a folder that surely exists and
            # that holds nothing a task needs.
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
        self.process, self._control = start(interpreter, config, launcher)

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
        """Fork one child, give it a payload, and collect what it says until it is dead.

        Args:
            operation: of `wire`.
            payload: JSON of what the operation needs.
            items: results that the child may send.
            limits: of each item's time; the others are as the zygote was started with.
            host_requests: answers its questions; without one, a question breaks the protocol.
            eager: wake at everything that arrives, not only at its end and at each tick.

        Raises:
            ZygoteLost: start another zygote and call again.
        """
        token = secrets.token_bytes(wire.TOKEN_BYTES)
        header = wire.JOB.pack(token, operation, items, limits.cpu_s, len(payload))
        ours, theirs = socket.socketpair()
        try:
            with ours:
                with theirs:
                    socket.send_fds(self._control, [wire.FORK], [theirs.fileno()])
                ours.settimeout(_GRACE_S)
                # A child that died early is told by its status.
                with contextlib.suppress(ConnectionError):
                    ours.sendall(header + payload)
                ours.setblocking(False)
                call = Call(ours, token, items, limits.output_kb << 10, host_requests)
                return self._collect(call, limits, eager=eager)
        except OSError as error:
            raise ZygoteLost(str(error)) from error

    def _collect(self, call: Call, limits: Limits, *, eager: bool) -> Reply:
        """Wait for the child's end, and see to it that it comes.

        Scores are few bytes: they wait in the socket until the child has ended or a tick has
        passed, so that an ordinary call wakes this process (and its interpreter lock) once. Where
        the child may ask, or its answer may exceed the socket's buffer, every arrival wakes us.
        """
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        if eager:
            poller.register(call.job, select.POLLIN)
        killed, deadline = False, time.monotonic() + _GRACE_S
        while True:
            ready = {descriptor for descriptor, _ in poller.poll(_TICK_S * 1000)}
            ended = self._control.fileno() in ready
            progress, waited_s, more = call.receive(ended)
            if eager and not more and not ended:
                poller.unregister(call.job)
                eager = False
            reply = call.reply
            if ended:
                failed, reply.status, reply.cpu_s = self._status()
                if failed:
                    raise ZygoteLost(f"fork failed with errno {failed}")
                by_kill = os.waitstatus_to_exitcode(reply.status) == -signal.SIGKILL
                reply.killed = by_kill and not killed and reply.cpu_s < limits.cpu_s
                return reply
            now = time.monotonic()
            if not killed:
                # A whole frame is progress; single bytes are not, or a task that drips them would
                # live for ever. Bounded by the number of items.
                deadline = now + limits.wall_s if progress else deadline + waited_s
            broken = reply.forged is not None or reply.failed is not None
            if not killed and (now > deadline or broken):
                reply.timed_out = not broken
                self._control.send(wire.KILL)
                killed, deadline = True, now + _GRACE_S
            elif killed and now > deadline:
                raise ZygoteLost("a killed child did not end")

    def _status(self) -> tuple[int, int, float]:
        packet = self._control.recv(64)
        if len(packet) != wire.STATUS.size:
            raise ZygoteLost("the zygote died")
        failed, status, seconds = wire.STATUS.unpack(packet)
        return failed, status, seconds

    def kill(self) -> None:
        """End it and everything in it, at once. The kernel ends a PID namespace with its init."""
        with contextlib.suppress(OSError):  # a container outlives the program that started it
            self._control.shutdown(socket.SHUT_RDWR)
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """`kill`, and give back the descriptors."""
        self.kill()
        self._control.close()
