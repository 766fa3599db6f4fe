"""A program with the host's network and a root of its own: it sees its files, folders that it is given, and nothing else.

For programs that talk to strangers and work on the data of services. Namespaces of its own for mounts, processes and
IPC; of root's capabilities those alone that are named; its secrets are files in memory that are gone with it. It ends
with whoever started it, and so does all that it has started: the first process of a process namespace takes the others along.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nebh.host import namespaces, secret_mounts
from nebh.host.run import Command, Result, environment
from nebh.host.secret_mounts import MemoryFile
from nebh.host.spawn import encode_command, judge_outcome
from nebh.host.worker import Worker
from nebh.model.errors import Failed

SECRETS: Final = Path("/run/given")
_CLONE_NEWPID, _CLONE_NEWIPC, _CLONE_NEWUTS = 0x20000000, 0x08000000, 0x04000000
_PR_CAPBSET_DROP: Final = 24
_MOST_CAPABILITIES: Final = 64
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = (
    *("ssl", "ca-certificates", "pki", "crypto-policies", "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("passwd", "group", "nsswitch.conf", "resolv.conf", "hosts", "host.conf", "gai.conf", "services", "localtime"),
)
_DEVICES = ("null", "zero", "random", "urandom")
_READ = {"CAP_DAC_READ_SEARCH": 2}
_OWN = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_FSETID": 4}
_NICE: Final = 10
_LOOK: Final = 0.5
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class View:
    """What a program sees besides what its system consists of. reads, writes: folders, at their own paths; owns: it may
    give files any owner and mode; cgroups: folders that it enters; root: an empty folder to build its root on."""

    root: Path
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    owns: bool = False
    cgroups: tuple[str, ...] = ()


def run_apart(
    launcher: Worker,
    command: Command,
    view: View,
    *,
    network: int,
    given: dict[str, bytes],
    cancelled: Callable[[], bool] = lambda: False,
) -> Result:
    """Run a command to its end; as nebh.host.run.run. network: pid of a process in the network to use; given: files in
    SECRETS, by name; cancelled: asked twice a second, True ends it. Raises CommandFailed, Failed."""
    view.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    space = os.open(f"/proc/{network}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        files = [MemoryFile(place=name, size=len(value), owner=0) for name, value in given.items()]
        plain, values = secret_mounts.pack(files, tuple(given.values()))
        try:
            asked = {
                "command": encode_command(command),
                "root": str(view.root),
                "reads": [str(one) for one in view.reads],
                "writes": [str(one) for one in view.writes],
                "owns": view.owns,
                "cgroups": list(view.cgroups),
                "files": plain,
            }
            child, (answer,) = launcher.call("apart", asked, fds=(space, values))
        finally:
            os.close(values)
    finally:
        os.close(space)
    try:
        line = _await(answer, child, patience=(command.timeout or 3600.0) + 5.0, cancelled=cancelled)
    finally:
        os.close(answer)
    return judge_outcome(command, line)


def _await(answer: int, child: int, *, patience: float, cancelled: Callable[[], bool]) -> dict[str, Any]:
    end, data = time.monotonic() + patience, bytearray()
    poll = select.poll()
    poll.register(answer, select.POLLIN | select.POLLHUP)
    while not data.endswith(b"\n"):
        if poll.poll(_LOOK * 1000):
            part = os.read(answer, 1 << 16)
            if not part:
                raise Failed("cannot run a program apart: its helper ended without a word")
            data += part
        elif cancelled() or time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            raise Failed("it was ended: nobody waits for it any more" if cancelled() else "it did not end in time")
    found: dict[str, Any] = json.loads(data)
    return found


# in the launcher's child


def run_here(args: dict[str, Any], fds: tuple[int, ...]) -> dict[str, Any]:
    """Confine this single-threaded process, which was forked for it alone, and run the command. fds: of the network
    namespace, of the values of the files."""
    network, values = fds
    command = args["command"]
    try:
        for folder in args["cgroups"]:
            (Path(folder) / "cgroup.procs").write_text(f"{os.getpid()}\n", encoding="ascii")
        os.nice(_NICE)
        namespaces.setns(network, namespaces.CLONE_NEWNET)
        namespaces.unshare(namespaces.CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWIPC | _CLONE_NEWUTS)
        _build_root(Path(args["root"]), args, values)
        _drop_capabilities({**_READ, **(_OWN if args["owns"] else {})})
        namespaces.forbid_new_privileges()
    except OSError as error:
        return _outcome(status=126, stderr=f"cannot be confined: {error}".encode())
    return _run(command)


def _build_root(root: Path, args: dict[str, Any], values: int) -> None:
    namespaces.mount("none", Path("/"), flags=namespaces.MS_REC | namespaces.MS_PRIVATE)
    flags = namespaces.MS_NOSUID | namespaces.MS_NODEV
    namespaces.mount("tmpfs", root, kind="tmpfs", flags=flags, data="mode=755,size=4m")
    for name in _PROGRAMS:
        path = Path(name)
        if path.is_symlink():
            (root / name.lstrip("/")).symlink_to(path.readlink())
        elif path.is_dir():
            _show(root, path, path)
    for name in _SETTINGS:
        path = Path("/etc") / name
        with contextlib.suppress(FileNotFoundError):
            _show(root, path.resolve(strict=True), path)
    for name in _DEVICES:
        _show(root, Path("/dev") / name, Path("/dev") / name, device=True)
    for one in sorted(args["reads"]):
        _show(root, Path(one), Path(one))
    for one in sorted(args["writes"]):
        _show(root, Path(one), Path(one), writable=True)
    (root / "run/given").mkdir(parents=True)
    (root / "tmp").mkdir(exist_ok=True)
    secret_mounts.fill(root / "run/given", args["files"], values)
    for place in (root, root / "run/given"):
        namespaces.change_mount(place, add=namespaces.MOUNT_ATTR_RDONLY)
    os.chdir(root)
    if _libc.pivot_root(b".", b".") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    namespaces.unmount(Path())
    os.chdir("/")


def _show(root: Path, source: Path, place: Path, *, writable: bool = False, device: bool = False) -> None:
    target = root / str(place).lstrip("/")
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if source.is_dir():
        target.mkdir(mode=0o755, exist_ok=True)
    else:
        target.touch()
    tree = namespaces.open_tree(source)
    try:
        attributes = namespaces.MOUNT_ATTR_NOSUID | (0 if device else namespaces.MOUNT_ATTR_NODEV)
        namespaces.mount_setattr(tree, attributes=attributes | (0 if writable else namespaces.MOUNT_ATTR_RDONLY))
        namespaces.move_mount(tree, target)
    finally:
        os.close(tree)


def _drop_capabilities(kept: dict[str, int]) -> None:
    """What is not in the bounding set is not there after the next exec, root's neither."""
    for number in range(_MOST_CAPABILITIES):
        if number not in kept.values():
            try:
                namespaces.prctl(_PR_CAPBSET_DROP, number)
            except OSError:
                break


def _run(command: dict[str, Any]) -> dict[str, Any]:
    try:
        process = subprocess.Popen(
            command["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(command["env"]),
            cwd=command["cwd"],
            preexec_fn=namespaces.die_with_parent,  # noqa: PLW1509 - no threads live here
        )
    except OSError as error:
        return _outcome(status=127, stderr=f"{command['argv'][0]}: {error.strerror}".encode())
    try:
        stdout, stderr = process.communicate(timeout=command["timeout"])
    except subprocess.TimeoutExpired as error:
        process.kill()
        return _outcome(status=None, stderr=error.stderr or b"")
    return _outcome(status=process.returncode, stdout=stdout, stderr=stderr)


def _outcome(*, status: int | None, stdout: bytes = b"", stderr: bytes = b"") -> dict[str, Any]:
    said = {"stdout": base64.b64encode(stdout).decode(), "stderr": base64.b64encode(stderr).decode()}
    return {"status": status, **said}
