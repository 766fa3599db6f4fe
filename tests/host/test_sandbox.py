"""The seccomp list and the mounts of the sandbox, tried from inside by a real program."""

from __future__ import annotations

import json
import sys

import pytest

from nebh.host.children import run_sandboxed
from nebh.host.program_tree import own_tree, unreachable_for_others
from nebh.host.sandbox import Sandbox
from nebh.host.seccomp import build_filter
from nebh.model.errors import Failed

NOBODY = 65534
TRIES = """
import ctypes, errno, json, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    return errno.errorcode.get(ctypes.get_errno(), "") if function(*arguments) == -1 else "ok"
def attempt(function):
    try:
        function()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
print(json.dumps({
    "unshare": call(libc.unshare, 0x10000000),
    "mount": call(libc.mount, b"none", b"/tmp", b"tmpfs", 0, None),
    "ptrace": call(libc.ptrace, 0, 0, 0, 0),
    "keyring": call(libc.syscall, 250 if os.uname().machine == "x86_64" else 219, 0, 0),
    "netlink": attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "packet": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "inet": attempt(lambda: socket.socket(socket.AF_INET)),
    "writable code": attempt(lambda: mmap.mmap(-1, 4096, prot=7)),
    "data": attempt(lambda: mmap.mmap(-1, 4096, prot=3)),
    "own folder": attempt(lambda: open(sys.argv[1] + "/x", "w")),
    "state beside": attempt(lambda: open(sys.argv[1] + "-other", "w")),
    "etc": attempt(lambda: open("/etc/nt-x", "w")),
    "tmp": attempt(lambda: open("/tmp/nt-x", "w")),
    "tmp is empty": os.listdir("/tmp"),
    "home": attempt(lambda: os.listdir("/root")) if os.path.isdir("/root") else "ok",
    "dev": sorted(os.listdir("/dev")),
    "fork": attempt(lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)),
}))
"""


def test_filters_fit_the_kernel():
    for machine in ("x86_64", "aarch64"):
        code = build_filter(machine)
        assert len(code) % 8 == 0
        assert len(code) // 8 < 4096


@pytest.mark.root
def test_a_confined_program_can_do_its_work_and_no_more(short_folder):
    if unreachable_for_others(own_tree().python) is not None:
        pytest.skip("the interpreter is where other users cannot go")
    short_folder.chmod(0o755)
    own = short_folder / "own"
    own.mkdir()
    own.chmod(0o777)
    (short_folder / "own-other").touch()
    (short_folder / "own-other").chmod(0o666)
    sandbox = Sandbox(uid=NOBODY, gid=NOBODY, writable=(own,), visible=(short_folder,))
    answer = json.loads(run_sandboxed((sys.executable, "-I", "-c", TRIES, str(own)), env={}, sandbox=sandbox))
    assert answer == {
        "unshare": "EPERM",
        "mount": "EPERM",
        "ptrace": "EPERM",
        "keyring": "EPERM",
        "netlink": "EAFNOSUPPORT",
        "packet": "EAFNOSUPPORT",
        "inet": "ok",
        "writable code": "EPERM",
        "data": "ok",
        "own folder": "ok",
        "state beside": "EROFS",
        "etc": answer["etc"],
        "tmp": "ok",
        "tmp is empty": [*answer["tmp is empty"]],
        "home": "ok",
        "dev": ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"],
        "fork": "ok",
    }
    assert answer["etc"] in {"EROFS", "EACCES"}
    assert set(answer["tmp is empty"]) <= {short_folder.name, "nt-x"}


@pytest.mark.root
def test_a_program_that_fails_says_so(short_folder):
    sandbox = Sandbox(uid=NOBODY, gid=NOBODY, writable=(), visible=(short_folder,))
    with pytest.raises(Failed, match="status 3"):
        run_sandboxed(("/bin/sh", "-c", "exit 3"), env={}, sandbox=sandbox)
