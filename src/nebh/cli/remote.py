"""`nebh up root@HOST`: install and start Nebh behind the operator's own SSH; keys are made and stay here."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import shlex
import tarfile
import time
from pathlib import Path

from nebh.cli.founding import found_on, is_founded
from nebh.cli.node_end import ControllerIdentity, NodeIdentity
from nebh.cli.output import Output, harmless
from nebh.cli.remote_look import SCRIPT, RemoteFacts, judge_facts, parse_facts
from nebh.cli.session import config_base, now_seconds, through_ssh
from nebh.client.transport import Transport
from nebh.host.run import Command, CommandFailed, Result, run
from nebh.model.errors import BadInput, Failed, NebhError, NotFound, Unreachable
from nebh.model.names import check_name
from nebh.wire import codec

PARTS = ("src", "packaging", "requirements")
_SSH_FAILED = 255
_STATUSES = tuple(range(256))
START_PATIENCE = 90.0


class Machine:
    """A machine behind the operator's ssh (NEBH_SSH names another command)."""

    def __init__(self, place: str) -> None:
        if not place or place.startswith("-") or any(letter.isspace() for letter in place):
            raise BadInput(f"cannot reach {place!r}", hint="write root@HOST")
        self.place = place
        self._ssh = tuple(shlex.split(os.environ.get("NEBH_SSH", "ssh")))
        self._env = {name: os.environ[name] for name in ("HOME", "SSH_AUTH_SOCK", "USER") if name in os.environ}

    def run(self, *argv: str, stdin: bytes = b"", timeout: float = 60.0, accept: tuple[int, ...] = (0,)) -> Result:
        """Run a command there. Raises Unreachable when ssh does not get there, Failed with what it said."""
        words = (*self._ssh, "-T", "-o", "BatchMode=yes", "--", self.place, shlex.join(argv))
        done = run(Command(argv=words, env=self._env, stdin=stdin, timeout=timeout, accept=_STATUSES))
        said = harmless(done.stderr.decode(errors="replace").strip()[-1500:])
        if done.status == _SSH_FAILED:
            raise Unreachable(
                f"cannot reach {self.place}: {said}", hint=f"`ssh {self.place} true` must work without a question"
            )
        if done.status not in accept:
            raise Failed(f"cannot run {argv[0]} on {self.place}: it ended with status {done.status}: {said}")
        return done


def up_remote(options: argparse.Namespace, out: Output) -> int:
    """Make the machine behind SSH a cloud whose key is on this computer; repeated, finish or take over again."""
    machine = Machine(options.target)
    facts = look_there(machine, options)
    out.note(f"{options.target} is {facts.host}: {facts.system}, kernel {facts.kernel}; it has what it needs")
    name = options.name or node_name_of(facts)
    check_name_here(name, options.target)
    install_there(machine, options, out)
    node = RemoteNode(machine, options, name=node_name_of(facts))
    start_there(machine, node, facts, options, out)
    if not is_founded(node, name):
        found_on(node, options, out)
    out.say(f"{name} is up on {options.target}; its key is in {config_base() / name}, on this computer alone")
    return 0


def look_there(machine: Machine, options: argparse.Namespace) -> RemoteFacts:
    """Return what is there. Raises BadInput with everything that is missing."""
    ports = (f"{options.http_port:04X}", f"{options.https_port:04X}")
    words = ("sh", "-s", "--", options.state, *ports)
    facts = parse_facts(machine.run(*words, stdin=SCRIPT.encode()).text)
    missing = [one for one in judge_facts(facts, now=now_seconds(), state=options.state) if not one.ok]
    if missing:
        lines = "\n".join(f"  {harmless(one.sentence)}\n    -> {one.remedy}" for one in missing)
        raise BadInput(f"cannot make {machine.place} a cloud:\n{lines}", hint="nothing was changed there")
    return facts


def node_name_of(facts: RemoteFacts) -> str:
    """Return the host's name as a node's name."""
    text = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in facts.host.split(".")[0])
    text = "-".join(filter(None, text.lower().split("-")))[:32].strip("-")
    return text if text[:1].isalpha() else f"node-{text}".strip("-")[:32]


def check_name_here(name: str, place: str) -> None:
    """Raises BadInput when this computer knows another cloud of that name."""
    from nebh.signing.operator import load_cluster

    check_name(name, what="cloud")
    try:
        known = load_cluster(config_base(), name)
    except NotFound:
        return
    if known.cluster.controller != f"ssh://{place}":
        raise BadInput(
            f"cannot found a cloud called {name}: {known.path} holds the key of one of that name",
            hint="choose another with --name, or move that folder away",
        )


