"""The `acdc` command."""

import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, cast

from acdc_jax import __version__
from acdc_jax.errors import AcdcError, ConfigError, Preempted
from acdc_jax.sandbox import SandboxError

COMMANDS = {
    "run": "coevolve models and tasks, choose the task force, report",
    "seeds": "train the tiny seed models of the quickstart",
    "compare": "repeat a run over several PRNG seeds, with every control, into one table",
    "export": "write a member, or a whole task force, as Hugging Face folders with model cards",
    "evaluate": "complete the global skill matrix, choose task forces, and best-of-N answers",
    "report": "one HTML page about a run, or comparing several",
    "lineage": "print a member's family tree",
    "tasks": "browse a run's tasks, or show one with its lineage and answers",
    "sandbox": "`sandbox check` shows how well this machine isolates task code",
    "bench": "measure this machine, beside its limits and beside peers",
}

_USAGE = """acdc: coevolve an archive of merged language models with a pool of tasks (AC/DC)

  {commands}

`acdc COMMAND --help` lists a command's flags; `--flagfile=FILE` reads them from a file, and files
may include others the same way. A first run, with nothing but a CPU:

  acdc run --flagfile=configs/quickstart.flags
"""


class _Terminated(BaseException):
    """SIGTERM came: whoever has temporary files takes them away."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status: 0, 1 (it failed), or 2 (the flags are wrong)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        listed = "\n  ".join(f"acdc {command:<8} {text}" for command, text in COMMANDS.items())
        print(_USAGE.format(commands=listed), end="")
        return 0
    if name == "--version":
        print(__version__)
        return 0
    try:
        if name not in COMMANDS:
            raise ConfigError(f"unknown command {name!r}; choose one of {', '.join(COMMANDS)}")
        # OpenBLAS's threads spin while they wait, and slow down XLA's and the sandbox's.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # Left to itself, XLA would leave a quarter of a GPU's memory alone.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
        # Says that PyTorch is missing, which this package does not need.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        # Imported here, so that `acdc --help` does not wait for jax.
        module = importlib.import_module(f"acdc_jax.commands.{name}")
        if argv is None:  # as a command, not in a program of somebody else
            gc.freeze()  # a million objects of jax and transformers, which no collection visits
        cast(Callable[[list[str]], None], module.command)(arguments[1:])
        _shut_down()
    except (AcdcError, SandboxError) as error:
        print(f"acdc: {error}", file=sys.stderr)
        _shut_down(str(error))
        return 2 if isinstance(error, ConfigError) else 1
    except Preempted as preempted:
        print(f"acdc: ended by SIGTERM: {preempted}; the same command resumes", file=sys.stderr)
        _shut_down()
        return preempted.status
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = f"{where}{error.strerror or error}"
        print(f"acdc: {reason}; put that right and run it again", file=sys.stderr)
        _shut_down(reason)
        return 1
    except KeyboardInterrupt:
        print("acdc: interrupted; the same command resumes from the last commit", file=sys.stderr)
        _shut_down("it was interrupted")
        return 130
    except _Terminated:
        print("acdc: ended by SIGTERM", file=sys.stderr)
        _shut_down("it was ended by SIGTERM")
        return 128 + signal.SIGTERM
    except Exception as error:
        _shut_down(f"{type(error).__name__}: {error}")
        raise
    return 0


def _shut_down(problem: str = "") -> None:
    """Leave the run's other processes, if there are any."""
    if (multihost := sys.modules.get("acdc_jax.multihost")) is not None:
        multihost.shutdown(problem)


def program() -> NoReturn:
    """The command's process: `main`, and then an end at once.

    The interpreter's own end is not safe: a library's thread that comes back from C++ meanwhile is
    unwound through it. That aborts the process, and a run that ended well seems to have failed.
    """

    def terminate(number: int, frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once more would disturb the clearing up
        raise _Terminated

    if sys.argv[1:2] != ["run"]:  # which listens by itself (`preemption`)
        signal.signal(signal.SIGTERM, terminate)
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    program()
