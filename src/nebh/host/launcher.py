"""The launcher: a helper (nebh.host.worker) that starts conmon with a container's root file system mounted.

The mount is made in a namespace that only conmon and its container share: it lives as long as they do, nothing has to
be unmounted, the host does not see it, and it outlives the executor. crun's other verbs run here too, each in a child
of its own, because the launcher sees the cgroup hierarchies as crun should.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nebh.host import apart, membership, namespaces, processes, secret_mounts
from nebh.host.cgroups import hybrid_unified
from nebh.host.run import Command, CommandFailed, Result, environment
from nebh.host.spawn import Reply, encode_command, judge_outcome, run_encoded
from nebh.host.worker import Worker
from nebh.model.errors import Failed, NebhError

UID_RANGE = 65_536
_CLONED = "_LIBCONTAINER_CLONED_BINARY"
_MOST_USERNS = 256
_children: set[int] = set()  # of the launcher process: one launcher, one process
_userns_made: dict[int, int] = {}  # by their first id


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A conmon to start, which calls `runtime`. tree is shown at `root`, its ids mapped from `uid_base` on; cgroups:
    folders conmon enters; output: file in the bundle for what conmon itself says; secrets: MemoryFile values, whose bytes
    come in a descriptor, for the folder secret_root; covered: a file there and the file that it covers, () = none; links:
    symbolic links, each with the file below `root` in whose place the container sees it."""

    argv: tuple[str, ...]
    runtime: str
    tree: str
    root: str
    uid_base: int
    cgroups: tuple[str, ...]
    output: str
    secret_root: str = ""
    secrets: list[dict[str, Any]] = field(default_factory=list)
    covered: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()


def fork_launcher(*, keep_fds: tuple[int, ...] = ()) -> Worker:
    """Fork the launcher from the (single-threaded) executor, in the namespaces its containers' conmons should have."""
    handlers = {"launch": _launch, "start": _start, "probe": _probe, "give": _give, "apart": _apart}
    return Worker.fork("launcher", handlers, setup=_setup, keep_fds=keep_fds)


def probe_idmap(worker: Worker, tree: Path) -> str:
    """Try an id-mapped mount of the folder `tree`; return what is wrong, "" when nothing is."""
    try:
        worker.call("probe", {"tree": str(tree)})
    except NebhError as error:
        return error.message
    return ""


def give(worker: Worker, *, conmon: int, folder: Path, files: list[dict[str, Any]], values: int) -> tuple[str, ...]:
    """Replace files in memory in the namespace of a conmon; return the places whose bytes changed. values: a descriptor
    that holds their bytes (`secret_mounts.pack`)."""
    answer, _ = worker.call("give", {"conmon": conmon, "folder": str(folder), "files": files}, fds=(values,))
    return tuple(answer)


def launch(worker: Worker, plan: Launch, *, write_bundle: Callable[[], None], timeout: float, values: int = -1) -> int:
    """Start conmon, wait for `crun create` to end and return the pid of the container's first process.

    write_bundle writes what crun reads, config.json above all, while conmon comes up. A conmon that loses us goes on
    as soon as its start pipe closes: so there is nothing to create before it is in its cgroups. values: a descriptor of
    the bytes of `plan.secrets`.
    Raises Failed with what crun said, or when it took longer than `timeout` seconds.
    """
    _, (sync, start) = worker.call("launch", asdict(plan), fds=(values,) if values >= 0 else ())
    try:
        write_bundle()
        os.write(start, b"\n")
        membership.wait_ahead()  # crun would, with nothing beside it
        line = _read_line(sync, timeout=timeout)
    except BrokenPipeError as error:
        raise Failed(f"cannot start conmon: {_tail(plan.output)}") from error
    finally:
        os.close(sync)
        os.close(start)
    if not line:
        raise Failed(f"cannot create the container: conmon ended without a word: {_tail(plan.output)}")
    answer = json.loads(line)
    pid = int(answer.get("data", answer.get("pid", -1)))
    if pid <= 0:
        raise Failed(f"cannot create the container: {answer.get('message', '').strip() or _tail(plan.output)}")
    return pid


def run_beside(worker: Worker, command: Command) -> Result:
    """Run a command to its end in the launcher's namespaces, beside whatever else it does. As nebh.host.run.run."""
    _, (answer,) = worker.call("start", encode_command(command))
    try:
        line = _read_line(answer, timeout=(command.timeout or 3600.0) + 5.0)
    finally:
        os.close(answer)
    if not line:
        raise CommandFailed(command, status=None, stderr="its helper ended without a word")
    return judge_outcome(command, json.loads(line))


def _setup() -> None:
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    os.umask(0o022)  # crun walks to bundle and root as the mapped root: folders need o+x
    namespaces.private_mounts()
    # crun gives its stdin, /dev/null, to the container's user, who could then close the host's to everybody
    namespaces.bind_readonly(Path("/dev"))
    unified = hybrid_unified()
    if unified is not None:
        # a tmpfs over it: crun would leave folders there, or plain files where it were merely unmounted
        namespaces.mount("tmpfs", unified, kind="tmpfs", data="size=1m,mode=755")


