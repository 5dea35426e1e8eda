"""Isolation that is set up once per zygote: namespaces, a new root, limits.

Every child inherits it, so its cost does not matter. `child_isolation` is set up for every child.
"""

import os
import resource
import socket
from collections.abc import Sequence

from . import syscalls

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
# A Landlock rule cannot name the folder on which a file system is mounted, only folders above it.
# So the scratch folder has a parent that a rule can name.
SCRATCH_PARENT = "/scratch"
SCRATCH = f"{SCRATCH_PARENT}/task"
_NOBODY = 65534
# Each zygote has its own user id, far above all assigned ids. Zygotes cannot signal or inspect
# each other or processes of the host, even if other isolation fails.
_FIRST_USER_ID = 0x60000000

# statvfs flag of a mount → mount flag. A remount in a user namespace must repeat these flags.
_LOCKED = {8: syscalls.NOEXEC, 1024: 1024, 2048: 2048, 4096: 1 << 21}


def enter_namespaces(root: str, read_only: Sequence[str]) -> int:
    """Continue in a fork that has its own namespaces and sees only `read_only` and a few devices.

    A process cannot change its own PID namespace. The calling process therefore stays behind, waits
    for the fork, and is what the zygote's parent sees and kills.

    Args:
        root: Any existing folder. The new root is mounted on it, visible to this process only.
        read_only: Files and folders that stay visible.

    Returns:
        A descriptor of the new PID namespace.
    """
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    namespaces = (
        syscalls.NEW_MOUNT
        | syscalls.NEW_NET
        | syscalls.NEW_IPC
        | syscalls.NEW_UTS
        | syscalls.NEW_PID
    )
    if _may_mount():
        # The interpreter may be under /root, which other users cannot enter. So the new root is
        # built with root's rights, which are dropped afterwards.
        _new_root(root, read_only)
        _become_nobody()
        _own_user_namespace(proc, namespaces)
    else:
        _own_user_namespace(proc, namespaces)
        _new_root(root, read_only)
    child = os.fork()
    if child:
        # Keep no descriptor: a control channel held open here would hide the death of the parent or
        # of the zygote from the other.
        os.closerange(0, 64)
        os.waitpid(child, 0)
        os._exit(0)
    syscalls.die_with_parent()
    pid_namespace = os.open("self/ns/pid", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    os.close(proc)
    return pid_namespace


def _may_mount() -> bool:
    """Return whether this is root with its capabilities, which many containers remove."""
    if os.geteuid() != 0:
        return False
    try:
        syscalls.unshare(syscalls.NEW_MOUNT)
    except PermissionError:
        return False
    return True


def _become_nobody() -> None:
    """Change to an unused user id."""
    os.setgroups([])
    user = _FIRST_USER_ID + os.getpid()
    try:
        os.setresgid(user, user, user)
    except OSError:  # the container maps only 65,536 ids
        user = _NOBODY
        os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    syscalls.set_dumpable(True)  # otherwise /proc/self/uid_map belongs to root


def _own_user_namespace(proc: int, others: int) -> None:
    """Enter a new user namespace and `others`; map this user to nobody."""
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
        except OSError as error:  # name the step that is forbidden
            raise OSError(error.errno, f"user namespace, {name}: {error.strerror}") from error
        finally:
            os.close(descriptor)
    socket.sethostname("sandbox")  # hides the host's name


def _new_root(root: str, read_only: Sequence[str]) -> None:
    """Enter a small read-only tmpfs with read-only binds of `read_only`, at the same paths."""
    careful = syscalls.NOSUID | syscalls.NODEV
    syscalls.mount(
        None, "/", None, syscalls.REC | syscalls.PRIVATE
    )  # nothing leaks back to the host
    syscalls.mount("tmpfs", root, "tmpfs", careful, "size=1m,nr_inodes=4096,mode=0755")
    masks = []
    for path in read_only:
        if os.path.isdir(root + path):
            continue  # visible already, as part of another folder
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
        if os.path.isdir(packages):  # hide all other packages
            syscalls.mount("tmpfs", packages, "tmpfs", careful, "size=64k,nr_inodes=64,mode=0755")
            masks.append(packages)
    for path in DEVICES:
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
        syscalls.mount(path, target, None, syscalls.BIND)
    os.makedirs(root + SCRATCH)
    for packages in masks:  # all packages are mounted now
        syscalls.mount(
            None, packages, None, syscalls.REMOUNT | syscalls.BIND | syscalls.RDONLY | careful
        )
    os.chdir(root)
    syscalls.pivot_root_here()
    syscalls.mount(None, "/", None, syscalls.REMOUNT | syscalls.BIND | syscalls.RDONLY | careful)


def limit_resources(memory_bytes: int, file_bytes: int) -> None:
    """Set the limits that every child inherits."""
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
