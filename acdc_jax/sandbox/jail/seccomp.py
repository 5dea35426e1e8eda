"""The system-call filter of a child: an allow-list compiled to classic BPF.

Every call that is not listed here fails with EPERM, also calls that future kernels add. `clone3`
and numbers newer than the table fail with ENOSYS instead: the C library then falls back to the
older call, whose flags a filter can read, unlike those behind clone3's pointer.
"""

import ctypes
import errno
import struct
from collections.abc import Callable

from . import syscalls

# name, x86-64, aarch64 ("-": the architecture has no such call)
_NUMBERS = """
read 0 63  write 1 64  readv 19 65  writev 20 66  pread64 17 67  pwrite64 18 68
preadv 295 69  pwritev 296 70  lseek 8 62  close 3 57  close_range 436 436
dup 32 23  dup2 33 -  dup3 292 24  pipe 22 -  pipe2 293 59
stat 4 -  lstat 6 -  fstat 5 80  newfstatat 262 79  statx 332 291
access 21 -  faccessat 269 48  faccessat2 439 439  readlink 89 -  readlinkat 267 78
getdents64 217 61  getcwd 79 17  chdir 80 49  statfs 137 43  fstatfs 138 44
mkdir 83 -  mkdirat 258 34  rmdir 84 -  unlink 87 -  unlinkat 263 35  rename 82 -
renameat 264 38  renameat2 316 276  ftruncate 77 46  fsync 74 82
fdatasync 75 83  flock 73 32  umask 95 166  fadvise64 221 223  sendfile 40 71
mmap 9 222  mprotect 10 226  munmap 11 215  mremap 25 216  brk 12 214  madvise 28 233
mincore 27 232  membarrier 324 283
rt_sigaction 13 134  rt_sigprocmask 14 135  rt_sigreturn 15 139  rt_sigpending 127 136
rt_sigtimedwait 128 137  rt_sigsuspend 130 133  sigaltstack 131 132  restart_syscall 219 128
pause 34 -  alarm 37 -  setitimer 38 103  getitimer 36 102
futex 202 98  futex_waitv 449 449  set_robust_list 273 99  get_robust_list 274 100
rseq 334 293  set_tid_address 218 96  sched_yield 24 124  sched_getaffinity 204 123
getcpu 309 168
clock_gettime 228 113  clock_getres 229 114  clock_nanosleep 230 115  nanosleep 35 101
gettimeofday 96 169  time 201 -  times 100 153  getrusage 98 165
getrandom 318 278  sysinfo 99 179  uname 63 160
getpid 39 172  gettid 186 178  getppid 110 173  getuid 102 174  geteuid 107 175
getgid 104 176  getegid 108 177  getresuid 118 148  getresgid 120 150  getgroups 115 158
getpgid 121 155  getpgrp 111 -  getsid 124 156  getpriority 140 141  getrlimit 97 163
poll 7 -  ppoll 271 73  select 23 -  pselect6 270 72  epoll_create1 291 20
epoll_ctl 233 21  epoll_wait 232 -  epoll_pwait 281 22  eventfd2 290 19
recvfrom 45 207  exit 60 93  exit_group 231 94
"""
# Allowed only with some arguments, or refused in a special way.
_CHECKED = """
clone 56 220  clone3 435 435  prlimit64 302 261  fcntl 72 25  ioctl 16 29
socketpair 53 199  sendto 44 206  open 2 -  openat 257 56
"""
_NEWEST = 452  # the first number that did not exist when the table was written
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = tuple(_AUDIT_ARCH)

# struct seccomp_data: number at 0, architecture at 4, arguments as 64-bit words from 16
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN, _JUMP = 0x20, 0x15, 0x35, 0x54, 0x06, 0x05
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_UNKNOWN = 0x00050000 | errno.ENOSYS

_THREAD = 0x00010000 | 0x00000100 | 0x00000800  # CLONE_THREAD, CLONE_VM, CLONE_SIGHAND
_NAMESPACES = 0x7E020000  # every CLONE_NEW* that clone knows
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # DUPFD .. SETFL, record locks, DUPFD_CLOEXEC
_IOCTL = (0x5401, 0x5421, 0x5451, 0x541B)  # TCGETS, FIONBIO, FIOCLEX, FIONREAD
_AF_UNIX = 1


