"""The parent's side of one zygote."""

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
from acdc_jax.sandbox.start_zygote import start_zygote

_GRACE_S = 5.0  # for steps in which no task code runs
_TICK_S = 0.05


class Tier(NamedTuple):
    """A combination of kernel features that isolates task code."""

    name: str
    namespaces: bool
    landlock: bool
    seccomp: bool


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
        header = wire.JOB.pack(token, operation, items, limits.cpu_s, len(payload))
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
                fork_errno, reply.status, reply.cpu_s = self._status()
                if fork_errno:
                    raise ZygoteLost(f"fork failed with errno {fork_errno}")
                died_of_kill = os.waitstatus_to_exitcode(reply.status) == -signal.SIGKILL
                reply.killed = died_of_kill and not killed and reply.cpu_s < limits.cpu_s
                return reply
            now = time.monotonic()
            if not killed:
                # A whole frame is progress; single bytes are not, or a task could live forever by
                # sending them slowly. The number of frames is bounded by the number of items.
                deadline = now + limits.wall_s if progress else deadline + waited_s
            failed = reply.violation is not None or reply.request_failure is not None
            if not killed and (now > deadline or failed):
                reply.timed_out = not failed
                self._control.send(wire.KILL)
                killed, deadline = True, now + _GRACE_S
            elif killed and now > deadline:
                raise ZygoteLost("a killed child did not end")

    def _status(self) -> tuple[int, int, float]:
        """Return errno of a failed fork or 0, wait status, and CPU seconds."""
        packet = self._control.recv(64)
        if len(packet) != wire.STATUS.size:
            raise ZygoteLost("the zygote died")
        fork_errno, status, cpu_s = wire.STATUS.unpack(packet)
        return fork_errno, status, cpu_s

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
