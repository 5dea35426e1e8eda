"""System calls that the standard library lacks, through ctypes.

The packages on PyPI that wrap seccomp and Landlock are unmaintained or need a compiler.
"""

import ctypes
import os
import platform
from collections.abc import Callable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

MACHINE = platform.machine()

# prctl
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# unshare
NEW_MOUNT, NEW_UTS, NEW_IPC, NEW_USER = 0x20000, 0x4000000, 0x8000000, 0x10000000
NEW_PID, NEW_NET = 0x20000000, 0x40000000
# mount
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def check(result: int, what: str) -> int:
    """Return `result`; raise OSError with the thread's errno if it is negative."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def syscall(what: str, number: int, *arguments: Any) -> int:
    """Make a raw system call, called `what` in errors. Plain ints are passed as longs."""
    return check(_libc.syscall(*_longs(number, *arguments)), what)


def prepared(what: str, number: int, *arguments: Any) -> Callable[[], None]:
    """Return a function that makes a raw system call, with its arguments already converted."""
    function, longs = _libc.syscall, _longs(number, *arguments)

    def call() -> None:
        check(function(*longs), what)

    return call


def _longs(*arguments: Any) -> list[Any]:
    """Convert ints to C longs."""
    return [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]


def _prctl(what: str, option: int, a: int = 0, b: int = 0) -> None:
    """Call prctl(2)."""
    zero = ctypes.c_ulong(0)
    check(_libc.prctl(option, ctypes.c_ulong(a), ctypes.c_ulong(b), zero, zero), what)


def die_with_parent() -> None:
    """Kill this process when its parent dies. A change of user id undoes this."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, 9)


def set_dumpable(dumpable: bool) -> None:
    """Set whether the same user's processes may inspect this one through /proc and ptrace."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, int(dumpable))


def no_new_privileges() -> None:
    """Give up new privileges, so that this process may install a filter or Landlock ruleset."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def capability_dropper() -> Callable[[], None]:
    """Return a function that drops all capabilities, also the ambient ones, forever."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    none = (ctypes.c_uint32 * 6)()

    def drop() -> None:
        _prctl("PR_CAP_AMBIENT", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        check(_libc.capset(header, none), "capset")

    return drop


def unshare(flags: int) -> None:
    """Enter new namespaces of the kinds in `flags`."""
    check(_libc.unshare(flags), "unshare")


def pid_namespaces(current: int) -> Callable[[], None]:
    """Return a function after which the next fork is the first process of a new PID namespace.

    Args:
        current: Descriptor of the caller's PID namespace, into which its forks must be reset first.
    """

    def renew() -> None:
        check(_libc.setns(current, NEW_PID), "setns")
        unshare(NEW_PID)

    return renew


def unmount(target: str) -> None:
    """Unmount a file system, even if it is in use."""
    check(_libc.umount2(target.encode(), _DETACH), f"umount of {target}")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount a file system; see mount(2)."""
    check(
        _libc.mount(
            None if source is None else source.encode(),
            target.encode(),
            None if kind is None else kind.encode(),
            ctypes.c_ulong(flags),
            data.encode(),
        ),
        f"mount {target}",
    )


def pivot_root_here() -> None:
    """Make the current folder the root, and unmount the old root."""
    syscall("pivot_root", _PIVOT_ROOT[MACHINE], b".", b".")
    check(_libc.umount2(b".", _DETACH), "umount of the old root")
    os.chdir("/")