def numbers(machine: str, table: str = _NUMBERS) -> dict[str, int]:
    """Return the system-call numbers of `table` on `machine` ("x86_64" or "aarch64")."""
    words = table.split()
    column = {"x86_64": 1, "aarch64": 2}[machine]
    rows = (words[i : i + 3] for i in range(0, len(words), 3))
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one `struct sock_filter`."""
    return struct.pack("<HBBI", code, if_true, if_false, k)


def _low(argument: int) -> bytes:
    """Load the low word of an argument."""
    return _op(_LOAD, 16 + 8 * argument)


def _high(argument: int) -> bytes:
    """Load the high word of an argument."""
    return _op(_LOAD, 20 + 8 * argument)


def _any_of(argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow if the low word of the argument is one of `values`; the kernel reads 32 bits."""
    tests = [_op(_EQUAL, v, len(values) - i, 0) for i, v in enumerate(values)]
    return [_low(argument), *tests, _op(_RETURN, _DENY), _op(_RETURN, _ALLOW)]


def _no_truncation(argument: int) -> list[bytes]:
    """Allow the flags of an open unless they truncate a file that is opened for reading.

    Landlock before Linux 6.2 treats such an open as reading.
    """
    read_only_truncate = 0o1000  # O_RDONLY | O_TRUNC, out of O_ACCMODE | O_TRUNC
    return [
        _low(argument),
        _op(_AND, 0o1003),
        _op(_EQUAL, read_only_truncate, 0, 1),
        _op(_RETURN, _DENY),
        _op(_RETURN, _ALLOW),
    ]


def _zero(argument: int) -> list[bytes]:
    """Continue if all 64 bits of the argument are 0; deny otherwise."""
    deny = _op(_RETURN, _DENY)
    return [_low(argument), _op(_EQUAL, 0, 1), deny, _high(argument), _op(_EQUAL, 0, 1), deny]


def build(machine: str = syscalls.MACHINE) -> bytes:
    """Return the filter as an array of `struct sock_filter`."""
    allow = _op(_RETURN, _ALLOW)
    deny = _op(_RETURN, _DENY)
    rules = {
        # Allow threads, which numpy and concurrent.futures need, but no process or namespace.
        "clone": [
            _low(0),
            _op(_AND, _THREAD | _NAMESPACES),
            _op(_EQUAL, _THREAD, 0, 1),
            allow,
            deny,
        ],
        "clone3": [_op(_RETURN, _UNKNOWN)],
        # Only of this process: allow reading any limit, and setting RLIMIT_CPU (0), because the
        # runner gives every item a new budget. The hard limit cannot be raised.
        "prlimit64": [*_zero(0), _low(1), _op(_EQUAL, 0, 0, 1), allow, *_zero(2), allow],
        "fcntl": _any_of(1, _FCNTL),
        "ioctl": _any_of(1, _IOCTL),
        "socketpair": _any_of(0, (_AF_UNIX,)),  # asyncio wakes itself up through one
        "open": _no_truncation(1),
        "openat": _no_truncation(2),
        "sendto": [*_zero(4), allow],  # send() on such a pair, never to an address
    }
    program = [
        _op(_LOAD, 4),
        _op(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, 0),
        _op(_AT_LEAST, 0x40000000, 0, 1),  # the x32 versions of the x86-64 calls
        _op(_RETURN, _KILL),
    ]
    for name, number in numbers(machine, _CHECKED).items():
        program += [_op(_EQUAL, number, 0, len(rules[name])), *rules[name]]
    allowed = list(numbers(machine).values())
    for start in range(0, len(allowed), 100):  # jumps are 8 bits wide
        chunk = allowed[start : start + 100]
        program += [_op(_EQUAL, n, len(chunk) - i, 0) for i, n in enumerate(chunk)]
        program += [_op(_JUMP, 1), allow]
    program += [_op(_AT_LEAST, _NEWEST, 0, 1), _op(_RETURN, _UNKNOWN), deny]
    return b"".join(program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def installer() -> Callable[[], None]:
    """Return a function that filters the calling process, and what it starts, forever.

    Everything is prepared here, in the zygote, because each page that a child writes to is copied
    first, which is most of the cost of a fork.
    """
    program = build()
    argument = _Program(len(program) // 8, program)
    # SECCOMP_SET_MODE_FILTER, on every thread
    return syscalls.prepared("seccomp", _SECCOMP[syscalls.MACHINE], 1, 1, ctypes.byref(argument))
