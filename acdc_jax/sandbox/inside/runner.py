"""The child: reads its job, runs the task's code, sends frames, exits.

Everything here shares an interpreter with hostile code from the moment the source is executed.
Nothing in this file is a wall: it reports honestly for honest tasks, and the parent believes only
what any task may say about itself (its own score, between 0 and 1, or that it failed).
"""

import json
import math
import os
import random
import resource
import sys
import time
import types
from typing import Any, NoReturn

from . import wire

JOB = 3  # the descriptor of the job channel
NAME = "task"


def set_limits(config: dict[str, Any]) -> None:
    """Limits of one child, which its zygote could not live under."""
    resource.setrlimit(resource.RLIMIT_CPU, (config["cpu_s"], _most_cpu(config["cpu_s"])))
    if config["namespaces"]:  # elsewhere the limit counts every process of the user
        resource.setrlimit(resource.RLIMIT_NPROC, (config["processes"],) * 2)


def _most_cpu(cpu_s: int) -> int:
    """Seconds for all items of a child: a hard limit, which nobody can raise."""
    return (cpu_s + 1) * (wire.MAX_ITEMS + 1)


def run(config: dict[str, Any]) -> NoReturn:
    """Do the job on descriptor `JOB` and exit."""
    token, operation, length = wire.JOB.unpack(_read(wire.JOB.size))
    payload = _read(length)
    _send(token, wire.READY)
    source, items = json.loads(payload)
    del payload
    try:
        family = load(source)
    except BaseException as error:
        _send_error(token, 0, error)
        os._exit(0)
    _send(token, wire.LOADED)
    if operation == wire.SCORE:
        for index, (instance, submission) in enumerate(items):
            _fresh_budget(config["cpu_s"])
            _score(token, index, family, instance, submission)
    else:
        _inspect(token, family, config["output_bytes"])
    os._exit(0)


def load(source: str) -> Any:
    """Execute a task.py and return its class."""
    module = types.ModuleType(NAME)
    sys.modules[NAME] = module  # dataclasses look their own module up there
    random.seed(0)
    exec(compile(source, f"{NAME}.py", "exec", dont_inherit=True), module.__dict__)
    family = module.__dict__.get("TaskFamily")
    if family is None:
        raise NameError("task.py defines no class TaskFamily")
    return family


def _fresh_budget(cpu_s: int) -> None:
    """Let this item use `cpu_s` more seconds of CPU, whatever the ones before it used."""
    used = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + cpu_s, _most_cpu(cpu_s)))


def _score(token: bytes, index: int, family: Any, instance: Any, submission: str) -> None:
    # An item's score must not depend on which items were scored before it.
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    try:
        value = as_float(family.score(instance, submission))
    except BaseException as error:
        _send_error(token, index, error)
    else:
        _send(token, wire.VALUE, index, wire.DOUBLE.pack(value))


def as_float(score: object) -> float:
    """The score as a double; only plain ints and floats (and numpy's own) are numbers here."""
    if score is None:
        raise ValueError("score returned None, which asks for scoring by hand")
    kind = type(score)
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind in (numpy.float64, numpy.float32, numpy.int64, numpy.int32):
        score = score.item()  # type: ignore[attr-defined]
        kind = type(score)
    if kind is not float and kind is not int:
        raise ValueError(f"score returned a {kind.__name__:.60}, not a number")
    if not 0 <= score <= 1:  # type: ignore[operator]
        raise ValueError(f"score returned {score:.6g}, not a number in [0, 1]")
    return float(score)  # type: ignore[arg-type]


def _inspect(token: bytes, family: Any, most: int) -> None:
    try:
        tasks = family.get_tasks()
        if type(tasks) is not dict or not 1 <= len(tasks) <= wire.MAX_INSTANCES:
            raise ValueError(f"get_tasks must return a dict of 1 to {wire.MAX_INSTANCES} instances")
        wire.check_plain(tasks)
        tasks = json.loads(json.dumps(tasks, allow_nan=False))  # what score will be given
        instructions = {}
        for name, instance in tasks.items():
            text = family.get_instructions(instance)
            if type(text) is not str:
                raise ValueError(f"get_instructions returned a {type(text).__name__:.60}")
            instructions[name] = text
        body = json.dumps([tasks, instructions], allow_nan=False).encode()
        if len(body) > most:
            raise ValueError(f"instances and instructions exceed {most // 1024} KiB")
    except BaseException as error:
        _send_error(token, 0, error)
    else:
        _send(token, wire.REPORT, 0, body)


def _send_error(token: bytes, index: int, error: BaseException) -> None:
    tag = wire.MEMORY if isinstance(error, MemoryError) else wire.ERROR
    try:
        line, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == f"{NAME}.py":
                line = trace.tb_lineno
            trace = trace.tb_next
        if isinstance(error, SyntaxError):
            line = error.lineno
        where = "" if line is None else f" (task.py, line {line})"
        text = f"{type(error).__name__:.60}: {str(error)[:300]}{where}"
    except BaseException:
        text = "an exception that cannot be printed"
    _send(token, tag, index, text.encode("utf-8", "replace")[: wire.MAX_DETAIL])


def _send(token: bytes, tag: int, item: int = 0, body: bytes = b"") -> None:
    data = wire.pack_frame(token, tag, item, body)
    while data:
        data = data[os.write(JOB, data) :]


def _read(length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        more = os.read(JOB, length - len(data))
        if not more:
            os._exit(70)  # the parent gave up
        data += more
    return bytes(data)
