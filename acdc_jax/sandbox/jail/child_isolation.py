"""Isolation that is set up for every child.

It consists of a PID namespace, in which the child sees no other process and nothing outlives it; a
scratch folder with limited bytes and names; Landlock; dropped capabilities; and the system-call
filter. As much as possible is prepared in the zygote, because each page that a child writes to is
copied first, which is most of the cost of a fork.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from . import landlock, seccomp, syscalls, zygote_isolation

_INODES = 512
_CAREFUL = syscalls.NOSUID | syscalls.NODEV | syscalls.NOEXEC


class ChildIsolation:
    """The steps of a zygote and its child around every fork."""

    def __init__(
        self, config: dict[str, Any], pid_namespace: int | None, read_only: Sequence[str]
    ) -> None:
        """Prepare everything; `pid_namespace` comes from `zygote_isolation.enter_namespaces`."""
        self._namespaces = pid_namespace is not None
        self._scratch_bytes: int = config["scratch_bytes"]
        self._seal: list[Callable[[], None]] = []
        if pid_namespace is not None:
            self._renew = syscalls.pid_namespaces(pid_namespace)
            self._mount_scratch()
            self._clean = self._scratch_use()
            os.environ["TMPDIR"] = tempfile.tempdir = zygote_isolation.SCRATCH
        if config["landlock"]:
            rules = [(path, landlock.READ) for path in read_only]
            rules += [(path, landlock.READ_WRITE) for path in zygote_isolation.DEVICES]
            if self._namespaces:
                rules.append((zygote_isolation.SCRATCH_PARENT, landlock.SCRATCH))
            self._seal.append(landlock.enforcer(landlock.ruleset(rules)))
        self._seal.append(syscalls.capability_dropper())
        if config["seccomp"]:
            self._seal.append(seccomp.installer())  # last: it forbids what the others do
        syscalls.no_new_privileges()
        syscalls.set_dumpable(False)

    def before_fork(self) -> None:
        """Prepare a fork. Called in the zygote."""
        if self._namespaces:
            self._renew()

    def seal(self) -> None:
        """Isolate the child. Called in the child, which still has the zygote's descriptors."""
        if self._namespaces:
            os.chdir(zygote_isolation.SCRATCH)
        else:  # with namespaces, the zygote's end is the end of the child's namespace
            syscalls.die_with_parent()
        for restrict in self._seal:
            restrict()

    def after_child(self) -> None:
        """Remove the dead child's files. Called in the zygote."""
        if self._namespaces and self._scratch_use() != self._clean:
            syscalls.unmount(zygote_isolation.SCRATCH)
            self._mount_scratch()

    def _mount_scratch(self) -> None:
        """Mount an empty scratch folder."""
        options = f"size={self._scratch_bytes},nr_inodes={_INODES},mode=0700"
        syscalls.mount("tmpfs", zygote_isolation.SCRATCH, "tmpfs", _CAREFUL, options)

    def _scratch_use(self) -> tuple[int, int]:
        """Return the free blocks and names, which are unchanged if a child deleted its files."""
        usage = os.statvfs(zygote_isolation.SCRATCH)
        return usage.f_bfree, usage.f_ffree
