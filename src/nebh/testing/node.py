"""One node without controller and command line, for crash tests: a real executor with real containers, proxy, rules
and names, a stand-in agent that serves a folder, and signed metadata and assignments made here.

A deploy takes about a second, and a fault point can be armed for any of its executors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nebh.client.frame_channel import connect_frames
from nebh.drivers.ingress.runtime import Runtime
from nebh.host.run import Command, run, start
from nebh.images.manifest import encode_manifest, refer_to
from nebh.model.backup import BackupWish
from nebh.model.errors import NebhError
from nebh.model.image import EntryType, ImageRef, TreeEntry, TreeManifest
from nebh.model.local import LocalConfig
from nebh.model.node import Baseline, NodeRecord
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.service import Check, CheckKind, Health, Limits, Placement, Replicas, Route, Stop, Update
from nebh.model.statement import Action, Assignment, Order, Phase
from nebh.signing.genesis import init_cluster
from nebh.signing.repository import Publication, State, read_state
from nebh.signing.statements import Seed, sign_statement
from nebh.signing.trust_store import TrustStore
from nebh.signing.wish import Wish, apply_wish
from nebh.testing.cloud import PATIENCE, Cloud
from nebh.testing.container_rig import busybox
from nebh.wire import codec

SUBNETS = ("10.99.0.0/20", "fd00:99::/64")
HOST = "web.test"
APP_PORT = 8080
GOOD = Check(name="good", kind=CheckKind.HTTP, port=APP_PORT, path="/index.html", interval=100, timeout=5000)
BAD = dataclasses.replace(GOOD, name="bad", path="/missing", failures=1)


class Forks:
    """The process that forks executors and agents."""

    def __init__(self) -> None:
        env = {"PYTHONPATH": os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[2]), *filter(None, sys.path)]))}
        command = Command(argv=(sys.executable, "-P", "-m", "nebh.testing.forks"), env=env)
        self._process = start(command, stdin=-1, stdout=-1, stderr=None)

    def ask(self, **words: Any) -> dict[str, Any]:
        """Send one command and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End it; what it forked must have ended before."""
        self._process.kill()
        self._process.wait(10)


class Node(Cloud):
    """See above. Needs root. `web` is the one service; its releases differ in what `GET /` answers."""

    def __init__(
        self, folder: Path, forks: Forks, *, mount: Callable[[Path], None] | None = None, http_port: int = 8080
    ) -> None:
        """mount: puts a disk of the caller's under the state folder."""
        super().__init__(folder, http_port=http_port)
        self.forks = forks
        self.served = folder / "served"
        self.executor = 0
        self.agent = 0
        self.counter = 0
        self.seq = 0
        self.policy_version = 0
        self.operator, self.controller = Seed(secrets.token_bytes(32)), Seed(secrets.token_bytes(32))
        self.cluster_id = secrets.token_hex(16)
        self.node_id = ""
        self.submitted = b""
        self.log = folder / "executor.log"
        self.trace = folder / "trace"
        self._root, self.words = b"", ""
        self.disabled: tuple[str, ...] = ()
        self.clock = 0
        """Rules switched off, and seconds that the clock is wrong, for executors that are started from now on."""
        self.limits = Limits(memory=64 << 20, pids=32)
        for name in ("metadata", "targets", "objects"):
            (self.served / name).mkdir(parents=True)
        self.layout.state.mkdir(mode=0o755)
        if mount is not None:
            mount(self.layout.state)
            self.layout.state.chmod(0o755)
        config = LocalConfig(name="one", http_port=self.http_port, https_port=8443, cgroup_parent=self.name, reserve=0)
        self.layout.node_config.write_bytes(codec.encode(config))

    # programs

    def fork(self, program: str, env: dict[str, str] | None = None) -> int:
        """Start an executor or agent; return its pid."""
        return int(
            self.forks.ask(
                cmd=program,
                netns=self.name,
                state=str(self.layout.state),
                run=str(self.layout.run),
                served=str(self.served),
                log=str(self.log),
                disabled=self.disabled,
                clock=self.clock,
                env={"NEBH_FAULT": "", "NEBH_FAULT_TRACE": str(self.trace), **(env or {})},
            )["pid"]
        )

    def begin(self) -> None:
        """Start both programs, found the cluster, enrol the node."""
        self.layout.run.mkdir(mode=0o755, exist_ok=True)
        self.agent = self.fork("agent")
        self.start()
        found = self.ask({"op": "identity"})
        self.node_id = hashlib.sha256(bytes.fromhex(found["sign_pk"])).hexdigest()
        record = NodeRecord(
            node_id=self.node_id,
            name="one",
            groups=(),
            sign_pk=found["sign_pk"],
            seal_pk=found["seal_pk"],
            wg_pk="",
            subnets=SUBNETS,
            enrolled_at=int(time.time()),
            baseline=Baseline(snapshot=1, roles={"root": 1, "targets": 1}),
        )
        genesis = init_cluster(
            name="home",
            operator=self.operator,
            controller=self.controller.public,
            entropy=secrets.token_bytes(16),
            cluster_id=self.cluster_id,
            now=int(time.time()),
            nodes=(record,),
        )
        self._root, self.words = genesis.root, genesis.words
        self.publish(genesis.publication)
        self.ask({"op": "enrol", "cluster_id": self.cluster_id, "node_id": self.node_id, "name": "one"}, genesis.root)
        self.until(lambda: self.status()["snapshot"] > 0, "the node knows its record")

    def start(self, *, fault: str = "", wait: bool = True) -> int:
        """Start an executor, armed with `fault`; return its pid."""
        self.trace.unlink(missing_ok=True)
        self.executor = self.fork("executor", {"NEBH_FAULT": fault})
        if wait:
            self.until(self._answers, "the executor answers")
        return self.executor

    def _answers(self) -> bool:
        ended = self.forks.ask(cmd="wait", pid=self.executor, timeout=0)["status"]
        assert ended is None, f"the executor ended with {ended}:\n{self.tail()}"
        with contextlib.suppress(NebhError):
            return bool(self.status())
        return False

    def wait_executor(self, *, patience: float = PATIENCE) -> int | None:
        """Wait for the executor's end; return its status (-9 = SIGKILL), None when it lives on."""
        status: int | None = self.forks.ask(cmd="wait", pid=self.executor, timeout=patience)["status"]
        if status is not None:
            self.executor = 0
        return status

    def end_executor(self, number: signal.Signals = signal.SIGKILL) -> int | None:
        """End the executor by a signal; return its status."""
        if not self.executor:
            return None
        os.kill(self.executor, number)
        return self.wait_executor()

    def end_agent(self) -> None:
        """Kill the agent."""
        if self.agent:
            os.kill(self.agent, signal.SIGKILL)
            self.forks.ask(cmd="wait", pid=self.agent, timeout=10)
            self.agent = 0

    def power_cut(self) -> None:
        """Kill everything at once; nothing but the disk is left."""
        self.end_executor()
        self.end_agent()
        super().power_cut()

    def power_on(self) -> None:
        """After a power cut: the agent and an executor."""
        self.layout.run.mkdir(mode=0o755, exist_ok=True)
        self.agent = self.fork("agent")
        self.start()

    # questions

    def ask(self, head: dict[str, Any], body: bytes = b"") -> dict[str, Any]:
        """Ask the executor."""
        with connect_frames(self.layout.executor_socket) as channel:
            return channel.request(head, body)[0]

    def status(self) -> dict[str, Any]:
        """Return `nebh-executor status`."""
        return self.ask({"op": "status"})

    def history(self) -> list[dict[str, Any]]:
        """Return transactions, newest first."""
        found: list[dict[str, Any]] = self.ask({"op": "inspect", "service": "web"})["history"]
        return found

    def instances(self, role: str = "") -> list[dict[str, Any]]:
        """Return the instances of a role (all: "")."""
        return [one for one in self.status()["instances"] if role in ("", one["role"])]

    def until(self, is_so: Any, what: str, *, patience: float = PATIENCE) -> None:
        """Wait until `is_so()`."""
        end = time.monotonic() + patience
        while not is_so():
            assert time.monotonic() < end, f"not so after {patience:.0f} s: {what}\n{self.tail()}"
            time.sleep(0.03)

    def tail(self) -> str:
        """Return what the executor said last, and its newest events."""
        said = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
        with contextlib.suppress(NebhError, AssertionError):
            news = self.ask({"op": "poll", "receipt": 0, "event": 0, "wait_ms": 0})["events"][-25:]
            said += "\n".join(f"{one['kind']}: {one['message']}" for one in news)
        return said

    def quiet(self) -> bool:
        """Tell whether no transaction is open and nothing is on its way out."""
        status = self.status()
        return not status["transactions"] and all(one["role"] == "serving" for one in status["instances"])

    def settle(self) -> None:
        """Wait until the node is quiet, twice: a retry begins a moment after a rollback."""
        for _ in range(2):
            self.until(self.quiet, "the node is quiet")
            time.sleep(0.05)

    def page(self, *, timeout: float = 10.0) -> str:
        """Return what the service answers through the ingress; `status 503` for anything but 200."""
        status, body = self.get("/", host=HOST, timeout=timeout)
        return body.strip() if status == 200 else f"status {status}"

    def inside_text(self, *argv: str) -> str:
        """Return what a command prints in the node's network."""
        return run(Command(argv=self.inside(*argv), accept=tuple(range(256)))).text

    def slots(self) -> dict[str, str]:
        """Return the live proxy slots that are not in maint: state by address."""
        runtime = Runtime(self.layout.run / "ingress" / "admin.sock", self.layout.run / "ingress" / "master.sock")
        return {server.address: str(server.state) for server in runtime.servers().values() if server.address}

    # signing

    def publish(self, publication: Publication) -> None:
        """Serve what was signed."""
        for name, data in publication.targets.items():
            path = self.served / "targets" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for name, data in publication.metadata.items():
            path = self.served / "metadata" / name
            path.with_name(f".{name}").write_bytes(data)
            path.with_name(f".{name}").rename(path)

    def sign(self, wish: Wish) -> None:
        """Publish what an operator wishes."""
        self.publish(apply_wish(self.signed(), wish, key=self.operator, now=int(time.time())).publication)

    def signed(self) -> State:
        """Return what is served, verified as an operator's computer does."""
        store = TrustStore(self.folder / "trust", self._fetch, self._root, self.cluster_id)
        return read_state(store, wanted=None)

    def _fetch(self, name: str, limit: int) -> bytes | None:
        path = self.served / name
        return path.read_bytes()[: limit + 1] if path.exists() else None

    def publish_release(self, *, update: Update | None = None, state: str = "running", **fields: Any) -> int:
        """Sign the next release, whose page says `v<counter>`; return its counter. fields: of the release, over ours."""
        self.counter += 1
        wish: dict[str, Any] = {
            "argv": ("/bin/busybox", "httpd", "-f", "-p", str(APP_PORT), "-h", "/www"),
            "health": Health(readiness=GOOD),
            "stop": Stop(signal="KILL", grace=5000),
            "update": update or Update(bake=100, checks=(GOOD,), drain=500),
            **fields,
        }
        release = Release(
            cluster_id=self.cluster_id,
            service="web",
            epoch=1,
            counter=self.counter,
            signed_at=int(time.time()),
            images=wish.pop("images", None) or {"main": self.make_image(f"v{self.counter}")},
            ports={"http": APP_PORT},
            **wish,
        )
        policies = () if self.policy_version else (self.next_policy(state=state),)
        self.sign(Wish(policies=policies, releases=(release,)))
        return self.counter

    def next_policy(self, *, state: str = "running") -> Policy:
        """Return the next version of the policy of `web`."""
        self.policy_version += 1
        exceptions = ("shell", "package-manager", "compiler", "diagnostic")
        return Policy(
            cluster_id=self.cluster_id,
            service="web",
            version=self.policy_version,
            epoch=1,
            signed_at=int(time.time()),
            state=ServiceState(state),
            placement=Placement(),
            replicas=Replicas(count=1, min=1, max=4),
            limits=self.limits,
            net=NetPolicy(routes=(Route(port=APP_PORT, host=HOST),), ports={"http": APP_PORT}),
            lint_exceptions=tuple(f"{rule}:*" for rule in exceptions),
        )

    def make_image(self, text: str, *, more: bytes = b"") -> ImageRef:
        """Serve an image that answers `text`. more: the content of a file of its own, for its weight."""
        entries = [
            TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755)
            for path in ("bin", "dev", "etc", "proc", "run", "run/secrets", "sys", "tmp", "www")
        ]
        files = {
            "bin/busybox": (Path(busybox()).read_bytes(), 0o755),
            "www/index.html": (text.encode() + b"\n", 0o644),
            **{f"etc/{name}": (b"", 0o644) for name in ("resolv.conf", "hosts", "hostname")},
            **({"more": (more, 0o644)} if more else {}),
        }
        for path, (data, mode) in files.items():
            digest = hashlib.sha256(data).hexdigest()
            (self.served / "objects" / digest).write_bytes(data)
            entries.append(TreeEntry(path=path, type=EntryType.FILE, mode=mode, size=len(data), sha256=digest))
        manifest = TreeManifest(format=1, entries=tuple(sorted(entries, key=lambda one: one.path)))
        data = encode_manifest(manifest)
        ref = refer_to(manifest, data=data)
        (self.served / "objects" / ref.manifest).write_bytes(data)
        return ref

    # commands

    def assign(self, counter: int, *, replicas: int = 1, phase: Phase = Phase.RUN) -> str:
        """Send a controller's assignment; return its nonce."""
        self.seq += 1
        nonce = secrets.token_hex(16)
        wish = Assignment(
            cluster_id=self.cluster_id,
            node_id=self.node_id,
            seq=self.seq,
            assignment_id=secrets.token_hex(16),
            nonce=nonce,
            service="web",
            epoch=1,
            counter=counter,
            replicas=replicas,
            phase=phase,
        )
        self.submit("assignment", sign_statement("assignment", wish, self.controller))
        return nonce

    def order(self, action: Action, *, counter: int = 0, backup: BackupWish | None = None) -> str:
        """Send an operator's order; return its nonce."""
        now, nonce = int(time.time()), secrets.token_hex(16)
        wish = Order(
            cluster_id=self.cluster_id,
            nodes=(self.node_id,),
            service="web",
            action=action,
            nonce=nonce,
            signed_at=now,
            not_after=now + 600,
            backup=backup,
            counter=counter,
        )
        self.submit("order", sign_statement("order", wish, self.operator))
        return nonce

    def submit(self, kind: str, envelope: bytes = b"") -> None:
        """Hand something to the executor; that it dies meanwhile is fine. `submitted` is what was handed in last."""
        self.submitted = envelope
        with contextlib.suppress(NebhError):
            self.ask({"op": "submit", "kind": kind, "source": "controller"}, envelope)

    def destroy(self) -> None:
        """Take everything away."""
        super().destroy()
        shutil.rmtree(self.folder, ignore_errors=True)
