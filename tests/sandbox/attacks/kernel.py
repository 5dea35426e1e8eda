"""System calls that a task has no business with, made directly.

Each is (x86-64 number, aarch64 number, arguments). It has succeeded when the kernel looked at its
arguments: anything but EPERM, ENOSYS and EACCES. The arguments are mostly nonsense, so that a call
that gets through does nothing.
"""

CALLS = {
    "io_uring_setup": (425, 425, (0, 0)),
    "io_uring_enter": (426, 426, (-1, 0, 0, 0, 0)),
    "bpf": (321, 280, (99, 0, 0)),
    "perf_event_open": (298, 241, (0, 0, -1, -1, 0)),
    "keyctl": (250, 219, (0, -3, 0)),
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "request_key": (249, 218, (0, 0, 0, 0)),
    "userfaultfd": (323, 282, (-1,)),
    "ptrace the parent": (101, 117, (16, 999999, 0, 0)),
    "process_vm_readv": (310, 270, (999999, 0, 0, 0, 0, 0)),
    "process_vm_writev": (311, 271, (999999, 0, 0, 0, 0, 0)),
    "pidfd_getfd": (438, 438, (-1, 0, 0)),
    "unshare": (272, 97, (1,)),
    "setns": (308, 268, (-1, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "umount2": (166, 39, (0, 0)),
    "pivot_root": (155, 41, (0, 0)),
    "chroot": (161, 51, (0,)),
    "open_tree": (428, 428, (-1, 0, 0)),
    "fsopen": (430, 430, (0, 0)),
    "mq_open": (240, 180, (0, 0, 0, 0)),
    "semget": (64, 190, (0x5ACDC, 1, 0)),
    "msgget": (68, 186, (0x5ACDC, 0)),
    "shmat": (30, 196, (-1, 0, 0)),
    "inotify_init1": (294, 26, (0,)),
    "fanotify_init": (300, 262, (-1, 0)),
    "setresuid": (117, 147, (-1, -1, -1)),
    "setgroups": (116, 159, (1 << 30, 0)),
    "capset": (126, 91, (0, 0)),
    "personality": (135, 92, (0xFFFFFFFF,)),
    "seccomp": (317, 277, (2, 0, 0)),
    "landlock_create_ruleset": (444, 444, (0, 0, 1)),
    "sethostname": (170, 161, (0, -1)),
    "clock_settime": (227, 112, (-1, 0)),
    "syslog": (103, 116, (99, 0, 0)),
    "memfd_secret": (447, 447, (-1,)),
    "vmsplice": (278, 75, (-1, 0, 0, 0)),
    "tee": (276, 77, (-1, -1, 0, 0)),
    "move_pages": (279, 239, (999999, 0, 0, 0, 0, 0)),
    "mlock": (149, 228, (1, 1 << 40)),
    "ioprio_set": (251, 30, (9, 0, 0)),
    "kcmp": (312, 272, (999999, 999999, 9, 0, 0)),
    "prctl": (157, 167, (16, 1, 0, 0, 0)),
    "execveat": (322, 281, (-1, 0, 0, 0, 0)),
    "clone into a namespace": (56, 220, (0x10000000 | 0x800, 0, 0, 0, 0)),
    "type into the terminal": (16, 29, (0, 0x5412, 0)),
    "name_to_handle_at": (303, 264, (-1, 0, 0, 0, 0)),
    "sendmsg": (46, 211, (-1, 0, 0)),
}
# Whatever the caller is: the kernel was built without them, or a hardened one refuses them.
MAY_FAIL = {
    *("io_uring_setup", "io_uring_enter", "userfaultfd", "perf_event_open", "memfd_secret"),
    *(
        "keyctl",
        "add_key",
        "request_key",
        "kcmp",
        "bpf",
        "landlock_create_ruleset",
        "fanotify_init",
    ),
    *("mq_open", "process_vm_readv", "process_vm_writev", "syslog", "semget", "msgget", "shmat"),
}

BODY = """
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
number, arguments = t
ctypes.set_errno(0)
result = libc.syscall(*[ctypes.c_long(a) for a in (number, *arguments)])
return result >= 0 or ctypes.get_errno() not in (1, 13, 38)"""
