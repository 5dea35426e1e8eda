"""Starts a zygote's process and the channel to it, directly or inside a launcher."""

import json
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from acdc_jax.sandbox.interpreter import Interpreter, data_folders, zygote_environment
from acdc_jax.sandbox.launchers import Launch, Launcher
from acdc_jax.sandbox.outcomes import SandboxError

_START_S = 60.0  # importing sympy on a slow network file system
_TICK_S = 0.1
# What a batch system sends to every process of a job, whatever its session. The run hears it and
# decides; a zygote or a child that died of it would be a lost call, or the task's own crash.
_FOR_THE_RUN = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}

Started = tuple[subprocess.Popen[bytes], socket.socket]


def start(
    interpreter: Interpreter, config: Mapping[str, Any], launcher: Launcher | None
) -> Started:
    """Start a zygote and wait until it has sealed itself off.

    Args:
        interpreter: what runs it.
        config: what it is told; the control channel is added here.
        launcher: the wall around it, if any.

    Raises:
        SandboxError: it did not start, or a wall that the configuration asks for is not to be had.
    """
    process, control = (
        _inherited(interpreter, config)
        if launcher is None
        else _launched(interpreter, config, launcher)
    )
    try:
        control.settimeout(_START_S)
        hello = control.recv(4096)
        error = json.loads(hello)["error"] if hello else "it ended before it said anything"
    except OSError as failure:
        error = str(failure)
    if error is not None:
        control.close()
        process.kill()
        process.wait()
        raise SandboxError(f"a zygote did not start: {error}")
    control.setblocking(True)
    return process, control


def _inherited(interpreter: Interpreter, config: Mapping[str, Any]) -> Started:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = _command(interpreter, {**config, "control": theirs.fileno()})
        try:
            process = _popen(
                command,
                env=zygote_environment(),
                pass_fds=[theirs.fileno()],
                stderr=subprocess.DEVNULL,
            )
            return process, ours
        except SandboxError:
            ours.close()
            raise


def _launched(interpreter: Interpreter, config: Mapping[str, Any], launcher: Launcher) -> Started:
    """Through a socket in a folder of ours: few launchers pass descriptors on."""
    with (
        # Not under TMPDIR: a socket's path has at most 107 bytes.
        tempfile.TemporaryDirectory(prefix="acdc-", dir="/tmp") as folder,
        tempfile.TemporaryFile() as said,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        address = f"{folder}/control"
        listener.bind(address)
        listener.listen(1)
        listener.settimeout(_TICK_S)
        launch = Launch(
            _command(interpreter, {**config, "control": address}),
            zygote_environment(),
            (interpreter.prefix, interpreter.program, *interpreter.visible, *data_folders()),
            folder,
        )
        process = _popen(launcher(launch), stderr=said)  # in our environment, the zygote in its own
        end = time.monotonic() + _START_S
        while True:
            try:
                return process, listener.accept()[0]
            except TimeoutError:
                if process.poll() is None and time.monotonic() < end:
                    continue
            process.kill()
            process.wait()
            raise SandboxError(f"the launcher {launcher} did not start a zygote: {_last(said)}")


def _command(interpreter: Interpreter, config: Mapping[str, Any]) -> list[str]:
    return [*interpreter.command, json.dumps(config), interpreter.program]


def _popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    # Blocked signals stay so in whatever is started, launchers included; this thread's come later.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_RUN)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            **options,
        )
    except OSError as failure:
        raise SandboxError(f"{Path(command[0]).name} does not start: {failure}") from failure
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _last(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read(10_000).decode("utf-8", "replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")[:300]
