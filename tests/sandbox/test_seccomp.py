"""The filter is interpreted instruction by instruction, for both architectures."""

import re
import struct
from pathlib import Path

import pytest

from acdc_jax.sandbox.jail import seccomp

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
FORBIDDEN = """
fork vfork execve execveat socket connect bind listen accept accept4 sendmsg sendmmsg recvmsg
kill tkill tgkill ptrace process_vm_readv process_vm_writev pidfd_open pidfd_getfd
pidfd_send_signal mount umount2 pivot_root chroot unshare setns bpf perf_event_open keyctl add_key
request_key io_uring_setup io_uring_enter memfd_create userfaultfd prctl seccomp setrlimit shmget
semget msgget mq_open symlink symlinkat link linkat mknod mknodat chmod fchmod fchmodat chown
setuid setresuid capset init_module kexec_load open_by_handle_at name_to_handle_at
sched_setaffinity setpriority truncate openat2
"""
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def judge(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """Interpret classic BPF as the kernel does."""
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch or ARCH[machine], 0, *words)
    program = list(struct.iter_unpack("<HBBI", seccomp.build(machine)))
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x05:
            at += k
        elif code == 0x06:
            return k
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k}[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", ARCH)
def test_exactly_the_table_is_allowed(machine: str) -> None:
    allowed = set(seccomp.numbers(machine).values())
    checked = set(seccomp.numbers(machine, seccomp._CHECKED).values())
    # With every argument a namespace flag, a signal, another process, or a truncating read, no
    # checked call is allowed.
    strange = [0x10000210] * 6
    for number in range(1024):
        expected = ALLOW if number in allowed else ENOSYS if number >= 452 else EPERM
        found = judge(machine, number, *strange)
        if number in checked:
            assert found in (EPERM, ENOSYS), number
        else:
            assert found == expected, number


@pytest.mark.parametrize("machine", ARCH)
def test_arguments(machine: str) -> None:
    number = seccomp.numbers(machine, seccomp._CHECKED)
    thread = 0x3D0F00  # flags of pthread_create
    assert judge(machine, number["clone"], thread) == ALLOW
    assert judge(machine, number["clone"], 0x1200011) == EPERM  # fork
    assert judge(machine, number["clone"], 0x4111) == EPERM  # vfork
    assert judge(machine, number["clone"], thread | 0x10000000) == EPERM
    assert judge(machine, number["clone3"]) == ENOSYS
    assert judge(machine, number["prlimit64"], 0, 0, 1) == ALLOW  # the process's own CPU limit
    assert judge(machine, number["prlimit64"], 0, 7, 0) == ALLOW  # read
    assert judge(machine, number["prlimit64"], 0, 7, 1 << 32) == EPERM  # set
    assert judge(machine, number["prlimit64"], 1, 0, 0) == EPERM  # of another process
    assert judge(machine, number["prlimit64"], 1 << 32, 0, 0) == EPERM
    assert judge(machine, number["socketpair"], 1) == ALLOW
    assert judge(machine, number["socketpair"], 2) == EPERM
    assert judge(machine, number["sendto"], 3, 0, 0, 0, 0) == ALLOW
    assert judge(machine, number["sendto"], 3, 0, 0, 0, 1) == EPERM
    assert judge(machine, number["sendto"], 3, 0, 0, 0, 1 << 40) == EPERM
    assert judge(machine, number["fcntl"], 3, 1030) == ALLOW
    assert judge(machine, number["fcntl"], 3, 8) == EPERM  # F_SETOWN: signals to others
    assert judge(machine, number["fcntl"], 3, 1031) == EPERM  # F_SETPIPE_SZ
    assert judge(machine, number["openat"], 3, 0, 0o0) == ALLOW
    assert judge(machine, number["openat"], 3, 0, 0o1001) == ALLOW  # O_WRONLY | O_TRUNC
    assert judge(machine, number["openat"], 3, 0, 0o2001000) == EPERM  # O_RDONLY | O_TRUNC
    assert judge(machine, number["ioctl"], 3, 0x5401) == ALLOW
    assert judge(machine, number["ioctl"], 3, 0x5412) == EPERM  # TIOCSTI


def test_other_architectures_are_killed() -> None:
    assert judge("x86_64", 0, arch=0x40000003) == KILL  # i386
    assert judge("x86_64", 0x40000000) == KILL  # x32
    assert judge("aarch64", 63, arch=0x40000028) == KILL  # 32-bit ARM


@pytest.mark.parametrize("machine", ARCH)
def test_names_that_must_never_be_allowed(machine: str) -> None:
    names = set(seccomp.numbers(machine))
    assert not names & set(FORBIDDEN.split())


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_numbers_match_the_kernels_headers(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip("no kernel headers here")
    pattern = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)")
    kernels = {
        m[1]: int(m[2]) for m in map(pattern.match, Path(header).read_text().splitlines()) if m
    }
    kernels.setdefault("newfstatat", kernels.get("fstatat", -1))
    ours = seccomp.numbers(machine) | seccomp.numbers(machine, seccomp._CHECKED)
    assert {n: kernels.get(n) for n in ours} == ours
