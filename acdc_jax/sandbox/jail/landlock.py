"""Landlock: limits which files a process can use, whatever its user id and mounts.

The file system is protected by Landlock and, independently, by the mount namespace. Where a
container refuses namespaces, there is only Landlock. It needs Linux 5.13. Every right that the
running kernel supports is denied, except those on the listed paths.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Callable, Iterable

from . import syscalls

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _TRUNCATE = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 14
_REFER = 1 << 13  # move from folder to folder
_FILE_RIGHTS = 1 | _WRITE_FILE | _READ_FILE | _TRUNCATE | 1 << 15

READ = _READ_FILE | _READ_DIR
READ_WRITE = _READ_FILE | _WRITE_FILE | _TRUNCATE
SCRATCH = READ_WRITE | _READ_DIR | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER

_RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15}  # later versions have 16


def abi() -> int:
    """Return the kernel's version of Landlock.

    Raises:
        OSError: The kernel has no Landlock.
    """
    return syscalls.syscall("Landlock", _CREATE, None, ctypes.c_size_t(0), 1)


def ruleset(rules: Iterable[tuple[str, int]]) -> int:
    """Return a descriptor of the ruleset that grants each path and its contents their rights."""
    version = abi()
    mask = (1 << _RIGHTS_OF_ABI.get(version, 16)) - 1
    network = 3 if version >= 4 else 0  # bind and connect over TCP
    scope = 3 if version >= 6 else 0  # abstract unix sockets, and signals to other processes
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = struct.pack("<QQQ", mask, network, scope)
    descriptor = syscalls.syscall("Landlock", _CREATE, attributes, ctypes.c_size_t(size), 0)
    for path, rights in rules:
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if not stat.S_ISDIR(os.fstat(parent).st_mode):
                rights &= _FILE_RIGHTS
            rule = struct.pack("=Qi", rights & mask, parent)
            syscalls.syscall(f"Landlock rule for {path}", _ADD_RULE, descriptor, 1, rule, 0)
        finally:
            os.close(parent)
    return descriptor


def enforcer(descriptor: int) -> Callable[[], None]:
    """Return a function that restricts the calling process, and what it starts, forever."""
    return syscalls.prepared("landlock_restrict_self", _RESTRICT_SELF, descriptor, 0)