def pack_programs(root: Path) -> bytes:
    """Return sources, requirements and installer as a tar.gz: the same bytes for the same files."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for part in PARTS:
            for path in sorted((root / part).rglob("*")):
                if path.is_file() and not path.is_symlink() and not _is_litter(path):
                    tar.add(path, arcname=str(path.relative_to(root)), recursive=False, filter=_plain)
    return buffer.getvalue()


def _is_litter(path: Path) -> bool:
    return "__pycache__" in path.parts or any(part.endswith(".egg-info") for part in path.parts)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = "root"
    info.mode = 0o755 if info.mode & 0o100 else 0o644
    return info


def find_sources() -> Path:
    """Return the folder with src, packaging and requirements that we run from. Raises NotFound."""
    package = Path(__file__).resolve().parents[2]
    for root in (package.parent, package.parent / "share"):
        if all((root / part).is_dir() for part in PARTS):
            return root
    raise NotFound(
        f"cannot install elsewhere: {package.parent} has no installer beside the programs",
        hint="run `nebh up` from a checkout, or install with `make install`",
    )


def install_there(machine: Machine, options: argparse.Namespace, out: Output) -> None:
    """Copy the programs and run their installer, unless the very same are there."""
    data = pack_programs(find_sources())
    digest = hashlib.sha256(data).hexdigest()
    mark = f"{options.prefix}/installed"
    found = machine.run("sh", "-c", f"cat {shlex.quote(mark)} 2>/dev/null || true").text.strip()
    if found == digest:
        out.note(f"{options.prefix} there is what this computer runs")
        return
    out.note(f"copying {len(data) // 1024} KiB and installing; the first time Debian packages come along")
    script = (
        "set -eu; umask 077; folder=$(mktemp -d /root/.nebh-XXXXXX); trap 'rm -rf \"$folder\"' EXIT; "
        'tar -xzf - -C "$folder"; PREFIX="$1" "$folder/packaging/install.sh" >"$folder/log" 2>&1 </dev/null || '
        '{ status=$?; tail -n 20 "$folder/log" >&2; exit $status; }; printf "%s\\n" "$2" > "$1/installed"'
    )
    machine.run("sh", "-c", script, "install", options.prefix, digest, stdin=data, timeout=1200.0)


class RemoteNode:
    """The machine as founding sees it (node_end.NodeEnd)."""

    def __init__(self, machine: Machine, options: argparse.Namespace, *, name: str) -> None:
        self._machine, self._options, self._name = machine, options, name

    @property
    def name(self) -> str:
        """The node's."""
        return self._name

    @property
    def address(self) -> str:
        """For cluster.json."""
        return f"ssh://{self._machine.place}"

    @property
    def options(self) -> dict[str, str]:
        """For cluster.json."""
        return {"run": f"{self._options.run}/controller"}

    @property
    def listen(self) -> str:
        """The TLS door."""
        return str(self._options.listen)

    def identity(self) -> NodeIdentity:
        """Ask the executor there."""
        return codec.decode_loose(self._ask("identity"), NodeIdentity, what="the node's answer")

    def controller(self) -> ControllerIdentity:
        """Ask the controller there."""
        return codec.decode_loose(self._ask("controller"), ControllerIdentity, what="the node's answer")

    def pin_root(self, root: bytes) -> None:
        """Hand the root over."""
        self._ask("pin-root", stdin=root)

    def transport(self) -> Transport:
        """Through ssh."""
        return through_ssh(self._machine.place, run=self.options["run"])

    def enrol(self, *, cluster_id: str, node_id: str, name: str, root: bytes) -> None:
        """Tell the executor there."""
        self._ask("enrol", "--cluster-id", cluster_id, "--node-id", node_id, "--name", name, stdin=root)

    def _ask(self, action: str, *words: str, stdin: bytes = b"") -> bytes:
        program = f"{self._options.prefix}/bin/nebh"
        places = ("--state", self._options.state, "--run", self._options.run)
        return self._machine.run(program, "node-end", action, *places, *words, stdin=stdin).stdout.strip()


def start_there(
    machine: Machine, node: RemoteNode, facts: RemoteFacts, options: argparse.Namespace, out: Output
) -> None:
    """Start the programs there: by systemd, else detached from our SSH session. Returns when they answer."""
    words = ["up", "--enrol-later", "--state", options.state, "--run", options.run]
    words += ["--http-port", str(options.http_port), "--https-port", str(options.https_port)]
    for option in ("listen", "cgroup_parent"):
        value = getattr(options, option)
        words += [f"--{option.replace('_', '-')}", value] if value else []
    program = f"{options.prefix}/bin/nebh"
    if facts.systemd and not options.foreground:
        machine.run(program, *words, timeout=300.0)
        return
    out.note("no systemd there: the programs are supervised by one process, which does not come back after a reboot")
    log = f"{options.state}/up.log"
    detached = 'mkdir -p "$(dirname "$0")"; setsid "$@" >"$0" 2>&1 </dev/null & echo $!'
    running = f"{options.run}/up.json"
    pid = ""
    if machine.run("test", "-e", running, accept=(0, 1)).status == 1 or not _answers(node):
        pid = machine.run("sh", "-c", detached, log, program, *words, "--foreground").text.strip()
    until = time.monotonic() + START_PATIENCE
    while not _answers(node):
        ended = bool(pid) and machine.run("kill", "-0", pid, accept=_STATUSES).status != 0
        if ended or time.monotonic() > until:
            said = machine.run("tail", "-n", "20", log, accept=_STATUSES).text
            raise Failed(f"cannot start Nebh on {machine.place}: {harmless(said.strip()[-1500:])}")
        time.sleep(0.5)


def _answers(node: RemoteNode) -> bool:
    try:
        node.identity()
        node.controller()
    except Unreachable:
        raise
    except (NebhError, CommandFailed):
        return False
    return True
