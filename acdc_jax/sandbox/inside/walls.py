"""Walls that are built anew for every child.

A PID namespace, so that it sees nobody and nothing of it survives it; a scratch folder, bounded in
bytes and names; Landlock; no capability; the filter of system calls. Whatever can be prepared is
prepared in the zygote: each page that a child writes to is copied first, and that is most of what
a fork costs.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from . import isolate, kernel, landlock, seccomp

_INODES = 512
_CAREFUL = kernel.NOSUID | kernel.NODEV | kernel.NOEXEC


class Walls:
    """What a zygote does around every fork."""

    def __init__(
        self, config: dict[str, Any], own_namespace: int | None, read_only: Sequence[str]
    ) -> None:
        """Prepare everything; `own_namespace` is what `isolate.enter_namespaces` returned."""
        self._namespaces = own_namespace is not None
        self._scratch_bytes: int = config["scratch_bytes"]
        self._seal: list[Callable[[], None]] = []
        if own_namespace is not None:
            self._renew = kernel.pid_namespaces(own_namespace)
            self._mount_scratch()
            self._clean = self._scratch_use()
            os.environ["TMPDIR"] = tempfile.tempdir = isolate.SCRATCH
        if config["landlock"]:
            rules = [(path, landlock.READ) for path in read_only]
            rules += [(path, landlock.READ_WRITE) for path in isolate.DEVICES]
            if self._namespaces:
                rules.append((isolate.SCRATCH_PARENT, landlock.SCRATCH))
            self._seal.append(landlock.enforcer(landlock.ruleset(rules)))
        self._seal.append(kernel.capability_dropper())
        if config["seccomp"]:
            self._seal.append(seccomp.installer())  # last: it forbids what the others do
        kernel.no_new_privileges()
        kernel.set_dumpable(False)

    def before_fork(self) -> None:
        """In the zygote."""
        if self._namespaces:
            self._renew()

    def seal(self) -> None:
        """In the child, while it still has the zygote's descriptors."""
        if self._namespaces:
            os.chdir(isolate.SCRATCH)
        else:  # there, the end of the zygote is the end of its namespace
            kernel.die_with_parent()
        for restrict in self._seal:
            restrict()

    def after(self) -> None:
        """In the zygote, once the child is dead: nothing that it wrote is left."""
        if self._namespaces and self._scratch_use() != self._clean:
            kernel.unmount(isolate.SCRATCH)
            self._mount_scratch()

    def _mount_scratch(self) -> None:
        options = f"size={self._scratch_bytes},nr_inodes={_INODES},mode=0700"
        kernel.mount("tmpfs", isolate.SCRATCH, "tmpfs", _CAREFUL, options)

    def _scratch_use(self) -> tuple[int, int]:
        """Free blocks and names: what a child deletes by itself leaves no trace."""
        usage = os.statvfs(isolate.SCRATCH)
        return usage.f_bfree, usage.f_ffree
