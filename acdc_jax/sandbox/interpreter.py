"""Which interpreter and packages a zygote gets, and which zygote a source needs."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_DATA = ("/usr/share/zoneinfo",)
_BUNDLED = ("numpy.libs", "scipy_openblas64")  # shared libraries that wheels put beside a package
_NEEDS = {"numpy": ("numpy",), "sympy": ("numpy", "sympy", "mpmath")}
# What each kind of zygote imports before its first fork.
PRELOADED = {"stdlib": (), "numpy": ("numpy",), "sympy": ("numpy", "sympy")}

_BOOT = "import sys; sys.path.insert(0, sys.argv[2]); from jail.zygote_main import main; main()"


@dataclass(frozen=True)
class Interpreter:
    """How to start a zygote.

    Attributes:
        command: the program and its options, up to the configuration.
        prefix: the folder that the interpreter was installed in.
        program: the folder that holds the package `jail`.
        packages: for each kind of zygote, the folders of the packages that it imports.
    """

    command: tuple[str, ...]
    prefix: str
    program: str
    packages: dict[str, tuple[str, ...]]

    def kind(self, source: str) -> str:
        """The lightest kind of zygote that has what the source mentions already imported.

        A guess from the text, which costs nothing and cannot be wrong in a way that matters:
        every kind shows the same packages, so a source that hides an import is only slower.
        """
        for kind in ("sympy", "numpy"):
            if kind in source and kind in self.packages:
                return kind
        return "stdlib"

    @property
    def visible(self) -> tuple[str, ...]:
        """Folders of all packages that a task may import."""
        return tuple(dict.fromkeys(p for folders in self.packages.values() for p in folders))


def find_interpreter() -> Interpreter:
    """The interpreter behind this one's virtual environment, and where numpy and sympy are.

    A virtual environment's own python would need its folder to be visible, with everything that
    is installed there.
    """
    executable = getattr(sys, "_base_executable", None) or sys.executable
    # -I would be -E -P -s. The environment is written by us alone, so -E buys nothing, and it
    # would ignore PYTHONHASHSEED: sets, and the scores of tasks that iterate over one, would then
    # differ from zygote to zygote and from run to run.
    command = (executable, "-P", "-s", "-S", "-B", "-c", _BOOT)
    packages = {"stdlib": ()} | {
        kind: folders for kind, names in _NEEDS.items() if (folders := _folders(names))
    }
    return Interpreter(command, sys.base_prefix, str(_HERE), packages)


def _folders(names: tuple[str, ...]) -> tuple[str, ...]:
    """Folders of the packages and their bundled libraries; empty when one is not installed."""
    found = []
    for name in names:
        spec = importlib.util.find_spec(name)  # of a top-level package: imports nothing
        if spec is None or spec.origin is None:
            return ()
        folder = Path(spec.origin).parent
        found.append(str(folder))
        found += [str(p) for b in _BUNDLED if (p := folder.parent / b).is_dir()]
    return tuple(dict.fromkeys(found))


def zygote_environment() -> dict[str, str]:
    """All of a zygote's environment: nothing of the caller's."""
    one_thread = ("OMP", "OPENBLAS", "MKL")  # and a process with threads cannot change namespaces
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "LD_BIND_NOW": "1",  # resolve symbols before the fork, not in every child
        **{f"{library}_NUM_THREADS": "1" for library in one_thread},
    }


def data_folders() -> list[str]:
    """Files outside the interpreter that its library reads."""
    return [path for path in _DATA if os.path.isdir(path)]  # noqa: PTH112 (plain strings on purpose)
