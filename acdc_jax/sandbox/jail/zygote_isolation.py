"""Isolation that is set up once per zygote: namespaces, a new root, limits.

Their cost does not matter, and every child inherits them. What is built anew for each child is in
`child_isolation`.
"""

import os
import resource
import socket
from collections.abc import Sequence

from . import syscalls

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
# Landlock does not see the folder that a file system is mounted on, only those above it: so the
# scratch folder has one above it that a rule can name.
SCRATCH_PARENT = "/scratch"
SCRATCH = f"{SCRATCH_PARENT}/task"
_NOBODY = 65534
# A user id per zygote, far above any that is handed out: no two zygotes, and no process of the
# host, may signal or inspect one another even where a wall fails.
_OWN_USERS = 0x60000000

# statvfs flags of a mount that a remount in a user namespace must repeat (they are "locked")
_LOCKED = {8: syscalls.NOEXEC, 1024: 1024, 2048: 2048, 4096: 1 << 21}


def enter_namespaces(root: str, read_only: Sequence[str]) -> int:
    """Go on in a fork that has its own namespaces and sees only `read_only` and a few devices.

    `root` is any existing folder; the new root is mounted on it, visible to this process only.
    The caller's process stays behind as an empty shell that waits for the fork, because a process
    cannot change its own PID namespace: it is what the parent of the zygote sees and kills.

    Returns:
        A descriptor of the new PID namespace.
    """
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    every = (
        syscalls.NEW_MOUNT
        | syscalls.NEW_NET
        | syscalls.NEW_IPC
        | syscalls.NEW_UTS
        | syscalls.NEW_PID
    )
    if _may_mount():
        # The interpreter may lie under /root, which no other user may enter: so root builds the
        # new root while it still is root, and only then becomes nobody in particular.
        _new_root(root, read_only)
        _become_nobody()
        _own_user_namespace(proc, every)
    else:
        _own_user_namespace(proc, every)
        _new_root(root, read_only)
    child = os.fork()
    if child:
        # The shell keeps no descriptor: a control channel held open here would hide the parent's
        # or the zygote's death from the other.
        os.closerange(0, 64)
        os.waitpid(child, 0)
        os._exit(0)
    syscalls.die_with_parent()
    own = os.open("self/ns/pid", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    os.close(proc)
    return own


def _may_mount() -> bool:
    """Whether this is root with its powers (many containers keep them from root)."""
    if os.geteuid() != 0:
        return False
    try:
        syscalls.unshare(syscalls.NEW_MOUNT)
    except PermissionError:
        return False
    return True


def _become_nobody() -> None:
    os.setgroups([])
    user = _OWN_USERS + os.getpid()
    try:
        os.setresgid(user, user, user)
    except OSError:  # a container that maps only 65,536 ids
        user = _NOBODY
        os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    syscalls.set_dumpable(True)  # or /proc/self/uid_map would belong to root


def _own_user_namespace(proc: int, others: int) -> None:
    user, group = os.getuid(), os.getgid()
    syscalls.unshare(syscalls.NEW_USER | others)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_NOBODY} {user} 1"),
        ("gid_map", f"{_NOBODY} {group} 1"),
    ):
        descriptor = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.write(descriptor, text.encode())
        except OSError as error:  # say which of the steps is forbidden here
            raise OSError(error.errno, f"user namespace, {name}: {error.strerror}") from error
        finally:
            os.close(descriptor)
    socket.sethostname("sandbox")  # and not what the host is called


def _new_root(root: str, read_only: Sequence[str]) -> None:
    """A small read-only tmpfs with read-only binds of `read_only`, at the same paths."""
    careful = syscalls.NOSUID | syscalls.NODEV
    syscalls.mount(
        None, "/", None, syscalls.REC | syscalls.PRIVATE
    )  # nothing leaks back to the host
    syscalls.mount("tmpfs", root, "tmpfs", careful, "size=1m,nr_inodes=4096,mode=0755")
    masks = []
    for path in read_only:
        if os.path.isdir(root + path):
            continue  # shown already, as part of a folder above it
        target = root + path
        os.makedirs(target, exist_ok=True)
        syscalls.mount(path, target, None, syscalls.BIND | syscalls.REC)
        flags = os.statvfs(target).f_flag
        locked = sum(mount for stat, mount in _LOCKED.items() if flags & stat)
        syscalls.mount(
            None,
            target,
            None,
            syscalls.REMOUNT | syscalls.BIND | syscalls.RDONLY | careful | locked,
        )
        packages = f"{target}/site-packages"
        if os.path.isdir(packages):  # what else is installed is none of the tasks' business
            syscalls.mount("tmpfs", packages, "tmpfs", careful, "size=64k,nr_inodes=64,mode=0755")
            masks.append(packages)
    for path in DEVICES:
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
        syscalls.mount(path, target, None, syscalls.BIND)
    os.makedirs(root + SCRATCH)
    for packages in masks:  # no longer written to, now that the packages have their places
        syscalls.mount(
            None, packages, None, syscalls.REMOUNT | syscalls.BIND | syscalls.RDONLY | careful
        )
    os.chdir(root)
    syscalls.pivot_root_here()
    syscalls.mount(None, "/", None, syscalls.REMOUNT | syscalls.BIND | syscalls.RDONLY | careful)


def limit_resources(memory_bytes: int, file_bytes: int) -> None:
    """Limits that every child shares: set once, inherited by fork."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(what, (most, most))
