"""A cloud without a machine: a real controller on a unix socket, and a node that only polls, answers and signs."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nebh.cli.main import main
from nebh.client.api_client import Client, Login
from nebh.client.transport import UnixTransport
from nebh.model import api
from nebh.model.certificate import CertificateRow
from nebh.model.errors import NebhError
from nebh.model.event import Event, Severity
from nebh.model.node import Baseline, NodeRecord
from nebh.model.secret import SecretList, rotation_nonce
from nebh.model.statement import Action, Assignment, Order, Outcome, Phase, Receipt, Running, TransportKey
from nebh.signing.keys import load_key
from nebh.signing.operator import load_cluster
from nebh.signing.seal import public_of
from nebh.signing.statements import Seed, peek_statement, sign_statement
from nebh.signing.wish import Wish, apply_wish
from nebh.wire import codec

NODE_ID = "1" * 32


@dataclass
class StandIn:
    """A node. behaviour of the next run: commit, refuse, back, wait (until an order ends it), mute. broken: services
    whose releases above a number are prepared, and roll back when they run."""

    socket: Path
    cluster_id: str
    sign: Seed = field(default_factory=lambda: Seed(secrets.token_bytes(32)))
    transport: Seed = field(default_factory=lambda: Seed(secrets.token_bytes(32)))
    seal: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    versions: dict[str, int] = field(default_factory=dict)
    behaviour: str = "commit"
    number: int = 0
    events: int = 0
    seq: int = 0
    order: int = 0
    snapshot: int = 0
    running: dict[str, Running] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    certificates: tuple[CertificateRow, ...] = ()
    waiting: Assignment | None = None
    took: list[Assignment | Order] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def record(self) -> NodeRecord:
        return NodeRecord(
            node_id=NODE_ID,
            name="one",
            groups=(),
            sign_pk=self.sign.public,
            seal_pk=public_of(self.seal),
            wg_pk="",
            subnets=("10.7.0.0/20",),
            enrolled_at=1,
            baseline=Baseline(snapshot=1),
        )

    def client(self) -> Client:
        key = TransportKey(
            cluster_id=self.cluster_id,
            node_id=NODE_ID,
            transport_pk=self.transport.public,
            not_after=int(time.time()) + 3600,
        )
        login = Login(
            kind=api.Who.NODE,
            sign=lambda data: (self.transport.public, self.transport.sign_bytes(data)),
            envelope=sign_statement("transport", key, self.sign),
        )
        return Client(UnixTransport(path=self.socket), login=login)

    def loop(self) -> None:
        client = self.client()
        client.report(api.ReportRequest(status=self.status()))
        while not self.ended.is_set():
            try:
                have = api.PollRequest(snapshot=self.snapshot, seq=self.seq, order=self.order, wait=1000)
                answer = client.poll(have)
                fresh, self.snapshot = answer.snapshot != self.snapshot, answer.snapshot
                if fresh:
                    self.rotate(client)
                for text in answer.assignments:
                    self.assignment(client, peek_statement(base64.b64decode(text), "assignment", Assignment))
                for one in answer.orders:
                    self.order = one.order
                    self.obey(client, peek_statement(base64.b64decode(one.envelope), "order", Order))
                for request in answer.requests:
                    line = api.LogLine(instance="web-1-0-1", time="t", stream="stdout", text="hello \x1b[31m")
                    lines = () if request.cursors else (line,)
                    reply = api.LogReply(id=request.id, lines=lines, cursors={"web-1-0-1": "9"})
                    client.report(api.ReportRequest(logs=(reply,)))
            except NebhError:
                self.ended.wait(0.1)

    def rotate(self, client: Client) -> None:
        """Confirm new versions of secrets of what runs here; unverified: what a node verifies has its own tests."""
        body = json.loads(client.metadata("timestamp.json", limit=1 << 20) or b"{}")["signed"]["meta"]
        name = f"{body['snapshot.json']['version']}.snapshot.json"
        body = json.loads(client.metadata(name, limit=1 << 20) or b"{}")["signed"]["meta"]
        name = f"{body['targets.json']['version']}.targets.json"
        for path, info in json.loads(client.metadata(name, limit=1 << 20) or b"{}")["signed"]["targets"].items():
            if path.startswith("secrets/"):
                folder, _, file = path.rpartition("/")
                data = client.target(f"{folder}/{info['hashes']['sha256']}.{file}", limit=1 << 20) or b""
                listed = codec.decode(data, SecretList, what=path)
                known = self.versions.get(path, 0)
                self.versions[path] = listed.version
                if known < listed.version and listed.service in self.running and self.behaviour != "mute":
                    self.say(client, rotation_nonce(listed), Outcome.ROTATED, listed.service, 0)

    def status(self) -> api.NodeReport:
        return api.NodeReport(
            seq=self.seq,
            snapshot=1,
            running=tuple(self.running.values()),
            version="0.1.0",
            certificates=self.certificates,
        )

    def say(self, client: Client, nonce: str, outcome: Outcome, service: str, counter: int, **more: object) -> None:
        self.number += 1
        receipt = Receipt(
            cluster_id=self.cluster_id,
            node_id=NODE_ID,
            number=self.number,
            previous="0" * 64,
            at=int(time.time() * 1000),
            nonce=nonce,
            outcome=outcome,
            service=service,
            counter=counter,
            **{"snapshot": self.snapshot, **more},  # type: ignore[arg-type]
        )
        envelope = base64.b64encode(sign_statement("receipt", receipt, self.sign)).decode()
        self.events += 1
        event = Event(
            number=self.events,
            at=receipt.at,
            source="one",
            kind="transaction",
            severity=Severity.INFO if outcome in (Outcome.ACCEPTED, Outcome.COMMITTED) else Severity.WARNING,
            message=f"{service}: {outcome.value} \x1b[2J",
            service=service,
        )
        client.report(
            api.ReportRequest(
                receipts=(api.NumberedReceipt(number=self.number, envelope=envelope),),
                events=(event,),
                status=self.status(),
            )
        )

    def assignment(self, client: Client, wish: Assignment) -> None:
        self.took.append(wish)
        self.seq = wish.seq
        old = self.running.get(wish.service, Running(service=wish.service, epoch=1, counter=0, replicas=0, ready=0))
        words = (wish.nonce, wish.service, wish.counter)
        if self.waiting is not None and self.behaviour != "mute":
            self.say(client, self.waiting.nonce, Outcome.ROLLED_BACK, wish.service, self.waiting.counter)
            self.waiting = None
        if self.behaviour == "mute":
            return None
        if wish.phase is Phase.WITHDRAW:
            self.set(wish, counter=old.counter, replicas=0)
            return self.say(client, words[0], Outcome.STOPPED, words[1], words[2])
        if self.behaviour in ("wait", "refuse", "back"):
            behaviour, self.behaviour = self.behaviour, "commit"
            if behaviour == "refuse":
                more = {"rule": "N5.floor", "detail": "below the floor \x1b]0;x\x07", "hint": "pin it"}
                return self.say(client, words[0], Outcome.REFUSED, words[1], words[2], **more)
            if behaviour == "back":
                return self.say(client, words[0], Outcome.ROLLED_BACK, words[1], words[2], detail="check failed")
            self.waiting = wish
            self.running[wish.service] = Running(
                service=wish.service,
                epoch=wish.epoch,
                counter=old.counter,
                replicas=old.replicas,
                ready=old.ready,
                transaction="CHECKING",
                target=wish.counter,
            )
            return self.say(client, words[0], Outcome.ACCEPTED, words[1], words[2])
        if wish.phase is Phase.PREPARE:
            return self.say(client, words[0], Outcome.PREPARED, words[1], words[2])
        if wish.counter > self.broken.get(wish.service, wish.counter):
            return self.say(client, words[0], Outcome.ROLLED_BACK, words[1], words[2], detail="check failed")
        self.set(wish, counter=wish.counter, replicas=wish.replicas)
        return self.say(client, words[0], Outcome.COMMITTED, words[1], words[2], phases={"starting": 3})

    def set(self, wish: Assignment, *, counter: int, replicas: int) -> None:
        self.running[wish.service] = Running(
            service=wish.service, epoch=wish.epoch, counter=counter, replicas=replicas, ready=replicas
        )

    def obey(self, client: Client, order: Order) -> None:
        self.took.append(order)
        if order.action is Action.REMOVE:
            self.running.pop(order.service, None)
            return self.say(client, order.nonce, Outcome.REMOVED, order.service, 0)
        held, self.waiting = self.waiting, None
        self.say(client, order.nonce, Outcome.ACCEPTED, order.service, 0)
        assert held is not None
        if order.action is Action.RESUME:
            self.set(held, counter=held.counter, replicas=held.replicas)
            return self.say(client, held.nonce, Outcome.COMMITTED, order.service, held.counter)
        old = self.running[order.service]
        self.set(held, counter=old.counter, replicas=old.replicas)
        return self.say(client, held.nonce, Outcome.ROLLED_BACK, order.service, held.counter, detail="aborted")


@dataclass
class Rig:
    """A founded cloud in a short folder; `run` is the command line."""

    folder: Path
    capture: pytest.CaptureFixture[str] | None = None
    node: StandIn | None = None
    process: subprocess.Popen[bytes] | None = None
    controller_key: str = ""

    @property
    def socket(self) -> Path:
        return self.folder / "r" / "controller.sock"

    @property
    def words(self) -> str:
        return str(self.folder / "words")

    def run(self, *argv: str) -> tuple[int, str, str]:
        """Return (exit status, standard output, standard error) of `nebh argv`."""
        assert self.capture is not None
        self.capture.readouterr()
        try:
            status = main(list(argv))
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = self.capture.readouterr()
        return status, out, err

    def good(self, *argv: str) -> str:
        status, out, err = self.run(*argv)
        assert status == 0, (argv, out, err)
        return out

    def data(self, *argv: str) -> dict:
        return json.loads(self.good(*argv, "--json"))

    def spec(self, version: str, *, more: str = "", name: str = "web") -> str:
        root = self.folder / f"image-{name}-{version}"
        (root / "app").mkdir(parents=True, exist_ok=True)
        (root / "app" / "server").write_text(f"#!{version}")
        (root / "app" / "server").chmod(0o755)
        for path in (root, root / "app"):
            path.chmod(0o755)
        file = self.folder / f"{name}.yaml"
        file.write_text(
            f"name: {name}\nimage: {{dir: {root}}}\nargv: [/app/server]\nports: {{http: 8080}}\n"
            f"limits: {{memory: 64M}}\nhealth: {{readiness: {{tcp: {{port: http}}}}}}\n{more}"
        )
        return str(file)

    def start_controller(self) -> None:
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        program = [sys.executable, "-m", "nebh.programs.controller"]
        state = str(self.folder / "s")
        done = subprocess.run(
            [*program, "init", "--state", state], env=env, check=True, capture_output=True, timeout=60
        )
        self.controller_key = json.loads(done.stdout)["controller_key"]
        log = (self.folder / "log").open("ab")
        words = ["serve", "--state", state, "--run", str(self.folder / "r")]
        self.process = subprocess.Popen([*program, *words], env=env, stdout=log, stderr=log)
        end = time.monotonic() + 40
        while True:
            try:
                Client(UnixTransport(path=self.socket)).health()
                return
            except NebhError:
                assert time.monotonic() < end, (self.folder / "log").read_text()
                time.sleep(0.05)

    def found(self) -> None:
        argv = ["init", "home", "--controller-key", self.controller_key, "--controller", f"unix:{self.socket}"]
        assert main([*argv, "--words-file", self.words, "--quiet"]) == 0
        folder = load_cluster(self.folder / "config")
        self.node = StandIn(self.socket, folder.cluster.cluster_id)
        operator = load_key(Path(folder.key))
        login = Login(kind=api.Who.OPERATOR, sign=lambda data: (operator.public, operator.sign_bytes(data)))
        client = Client(UnixTransport(path=self.socket), login=login)
        state = folder.read(client.fetch)
        made = apply_wish(state, Wish(nodes=(self.node.record(),)), key=operator, now=int(time.time())).publication
        client.publish(base=made.base, metadata=made.metadata, targets=made.targets)
        folder.published(made)
        threading.Thread(target=self.node.loop, daemon=True).start()


@pytest.fixture(scope="module")
def founded() -> Iterator[Rig]:
    rig = Rig(folder=Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp")))
    kept = {name: os.environ.get(name) for name in ("NEBH_CONFIG", "NEBH_CACHE", "NEBH_CLOUD", "NEBH_AT")}
    os.environ.update(NEBH_CONFIG=str(rig.folder / "config"), NEBH_CACHE=str(rig.folder / "cache"))
    for name in ("NEBH_CLOUD", "NEBH_AT"):
        os.environ.pop(name, None)
    try:
        rig.start_controller()
        rig.found()
        yield rig
    finally:
        if rig.node is not None:
            rig.node.ended.set()
        if rig.process is not None:
            rig.process.send_signal(signal.SIGTERM)
            rig.process.wait(20)
        for name, value in kept.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        shutil.rmtree(rig.folder)


@pytest.fixture
def rig(founded: Rig, capsys: pytest.CaptureFixture[str]) -> Rig:
    founded.capture = capsys
    assert founded.node is not None
    founded.node.behaviour = "commit"
    founded.node.took.clear()
    return founded
