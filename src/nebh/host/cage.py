"""The cage of a child that works on templates of others: nothing to see, nobody to reach, little to use.

Empty namespaces, an empty root, a user of its own, no capability, a system call filter that allows computing and
nothing else, and limits. What is needed must be imported, and what is to be read opened, before `enter`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nebh.host import seccomp
from nebh.host.namespaces import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    die_with_parent,
    forbid_new_privileges,
    mount,
    prctl,
    unshare,
)

CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWCGROUP: Final = 0x02000000
_ALL = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
_PR_CAPBSET_DROP: Final = 24
_MOST_CAPABILITIES: Final = 64
_NOBODY: Final = 65534
USER: Final = "nebh-render"


@dataclass(frozen=True, kw_only=True)
class Cage:
    """cpu: seconds beyond what was used. memory: bytes of address space beyond what there is. user: the name of the
    user that root becomes; nobody where there is none."""

    cpu: int
    memory: int
    user: str = USER

    def enter(self) -> None:
        """Confine this single-threaded process for good. Raises OSError. An ordinary user whom the kernel allows no
        namespaces goes without them: the filter holds all the same."""
        code = seccomp.build_computing_filter(os.uname().machine)
        die_with_parent()
        root, uid, space = os.geteuid() == 0, self._uid(), _address_space()
        if root:
            unshare(_ALL)
            _enter_empty_root()
        else:
            with contextlib.suppress(OSError):
                unshare(CLONE_NEWUSER | _ALL)
                _enter_empty_root()
        self._limit(space)
        if root:
            _drop(uid)
            die_with_parent()  # changing the user clears it
        forbid_new_privileges()
        seccomp.install_filter(code)

    def _uid(self) -> int:
        try:
            return pwd.getpwnam(self.user).pw_uid
        except KeyError:
            return _NOBODY

    def _limit(self, space: int) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + self.cpu
        bounds = (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NOFILE, 0),
            (resource.RLIMIT_NPROC, 0),
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_AS, space + self.memory),
        )
        for kind, bound in bounds:
            _, hard = resource.getrlimit(kind)
            value = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            resource.setrlimit(kind, (value, value))


def arm(seconds: float) -> None:
    """End this process by SIGPROF once it has used `seconds` of processor from now on."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _enter_empty_root() -> None:
    """Make an empty, read-only file system the root. It covers a folder that every system has."""
    mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount("tmpfs", Path("/proc"), kind="tmpfs", flags=flags, data="size=4k,nr_inodes=1,mode=555")
    os.chroot("/proc")
    os.chdir("/")


def _drop(uid: int) -> None:
    """Become a user without capabilities, for good. There is no /proc any more that would say how many there are."""
    for number in range(_MOST_CAPABILITIES):
        try:
            prctl(_PR_CAPBSET_DROP, number)
        except OSError:
            break
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - one line of the kernel
        return int(file.read().split()[0]) * resource.getpagesize()
