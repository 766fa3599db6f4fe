"""A place for other people's build commands: bubblewrap's namespaces, no network, nothing of this machine but a folder.

Started by root, the commands run as an ordinary user of this machine, in a cgroup of their own. Started by anybody
else, memory is bounded for each process instead of all together.
"""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, cast

from nebh.host.cgroups import CgroupTree, find_tree
from nebh.host.confine import ordinary_user
from nebh.host.namespaces import die_with_parent
from nebh.host.run import environment
from nebh.model.errors import Broken, Failed

_BWRAP: Final = "bwrap"
_TAIL: Final = 16 << 10
_LOOK: Final = 0.5
_PIDS: Final = 4096
_SHM: Final = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """memory, disk: bytes; cpu: thousandths of a core; seconds: for one command."""

    memory: int
    disk: int
    cpu: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SandboxEnd:
    """status: of the command, 128 + signal for a killed one. reason: why it was ended from outside, "" when it ended
    by itself. tail: the end of what it wrote."""

    status: int
    reason: str = ""
    tail: str = ""


@dataclass(frozen=True, kw_only=True)
class BuildSandbox:
    """root: the folder that is `/` inside. Servers on loopback work; no other address does. read_only: nothing but /tmp
    can be written, as in a container; user: the id inside. host_network, host_files: positive controls of tests, never set otherwise."""

    root: Path
    bounds: Bounds
    env: dict[str, str] = field(default_factory=dict)
    read_only: bool = False
    user: int = 0
    host_network: bool = False
    host_files: tuple[Path, ...] = ()

    def run(self, argv: tuple[str, ...], *, heard: Callable[[str], None] = lambda _: None) -> SandboxEnd:
        """Run one command to its end or its bounds. heard: told each line of output. Raises Failed when there is no
        bubblewrap or the kernel allows no user namespaces."""
        with contextlib.ExitStack() as stack:
            groups = stack.enter_context(_limited(self.bounds))
            user = ordinary_user()
            try:
                process = subprocess.Popen(
                    self._argv(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment(),
                    cwd="/",
                    start_new_session=True,
                    preexec_fn=lambda: _become(self.bounds, groups, user),  # noqa: PLW1509 - no threads live here
                )
            except FileNotFoundError:
                raise Failed(
                    "cannot run build commands: there is no bwrap here", hint="apt-get install bubblewrap"
                ) from None
            stack.callback(_end, process)
            return self._watch(process, heard, groups)

    def _argv(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        words = [
            "--unshare-all",
            "--unshare-user",
            "--disable-userns",
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
        ]
        if self.host_network:
            words.append("--share-net")
        words += ["--uid", str(self.user), "--gid", str(self.user), "--hostname", "build"]
        words += ["--ro-bind" if self.read_only else "--bind", str(self.root), "/"]
        words += ["--proc", "/proc", "--dev", "/dev", "--size", str(_SHM), "--tmpfs", "/dev/shm"]
        if self.read_only:
            words += ["--size", str(self.bounds.disk), "--tmpfs", "/tmp"]
        for path in self.host_files:
            words += ["--ro-bind", str(path), str(path)]
        words += ["--chdir", "/", "--clearenv"]
        for name, value in self.env.items():
            words += ["--setenv", name, value]
        return (_BWRAP, *words, "--", *argv)

    def _watch(
        self, process: subprocess.Popen[bytes], heard: Callable[[str], None], groups: tuple[Path, ...]
    ) -> SandboxEnd:
        output = cast("IO[bytes]", process.stdout)
        os.set_blocking(output.fileno(), False)
        deadline = time.monotonic() + self.bounds.seconds
        tail, line, reason = b"", b"", ""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            look = time.monotonic() + _LOOK
            while not reason:
                if selector.select(timeout=_LOOK):
                    data = output.read(1 << 16)
                    if data == b"":
                        break
                    tail = (tail + (data or b""))[-_TAIL:]
                    *lines, line = (line + (data or b"")).split(b"\n")
                    line = line[-_TAIL:]
                    for one in lines[-20:]:
                        heard(one.decode(errors="replace"))
                now = time.monotonic()
                if now > deadline:
                    reason = f"it took longer than {self.bounds.seconds:.0f} s"
                elif now > look:
                    reason = self._over_disk()
                    look = time.monotonic() + _LOOK
        status = _end(process) if reason else _wait(process, deadline)
        reason = reason or self._over_disk() or _out_of_memory(groups, status)
        return SandboxEnd(status=status, reason=reason, tail=tail.decode(errors="replace"))

    def _over_disk(self) -> str:
        used = folder_bytes(self.root)
        return f"it wrote more than {self.bounds.disk} bytes" if used > self.bounds.disk else ""


@contextlib.contextmanager
def sandbox_folder() -> Iterator[Path]:
    """Hand out an empty folder that the sandbox's user may use, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="nebh-build-", dir="/var/tmp"))
    try:
        give_to_builder(folder)
        yield folder
    finally:
        for path, names, _ in os.walk(folder):
            for name in names:
                below = Path(path) / name
                with contextlib.suppress(OSError):
                    if not below.is_symlink():
                        below.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def give_to_builder(path: Path) -> None:
    """Let the user of the sandbox have a path, itself and not what a link leads to."""
    user = ordinary_user()
    if user is not None:
        os.chown(path, user, user, follow_symlinks=False)


def folder_bytes(folder: Path) -> int:
    """Return the disk space that everything below `folder` takes; what vanishes meanwhile counts nothing."""
    total, todo = 0, [str(folder)]
    while todo:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
    return total


def _become(bounds: Bounds, groups: tuple[Path, ...], user: int | None) -> None:
    """Run in the child before bwrap."""
    for folder in groups:
        with (folder / "cgroup.procs").open("w", encoding="ascii") as file:
            file.write("0")
    die_with_parent()
    seconds = max(1, int(bounds.seconds * max(1.0, bounds.cpu / 1000)) + 1)
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: bounds.disk}
    if not groups:
        limits[resource.RLIMIT_AS] = bounds.memory
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        die_with_parent()  # changing the user clears it


@contextlib.contextmanager
def _limited(bounds: Bounds) -> Iterator[tuple[Path, ...]]:
    """Make a cgroup for one command and yield its folders; none where this process may not."""
    tree = find_tree(f"nebh-build-{secrets.token_hex(4)}")
    if os.geteuid() != 0 or tree.missing():
        yield ()
        return
    try:
        try:
            tree.prepare()
            groups = tree.enter_build("sandbox", memory=bounds.memory, cpu=bounds.cpu, pids=_PIDS)
        except OSError as error:
            raise Broken(f"cannot limit the build's memory: {error.strerror}") from error
        yield groups
    finally:
        _remove(tree)


def _remove(tree: CgroupTree) -> None:
    with contextlib.suppress(OSError, Broken):
        tree.destroy()


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int:
    try:
        status = process.wait(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return _end(process)
    return status if status >= 0 else 128 - status


def _end(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    status = process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return status if status >= 0 else 128 - status


def _out_of_memory(groups: tuple[Path, ...], status: int) -> str:
    for folder in groups:
        for name in ("memory.events", "memory.oom_control"):
            path = folder / name
            if path.exists():
                words = path.read_text(encoding="ascii").split()
                if "oom_kill" in words and words[words.index("oom_kill") + 1] != "0" and status:
                    return "it used more memory than it may"
    return ""
