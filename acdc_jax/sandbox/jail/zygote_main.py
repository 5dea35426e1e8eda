"""The zygote: a small interpreter that isolates itself once and then forks one child per call.

It is a separate program, not a fork of the process that runs JAX, whose threads and memory a fork
would inherit. It is trusted, and never reads a payload.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from . import runner, wire, zygote_isolation
from .channel import JOB
from .child_isolation import ChildIsolation

CONTROL = JOB + 1  # descriptor of the control channel; a child closes it

# Imported before the first fork, so that children need not. Some also need a shared library
# (libcrypto, liblzma, ...) that is not visible in the new root. `threading` is left out (and
# `queue`, which imports it), because its fork hook would slow every fork by a tenth.
_WARM = """
abc array ast bisect bz2 calendar cmath collections.abc contextlib copy csv ctypes dataclasses
datetime decimal difflib enum fractions functools hashlib heapq html inspect io itertools json
keyword lzma math numbers operator random re secrets statistics string struct tempfile
textwrap time traceback types typing unicodedata uuid warnings zlib zoneinfo
"""


_SAMPLE = """
import collections, itertools, math, random, re, string
class TaskFamily:
    @staticmethod
    def get_tasks() -> dict[str, dict]:
        rng = random.Random(1)
        return {"1": {"word": "".join(rng.choice(string.ascii_lowercase) for _ in range(5))}}
    @staticmethod
    def get_instructions(t: dict) -> str:
        return f"Reverse {t['word']!r}."
    @staticmethod
    def score(t: dict, submission: str) -> float | None:
        match = re.search(r"answer:\\s*(\\w+)", submission, re.IGNORECASE)
        try:
            answer = match.group(1) if match else submission.strip().lower().split()[-1]
        except (IndexError, ValueError):
            answer = ""
        return 1.0 if answer == t["word"][::-1] else 0.0
"""


def main() -> NoReturn:
    """Isolate this process by its configuration (JSON in argv), then serve forever."""
    config = json.loads(sys.argv[1])
    control = _tidy_descriptors(config["control"])
    try:
        isolation = _prepare(config)
    except Exception as error:
        control.send(json.dumps({"error": f"{error}"}).encode())
        os._exit(1)
    control.send(json.dumps({"error": None}).encode())
    _serve(control, config, isolation)


def _tidy_descriptors(control: int | str) -> socket.socket:
    """Keep only /dev/null and the control channel open.

    Args:
        control: An inherited descriptor of the channel, or the path of a socket to connect to.
    """
    if isinstance(control, str):
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connected.connect(control)
        control = connected.detach()
    os.dup2(control, CONTROL)
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(CONTROL):
        os.dup2(null, descriptor)
    os.closerange(CONTROL + 1, 1 << 16)
    return socket.socket(fileno=CONTROL)


def _prepare(config: dict[str, Any]) -> ChildIsolation:
    """Import everything, isolate this process, and prepare the isolation of children."""
    library = [path for path in sys.path if os.path.isdir(path)]
    library.remove(config["program"])  # tasks must not import this package
    sys.path[:] = [*library, *config["paths"]]
    for name in (*_WARM.split(), *config["preload"]):
        importlib.import_module(name)
    _warm_up()
    # Packages come last: they may be in a site-packages that the new root hides.
    read_only = [*library, *config["data"], *config["packages"]]
    with open("/proc/self/statm") as statm:
        own_bytes = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    pid_namespace = (
        zygote_isolation.enter_namespaces(config["root"], read_only)
        if config["namespaces"]
        else None
    )
    zygote_isolation.limit_resources(own_bytes + config["memory_bytes"], config["file_bytes"])
    os.chdir("/")
    isolation = ChildIsolation(config, pid_namespace, read_only)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.collect()
    gc.freeze()  # otherwise, every child's first collection copies the whole heap
    return isolation


def _warm_up() -> None:
    """Do everything once that is slow on first use: imports, caches, specialised bytecode."""
    for _ in range(20):
        code = runner.compile_source(_SAMPLE, runner.TASK)
        family = runner.execute(code, runner.TASK, {})["TaskFamily"]
        [[name, instance]] = json.loads(json.dumps(list(family.get_tasks().items())))
        family.get_instructions(instance)
        runner.as_float(family.score(instance, name))
    del sys.modules[runner.TASK]
    if "numpy" in sys.modules:
        import numpy as np

        np.random.seed(0)
        np.linalg.solve(np.eye(3), np.fft.fft(np.ones(3)).real)
    if "sympy" in sys.modules:
        import sympy  # type: ignore[import-untyped, unused-ignore]
        from sympy.parsing.sympy_parser import parse_expr  # type: ignore[import-untyped, unused-ignore]

        sympy.simplify(parse_expr("x**2 - x*x"))
        sympy.solve(parse_expr("x**2 - 4"))


def _serve(control: socket.socket, config: dict[str, Any], isolation: ChildIsolation) -> NoReturn:
    """Fork one child at a time, until the parent closes the channel."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 16, 1)
        if not message:
            os._exit(0)
        if message != wire.FORK or not descriptors:
            continue  # KILL or CLOCKS that arrived after its call had ended
        job = descriptors[0]
        try:
            isolation.before_fork()
            child = os.fork()
        except OSError as error:
            os.close(job)
            control.send(wire.STATUS.pack(error.errno or -1, 0, 0.0))
            continue
        if child == 0:
            _become_child(job, config, isolation)
        os.close(job)
        status, seconds = _await(child, control)
        isolation.after_child()
        control.send(wire.STATUS.pack(0, status, seconds))


def _await(child: int, control: socket.socket) -> tuple[int, float]:
    """Wait for the child; read its clock and kill it on request.

    Returns:
        Wait status and CPU seconds.
    """
    handle = os.pidfd_open(child)
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    poller.register(control, select.POLLIN)
    while not any(descriptor == handle for descriptor, _ in poller.poll()):
        message = control.recv(16)
        if message == wire.CLOCKS:
            control.send(wire.READING.pack(_cpu_seconds(child), time.monotonic()))
            continue
        os.kill(child, signal.SIGKILL)
        if not message:  # the parent has closed the channel
            os._exit(0)
    os.close(handle)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime


def _cpu_seconds(child: int) -> float:
    """Return the CPU seconds of a running child; 0 if this kernel does not tell."""
    try:
        return time.clock_gettime(~child << 3 | 2)  # as clock_getcpuclockid(3) computes it
    except OSError:
        return 0.0


def _become_child(job: int, config: dict[str, Any], isolation: ChildIsolation) -> NoReturn:
    """Isolate this fork and run its job."""
    try:
        os.dup2(job, JOB)
        runner.set_limits(config)
        isolation.seal()
        os.closerange(JOB + 1, 64)
        runner.run(config)
    finally:
        os._exit(70)  # reached only if isolation failed; no READY was sent