def _launch(args: dict[str, Any], fds: tuple[int, ...]) -> Reply:
    """Start conmon. It waits at its start pipe while it is put in its cgroups: what it forks is in them too."""
    plan = Launch(**{**args, "argv": tuple(args["argv"]), "cgroups": tuple(args["cgroups"])})
    sync, start = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    try:
        conmon, entered = _spawn_conmon(plan, sync=sync[1], start=start[0], values=fds[0] if fds else -1)
        try:
            if not entered:
                membership.enter(tuple(map(Path, plan.cgroups)), conmon)
            with contextlib.suppress(PermissionError, ProcessLookupError):  # no CAP_SYS_RESOURCE; it has ended
                Path(f"/proc/{conmon}/oom_score_adj").write_text("-1000", encoding="ascii")
        except BaseException:
            os.kill(conmon, signal.SIGKILL)
            raise
        finally:
            _children.add(conmon)  # only now: what is collected has no pid to give to others
            _reap()
    except BaseException as error:
        os.close(sync[0])
        os.close(start[1])
        raise Failed(f"cannot create the container: {error}") from error
    finally:
        os.close(sync[1])
        os.close(start[0])
    return Reply(result=conmon, fds=(sync[0], start[1]))


def _spawn_conmon(plan: Launch, *, sync: int, start: int, values: int) -> tuple[int, bool]:
    """Start conmon in a mount namespace of its own and, if that is possible, in its cgroups; return its pid and
    whether it is in them. It has no PDEATHSIG: it must outlive us.

    posix_spawn, because a fork copies all page tables of Python, and then the pages both go on to write. So it is we
    who enter the namespace and the cgroups, and come back.
    """
    userns = _userns(plan.uid_base)
    with contextlib.ExitStack() as stack:
        nothing = _open(stack, "/dev/null", os.O_RDWR)
        output = _open(stack, plan.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
        stack.enter_context(_mounts_of_its_own())
        namespaces.bind_idmapped(Path(plan.tree), Path(plan.root), userns=userns)
        for link, place in plan.links:
            namespaces.show_link(Path(link), root=Path(plan.root), place=place)
        if plan.secret_root:
            secret_mounts.fill(Path(plan.secret_root), plan.secrets, values)
            if plan.covered:
                namespaces.mount(plan.covered[0], Path(plan.covered[1]), flags=namespaces.MS_BIND)
        # crun would first make this mount by itself and execute itself anew from it; elsewhere the variable has no say
        namespaces.bind_readonly(Path(plan.runtime).resolve())
        os.chdir(Path(plan.output).parent)  # conmon leaves a file `oom` wherever it stands
        os.set_inheritable(sync, True)
        os.set_inheritable(start, True)
        entered = stack.enter_context(membership.inside(tuple(map(Path, plan.cgroups))))
        conmon = os.posix_spawn(
            plan.argv[0],
            plan.argv,
            environment({"_OCI_SYNCPIPE": str(sync), "_OCI_STARTPIPE": str(start), _CLONED: "1"}),
            file_actions=[(os.POSIX_SPAWN_DUP2, *pair) for pair in ((nothing, 0), (output, 1), (output, 2))],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD),
        )
    return conmon, entered


def _open(stack: contextlib.ExitStack, path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor


@contextlib.contextmanager
def _mounts_of_its_own() -> Iterator[None]:
    """Be in a new mount namespace for a moment: what is started there stays in it."""
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.private_mounts()
        yield
    finally:
        secret_mounts.go_home(home)  # in a container's namespace we would be of no use
        os.close(home)


def _give(args: dict[str, Any], fds: tuple[int, ...]) -> list[str]:
    with secret_mounts.mounts_of(args["conmon"]):
        return secret_mounts.replace(Path(args["folder"]), args["files"], fds[0])


def _userns(base: int) -> int:
    """Return a user namespace for the ids from `base` on, made once: it holds no process, it is a table of ids."""
    if base not in _userns_made:
        while len(_userns_made) >= _MOST_USERNS:
            os.close(_userns_made.pop(next(iter(_userns_made))))
        _userns_made[base] = namespaces.make_userns(base=base, size=UID_RANGE)
    return _userns_made[base]


def _start(args: dict[str, Any], _fds: tuple[int, ...]) -> Reply:
    return _answer_later(lambda: run_encoded(args))


def _apart(args: dict[str, Any], fds: tuple[int, ...]) -> Reply:
    return _answer_later(lambda: apart.run_here(args, fds))


def _answer_later(work: Callable[[], dict[str, Any]]) -> Reply:
    """Do something in a child; the reply has its pid and a pipe in which its answer comes, as a line."""
    _reap()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            namespaces.die_with_parent(parent=parent)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(reading)
            namespaces.become_subreaper()
            answer = json.dumps(work()).encode() + b"\n"
            with contextlib.suppress(FileNotFoundError):  # no /proc there: a process namespace has ended them
                processes.kill_children()  # a killed `crun exec` leaves its process inside the container
            while answer:
                answer = answer[os.write(writing, answer) :]
        finally:
            os._exit(0)
    _children.add(child)
    os.close(writing)
    return Reply(result=child, fds=(reading,))


def _probe(args: dict[str, Any], _fds: tuple[int, ...]) -> None:
    userns = namespaces.make_userns(base=1 << 30, size=UID_RANGE)
    try:
        tree = namespaces.open_tree(Path(args["tree"]))
        try:
            namespaces.mount_setattr(tree, attributes=namespaces.MOUNT_ATTR_RDONLY, userns=userns)
        finally:
            os.close(tree)
    finally:
        os.close(userns)


def _reap() -> None:
    # by pid, not -1: a command that `run` waits for is not ours to collect
    for pid in tuple(_children):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        _children.discard(pid)


def _read_line(descriptor: int, *, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    data = bytearray()
    while not data.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise Failed(f"cannot wait for the container runtime: it said nothing for {timeout:g} s")
        part = os.read(descriptor, 1 << 16)
        if not part:
            break
        data += part
    return bytes(data)


def _tail(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "no output"
    return text.strip()[-1000:] or "no output"
