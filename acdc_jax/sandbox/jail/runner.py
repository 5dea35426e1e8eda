"""The child: read a job, run untrusted code, send frames, exit.

From the moment that the source is executed, this code shares an interpreter with hostile code. It
isolates nothing. Its reports are correct for honest tasks, and the parent accepts only what any
task may claim about itself: a score between 0 and 1, or a failure.
"""

import json
import math
import os
import random
import resource
import sys
import time
import types
from collections.abc import Mapping
from typing import Any, NoReturn

from . import forbidden_code, task_helpers, wire
from .channel import Channel, read

TASK, SUBMISSION = "task", "submission"


def set_limits(config: dict[str, Any]) -> None:
    """Set the limits of a child that its zygote must not have."""
    if config["namespaces"]:  # without them, the limit counts every process of the user
        resource.setrlimit(resource.RLIMIT_NPROC, (config["processes"],) * 2)


def run(config: dict[str, Any]) -> NoReturn:
    """Run the job on descriptor `JOB` and exit."""
    token, operation, items, cpu_s, length = wire.JOB.unpack(read(wire.JOB.size))
    # The hard limit is for all items, because it cannot be raised. The soft limit is for each item
    # and sends SIGXCPU, which only the first process of a PID namespace ignores.
    max_cpu = (cpu_s + 1) * items
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, max_cpu))
    channel = Channel(token, config["output_bytes"])
    payload = read(length)
    channel.send(wire.READY)
    source, job = json.loads(payload)
    del payload
    name = SUBMISSION if operation == wire.RUN else TASK
    helpers = task_helpers.make_helpers(channel.ask) if operation == wire.SCORE else {}
    try:
        if operation == wire.INSPECT:
            forbidden_code.check(source)
        code = compile_source(source, name)
        module = execute(code, name, helpers)
        family: Any = None if operation == wire.RUN else _family(module)
    except BaseException as error:
        _send_error(channel, error, name)
        os._exit(0)
    channel.send(wire.LOADED)
    if operation == wire.SCORE:
        # Seeding takes as long as a simple score. `samples` is a method of statistics.NormalDist.
        draws = "random" in source or "samples" in source
        for channel.item, (instance, submission) in enumerate(job):
            _start_cpu_budget(cpu_s, max_cpu)
            try:
                if channel.item:  # what the scorer kept must affect no other item
                    family = None
                    module.clear()
                    module = execute(code, name, helpers, seed=draws)
                    family = _family(module)
                if draws:
                    _seed()
                value = as_float(family.score(instance, submission))
            except BaseException as error:
                _send_error(channel, error, TASK)
            else:
                channel.send(wire.VALUE, wire.DOUBLE.pack(value))
    elif operation == wire.INSPECT:
        _inspect(channel, family)
    else:
        _call(channel, module, *job)
    os._exit(0)


def compile_source(source: str, name: str) -> types.CodeType:
    """Compile a source; `name` is that of its module."""
    return compile(source, f"{name}.py", "exec", dont_inherit=True)


def execute(
    code: types.CodeType, name: str, helpers: Mapping[str, Any], *, seed: bool = True
) -> dict[str, Any]:
    """Execute a source, with the helpers among its globals, and return all globals."""
    module = types.ModuleType(name)
    module.__dict__.update(helpers)
    sys.modules[name] = module  # dataclasses look up their module there
    if seed:
        _seed()
    exec(code, module.__dict__)
    return module.__dict__


def _seed() -> None:
    """Seed the generators that a source may use, so that it computes the same in every call."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


def _family(module: Mapping[str, Any]) -> Any:
    """Return the class `TaskFamily`."""
    family = module.get("TaskFamily")
    if family is None:
        raise NameError("task.py defines no class TaskFamily")
    return family


def _start_cpu_budget(cpu_s: int, hard_limit: int) -> None:
    """Let the next item use `cpu_s` CPU seconds, whatever earlier items used."""
    soft_limit = min(math.ceil(time.process_time()) + cpu_s, hard_limit)
    resource.setrlimit(resource.RLIMIT_CPU, (soft_limit, hard_limit))


def as_float(score: object) -> float:
    """Return the score as a float. Only plain ints and floats, also of numpy, are numbers here."""
    if score is None:
        raise ValueError("score returned None, not a number")
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


def _inspect(channel: Channel, family: Any) -> None:
    """Send the family's instances and instructions, or the error."""
    try:
        tasks = family.get_tasks()
        if type(tasks) is not dict or not 1 <= len(tasks) <= wire.MAX_INSTANCES:
            raise ValueError(f"get_tasks must return a dict of 1 to {wire.MAX_INSTANCES} instances")
        wire.check_plain(tasks)
        tasks = json.loads(json.dumps(tasks, allow_nan=False))  # what `score` will get
        instructions = {}
        for name, instance in tasks.items():
            text = family.get_instructions(instance)
            if type(text) is not str:
                raise ValueError(f"get_instructions returned a {type(text).__name__:.60}")
            instructions[name] = text
        body = json.dumps([tasks, instructions], allow_nan=False).encode()
        if len(body) > channel.max_body:
            raise ValueError(f"instances and instructions exceed {channel.max_body // 1024} KiB")
    except BaseException as error:
        _send_error(channel, error, TASK)
    else:
        channel.send(wire.REPORT, body)


def _call(
    channel: Channel,
    module: Mapping[str, Any],
    name: str | None,
    args: list[Any],
    kwargs: dict[str, Any],
) -> None:
    """Call a function of the submission; send its result or the error."""
    try:
        value = None
        if name is not None:
            if name not in module:
                raise NameError(f"submission.py defines no function {name}")
            value = module[name](*args, **kwargs)
        wire.check_plain(value)
        body = json.dumps(value, allow_nan=False).encode()
        if len(body) > channel.max_body:
            raise ValueError(f"{name} returned more than {channel.max_body // 1024} KiB")
    except BaseException as error:
        _send_error(channel, error, SUBMISSION)
    else:
        channel.send(wire.RESULT, body)


def _send_error(channel: Channel, error: BaseException, name: str) -> None:
    """Send an error, with the line of the source where it was raised."""
    tag = wire.ERROR
    if isinstance(error, MemoryError):
        tag = wire.MEMORY
    elif isinstance(error, task_helpers.SubmissionError):
        tag = wire.SUBMISSION
    try:
        line, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == f"{name}.py":
                line = trace.tb_lineno
            trace = trace.tb_next
        if isinstance(error, SyntaxError):
            line = error.lineno
        where = "" if line is None else f" ({name}.py, line {line})"
        text = f"{type(error).__name__:.60}: {str(error)[:300]}{where}"
    except BaseException:
        text = "an exception that cannot be printed"
    channel.send(tag, text.encode("utf-8", "replace")[: wire.MAX_DETAIL])
