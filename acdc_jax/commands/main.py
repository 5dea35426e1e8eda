"""The `acdc` command."""

import gc
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn, cast

from acdc_jax import __version__, streams
from acdc_jax.errors import AcdcError, ConfigError, Preempted
from acdc_jax.files import expand_user
from acdc_jax.options import OptionError
from acdc_jax.sandbox import SandboxError
from acdc_jax.streams import print_line

COMMANDS = {
    "run": "coevolve models and tasks, choose a task force, measure it, write a report",
    "compare": "repeat a run and its controls over several PRNG seeds, in one table",
    "report": "write one HTML page about a run, or comparing several",
    "tasks": "list a run's tasks, or show one with its lineage and answers",
    "lineage": "print a member's family tree",
    "evaluate": "choose task forces from a run; best-of-N answers; lm-evaluation-harness",
    "export": "write a member or a task force as Hugging Face folders with model cards",
    "experts": "fine-tune experts, the seeds of a run, from a base",
    "seeds": "check whether seeds merge; write a registered set, such as the quickstart's",
    "sandbox": "`acdc sandbox check` tests how well this machine isolates task code",
    "bench": "measure this machine, and compare it with its limits and other libraries",
}

_CLEANUP_S = 20  # after SIGTERM: batch systems and Kubernetes kill after 30

_USAGE = """acdc: coevolve an archive of merged language models with a pool of tasks (AC/DC)

  {commands}

`acdc COMMAND --help` explains a command and lists its flags. `--flagfile=FILE` reads flags from a
file, which may include other files the same way; the last value of a repeated flag counts. Begin
with a run of five minutes on a laptop, which writes runs/quickstart/report.html:

  acdc run --flagfile=configs/quickstart.flags
"""


class _Terminated(BaseException):
    """A signal ends this command; temporary files are removed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Name of the command and its arguments; by default those of this process.

    Returns:
        The exit status: 0, 1 if it failed, 2 if its flags or arguments are wrong.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        entries = "\n  ".join(f"acdc {command:<8} {text}" for command, text in COMMANDS.items())
        print(_USAGE.format(commands=entries), end="")
        return 0
    if name == "--version":
        print(__version__)
        return 0
    try:
        if name not in COMMANDS:
            raise ConfigError(f"unknown command {name!r}; choose one of {', '.join(COMMANDS)}")
        # OpenBLAS's waiting threads spin, which slows down XLA and the sandbox.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # By default XLA uses only three quarters of a GPU's memory.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
        # The advice is to install PyTorch, which this package does not need.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        # Imported here, so that `acdc --help` does not wait for jax.
        module = importlib.import_module(f"acdc_jax.commands.{name}")
        if argv is None:  # only as a command: another program keeps its own garbage collection
            gc.freeze()  # so that no collection visits the million objects of imported modules
        cast(Callable[[list[str]], None], module.command)(_expand_paths(arguments[1:]))
        _shut_down()
    except OptionError as error:  # of options that a command changed after parsing
        from acdc_jax import flags
        from acdc_jax.config import Config

        problem = str(flags.config_error(error, Config))
        print_line(problem)
        _shut_down(problem)
        return 2
    except (AcdcError, SandboxError) as error:
        lines = str(error).splitlines()
        for line in lines:
            print_line(line)
        _shut_down("; ".join(lines))
        return 2 if isinstance(error, ConfigError) else 1
    except Preempted as preempted:
        print_line(f"{preempted}; the same command resumes")
        _shut_down()
        return preempted.status
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = f"{where}{error.strerror or error}"
        print_line(f"{reason}; fix this and run the same command again")
        _shut_down(reason)
        return 1
    except KeyboardInterrupt:
        print_line("interrupted; the same command resumes from the last commit")
        _shut_down("it was interrupted")
        return 130
    except _Terminated as terminated:
        print_line(f"ended by {terminated}")
        _shut_down(f"it was ended by {terminated}")
        return terminated.status
    except Exception as error:
        if reason := _missing_devices():
            print_line(reason)
            _shut_down(reason)
            return 1
        _shut_down(f"{type(error).__name__}: {error}")
        raise
    return 0


def _missing_devices() -> str:
    """Return why JAX has no devices, if it has none: what it raises does not always say so."""
    if (jax := sys.modules.get("jax")) is None:
        return ""
    try:
        jax.devices()
    except Exception as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = " ".join(str(error).partition(" (set JAX_PLATFORMS")[0].split()) or "not installed"
        return (
            f"JAX_PLATFORMS={platforms}: JAX finds no such device ({reason}); unset the variable, "
            "or install JAX for that platform"
        )
    return ""


def _expand_paths(arguments: Sequence[str]) -> list[str]:
    """Return arguments in which `~/run` is a path, as for a shell."""
    expanded = list(arguments)
    for i, text in enumerate(arguments):
        if text.startswith("~"):
            try:
                expanded[i] = expand_user(text)
            except ValueError as error:
                raise ConfigError(f"{text}: {error}") from None
    return expanded


def _shut_down(problem: str = "") -> None:
    """Leave the run's other processes, if there are any, and tell them about a problem."""
    if (multihost := sys.modules.get("acdc_jax.multihost")) is not None:
        multihost.shutdown(problem)


def program() -> NoReturn:
    """Run `main` as this process, and exit at once with its status.

    The interpreter's own shutdown is not safe here: a library's thread that returns from C++
    meanwhile is unwound, which aborts the process, so that a successful run seems to have failed.
    """

    streams.make_lasting()
    streams.show_warnings()
    if sys.argv[1:2] != ["run"]:  # which has its own handlers (`runtime.preemption`)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores SIGHUP
                signal.signal(number, _terminate)
    try:
        status = main()
    except BaseException:
        traceback.print_exc()
        status = 1
    if problem := streams.finish():
        print_line(f"standard output is not complete ({problem})")
        if sys.argv[1:2] != ["run"]:  # whose results are files
            status = status or 1
    os._exit(status)


def _terminate(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the cleanup
    error = _Terminated(number)
    # The cleanup waits for threads, which may be inside XLA or a request for long.
    timer = threading.Timer(_CLEANUP_S, os._exit, [error.status])
    timer.daemon = True
    timer.start()
    raise error


if __name__ == "__main__":
    program()
