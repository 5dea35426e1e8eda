"""Isolation that is set up anew for every child.

A PID namespace, so that it sees nobody and nothing of it survives it; a scratch folder, bounded in
bytes and names; Landlock; no capability; the filter of system calls. Whatever can be prepared is
prepared in the zygote: each page that a child writes to is copied first, and that is most of what
a fork costs.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from . import landlock, seccomp, syscalls, zygote_isolation

_INODES = 512
_CAREFUL = syscalls.NOSUID | syscalls.NODEV | syscalls.NOEXEC


class ChildIsolation:
    """What a zygote does around every fork."""

    def __init__(
        self, config: dict[str, Any], own_namespace: int | None, read_only: Sequence[str]
    ) -> None:
        """Prepare everything; `own_namespace` comes from `zygote_isolation.enter_namespaces`."""
        self._namespaces = own_namespace is not None
        self._scratch_bytes: int = config["scratch_bytes"]
        self._seal: list[Callable[[], None]] = []
        if own_namespace is not None:
            self._renew = syscalls.pid_namespaces(own_namespace)
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
        """In the zygote."""
        if self._namespaces:
            self._renew()

    def seal(self) -> None:
        """In the child, while it still has the zygote's descriptors."""
        if self._namespaces:
            os.chdir(zygote_isolation.SCRATCH)
        else:  # there, the end of the zygote is the end of its namespace
            syscalls.die_with_parent()
        for restrict in self._seal:
            restrict()

    def after(self) -> None:
        """In the zygote, once the child is dead: nothing that it wrote is left."""
        if self._namespaces and self._scratch_use() != self._clean:
            syscalls.unmount(zygote_isolation.SCRATCH)
            self._mount_scratch()

    def _mount_scratch(self) -> None:
        options = f"size={self._scratch_bytes},nr_inodes={_INODES},mode=0700"
        syscalls.mount("tmpfs", zygote_isolation.SCRATCH, "tmpfs", _CAREFUL, options)

    def _scratch_use(self) -> tuple[int, int]:
        """Free blocks and names: what a child deletes by itself leaves no trace."""
        usage = os.statvfs(zygote_isolation.SCRATCH)
        return usage.f_bfree, usage.f_ffree
