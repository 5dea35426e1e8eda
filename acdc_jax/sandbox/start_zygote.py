"""Start a zygote's process and connect to it, directly or through a launcher."""

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
# Batch systems send these signals to every process of a job, whatever its session. The run handles
# them. A zygote or child that one of them kills would look like a lost call or a crash of the task.
_BLOCKED_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}

_Connected = tuple[subprocess.Popen[bytes], socket.socket]


def start_zygote(
    interpreter: Interpreter, config: Mapping[str, Any], launcher: Launcher | None
) -> _Connected:
    """Start a zygote and wait until it has isolated itself.

    Args:
        interpreter: Runs the zygote.
        config: The zygote's configuration, without the control channel.
        launcher: Starts the zygote, if any.

    Returns:
        The process and the parent's end of the control channel.

    Raises:
        SandboxError: The zygote did not start, or the requested isolation is not available.
    """
    process, control = (
        _start_directly(interpreter, config)
        if launcher is None
        else _start_in_launcher(interpreter, config, launcher)
    )
    try:
        control.settimeout(_START_S)
        hello = control.recv(4096)
        error = json.loads(hello)["error"] if hello else "it ended without a message"
    except OSError as failure:
        error = str(failure)
    if error is not None:
        control.close()
        process.kill()
        process.wait()
        raise SandboxError(f"a zygote did not start: {error}")
    control.setblocking(True)
    return process, control


def _start_directly(interpreter: Interpreter, config: Mapping[str, Any]) -> _Connected:
    """Start a zygote that inherits its end of the control channel."""
    parent_end, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with child_end:
        command = _command(interpreter, {**config, "control": child_end.fileno()})
        try:
            process = _popen(
                command,
                env=zygote_environment(),
                pass_fds=[child_end.fileno()],
                stderr=subprocess.DEVNULL,
            )
            return process, parent_end
        except SandboxError:
            parent_end.close()
            raise


def _start_in_launcher(
    interpreter: Interpreter, config: Mapping[str, Any], launcher: Launcher
) -> _Connected:
    """Start a zygote that connects to a socket, because few launchers pass descriptors on."""
    with (
        # Not under TMPDIR: a socket's path has at most 107 bytes.
        tempfile.TemporaryDirectory(prefix="acdc-", dir="/tmp") as folder,
        tempfile.TemporaryFile() as errors,
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
        process = _popen(launcher(launch), stderr=errors)  # the launcher has our environment
        deadline = time.monotonic() + _START_S
        while True:
            try:
                return process, listener.accept()[0]
            except TimeoutError:
                if process.poll() is None and time.monotonic() < deadline:
                    continue
            process.kill()
            process.wait()
            raise SandboxError(
                f"the launcher {launcher} did not start a zygote: {_last_line(errors)}"
            )


def _command(interpreter: Interpreter, config: Mapping[str, Any]) -> list[str]:
    """Return the zygote's command line."""
    return [*interpreter.command, json.dumps(config), interpreter.program]


def _popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process in a new session.

    Raises:
        SandboxError: The program cannot be started.
    """
    # Child processes, also of launchers, inherit blocked signals. This thread gets its own later.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_SIGNALS)
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


def _last_line(errors: IO[bytes]) -> str:
    """Return the last non-empty line of a file."""
    errors.seek(0)
    lines = errors.read(10_000).decode("utf-8", "replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "no message")[:300]
