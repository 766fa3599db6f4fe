"""A seccomp filter for our own programs where no service manager sets one: the list of their systemd units.

Denied calls answer EPERM, as `SystemCallErrorNumber=EPERM` does. A filter is inherited by everything a process starts:
the executor, whose children are containers, never has one.
"""

from __future__ import annotations

import ctypes
import os
import struct

GROUPS = (
    "@clock",
    "@cpu-emulation",
    "@debug",
    "@keyring",
    "@module",
    "@mount",
    "@obsolete",
    "@privileged",
    "@raw-io",
    "@reboot",
    "@resources",
    "@swap",
)
# systemd 252's groups by name: number on x86_64, on aarch64 (-1: that machine has none)
DENIED = {
    "_sysctl": (156, -1),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "afs_syscall": (183, -1),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chown": (92, -1),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_adjtime64": (-1, 405),
    "clock_settime": (227, 112),
    "clock_settime64": (-1, 404),
    "create_module": (174, -1),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "get_kernel_syms": (177, -1),
    "getpmsg": (181, -1),
    "init_module": (175, 105),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "ioprio_set": (251, 30),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lchown": (94, -1),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, -1),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "ptrace": (101, 117),
    "putpmsg": (182, -1),
    "query_module": (178, -1),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "security": (185, -1),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162),
    "setfsuid": (122, 151),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setpriority": (141, 140),
    "setresuid": (117, 147),
    "setreuid": (113, 145),
    "setrlimit": (160, 164),
    "settimeofday": (164, 170),
    "setuid": (105, 146),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sysfs": (139, -1),
    "tuxcall": (184, -1),
    "umount2": (166, 39),
    "uselib": (134, -1),
    "ustat": (136, -1),
    "vhangup": (153, 58),
    "vserver": (236, -1),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CALLS = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "pkey_mprotect": (329, 288),
    "setns": (308, 268),
    "socket": (41, 198),
    "unshare": (272, 97),
}
FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_NAMESPACES = 0x7E020080  # every CLONE_NEW*
_EXEC, _WRITE = 4, 2
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def build_filter(machine: str) -> bytes:
    """Return the filter as BPF for `x86_64` or `aarch64`. Raises KeyError for another machine."""
    column, arch = _MACHINES[machine]
    code = [_op(_LOAD, _ARCH_AT), _op(_EQUAL, arch, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NUMBER_AT)]
    if machine == "x86_64":
        code += [_op(_AT_LEAST, _X32, 0, 1), _op(_RETURN, _ERRNO | _EPERM)]
    for numbers in DENIED.values():
        if numbers[column] >= 0:
            code += [_op(_EQUAL, numbers[column], 0, 1), _op(_RETURN, _ERRNO | _EPERM)]
    number = {name: numbers[column] for name, numbers in _CALLS.items()}
    for name in ("setns", "unshare"):
        code += [_op(_EQUAL, number[name], 0, 1), _op(_RETURN, _ERRNO | _EPERM)]
    # its arguments are in memory, where a filter cannot look; the C library falls back to clone
    code += [_op(_EQUAL, number["clone3"], 0, 1), _op(_RETURN, _ERRNO | _ENOSYS)]
    code += _when(number["clone"], 0, [_op(_ANY, _NAMESPACES, 0, 1), _op(_RETURN, _ERRNO | _EPERM)])
    both = [_op(_AND, _WRITE | _EXEC), _op(_EQUAL, _WRITE | _EXEC, 0, 1), _op(_RETURN, _ERRNO | _EPERM)]
    code += _when(number["mmap"], 2, both)
    for name in ("mprotect", "pkey_mprotect"):
        code += _when(number[name], 2, [_op(_ANY, _EXEC, 0, 1), _op(_RETURN, _ERRNO | _EPERM)])
    families = [_op(_EQUAL, family, len(FAMILIES) - place, 0) for place, family in enumerate(FAMILIES)]
    code += _when(number["socket"], 0, [*families, _op(_RETURN, _ERRNO | _EAFNOSUPPORT)])
    return b"".join([*code, _op(_RETURN, _ALLOW)])


# What a program needs that computes, reads what is open and writes what is open: number on x86_64, on aarch64.
COMPUTING = {
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "close": (3, 57),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fstat": (5, 80),
    "futex": (202, 98),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "gettid": (186, 178),
    "lseek": (8, 62),
    "madvise": (28, 233),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "read": (0, 63),
    "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "setitimer": (38, 103),
    "sigaltstack": (131, 132),
    "write": (1, 64),
}


def build_computing_filter(machine: str) -> bytes:
    """Return a filter that allows COMPUTING and memory that is not executable; everything else answers EPERM. Raises
    KeyError for a machine that is neither `x86_64` nor `aarch64`."""
    column, arch = _MACHINES[machine]
    code = [_op(_LOAD, _ARCH_AT), _op(_EQUAL, arch, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NUMBER_AT)]
    for numbers in COMPUTING.values():
        code += [_op(_EQUAL, numbers[column], 0, 1), _op(_RETURN, _ALLOW)]
    for name in ("mmap", "mprotect"):
        code += _when(_CALLS[name][column], 2, [_op(_ANY, _EXEC, 0, 1), _op(_RETURN, _ERRNO | _EPERM)])
    return b"".join([*code, _op(_RETURN, _ERRNO | _EPERM)])


def _when(number: int, argument: int, body: list[bytes]) -> list[bytes]:
    """Run `body` on the low half of an argument (little endian) of one call; what it does not decide is allowed."""
    inner = [_op(_LOAD, _ARGUMENTS_AT + 8 * argument), *body, _op(_RETURN, _ALLOW)]
    return [_op(_EQUAL, number, 0, len(inner)), *inner]


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def install_filter(code: bytes) -> None:
    """Hold this thread, and all it starts, to a filter, for good. no_new_privs must be set. Raises OSError."""
    program = _Program(len(code) // 8, code)
    if _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
