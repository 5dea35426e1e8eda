"""The interpreter and packages of zygotes, and the kind of zygote that a source needs."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_DATA = ("/usr/share/zoneinfo",)
_BUNDLED = (
    "numpy.libs",
    "scipy_openblas64",
)  # shared libraries that wheels install next to a package
_NEEDS = {"numpy": ("numpy",), "sympy": ("numpy", "sympy", "mpmath")}
# What each kind of zygote imports before its first fork.
PRELOADED = {"stdlib": (), "numpy": ("numpy",), "sympy": ("numpy", "sympy")}

_BOOT = "import sys; sys.path.insert(0, sys.argv[2]); from jail.zygote_main import main; main()"


@dataclass(frozen=True)
class Interpreter:
    """How to start a zygote.

    Attributes:
        command: The program and its options, up to the configuration.
        prefix: The folder in which the interpreter is installed.
        program: The folder that contains the package `jail`.
        packages: Kind of zygote → folders of the packages that it imports.
    """

    command: tuple[str, ...]
    prefix: str
    program: str
    packages: dict[str, tuple[str, ...]]

    def kind(self, source: str) -> str:
        """Return the lightest kind of zygote that has preloaded the packages a source mentions.

        This is a guess from the text, and a wrong guess costs only time: all kinds can import the
        same packages.
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
    """Return the interpreter that underlies this virtual environment, with numpy and sympy.

    The virtual environment's own interpreter would not do: its folder would have to be visible,
    with everything that is installed there.
    """
    executable = getattr(sys, "_base_executable", None) or sys.executable
    # -I would be -E -P -s. The sandbox writes the zygote's whole environment, so -E has no use. It
    # would also ignore PYTHONHASHSEED, and then the order of sets, and with it the scores of some
    # tasks, would differ from zygote to zygote.
    command = (executable, "-P", "-s", "-S", "-B", "-c", _BOOT)
    packages = {"stdlib": ()} | {
        kind: folders for kind, names in _NEEDS.items() if (folders := _folders(names))
    }
    return Interpreter(command, sys.base_prefix, str(_HERE), packages)


def _folders(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the folders of packages and their bundled libraries; () if a package is missing."""
    folders = []
    for name in names:
        spec = importlib.util.find_spec(name)  # of a top-level package: imports nothing
        if spec is None or spec.origin is None:
            return ()
        folder = Path(spec.origin).parent
        folders.append(str(folder))
        folders += [str(p) for b in _BUNDLED if (p := folder.parent / b).is_dir()]
    return tuple(dict.fromkeys(folders))


def zygote_environment() -> dict[str, str]:
    """Return a zygote's whole environment, which contains nothing of the caller's."""
    one_thread = ("OMP", "OPENBLAS", "MKL")  # a process with threads cannot change namespaces
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
    """Return folders outside the interpreter that its library reads."""
    return [path for path in _DATA if os.path.isdir(path)]  # noqa: PTH112 (plain strings on purpose)
