"""A real controller (uvicorn on a unix socket, in a process of its own) with a signed cluster."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nebh.client.api_client import Client, Login
from nebh.client.transport import UnixTransport
from nebh.model.api import Who
from nebh.model.errors import Unreachable
from nebh.model.image import ImageRef
from nebh.model.node import Baseline, NodeRecord
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.service import Limits, Placement, Replicas
from nebh.model.statement import Action, Order, Outcome, Receipt, TransportKey
from nebh.signing.genesis import Genesis, init_cluster
from nebh.signing.repository import Publication, read_state
from nebh.signing.statements import Seed, sign_statement
from nebh.signing.trust_store import TrustStore
from nebh.signing.wish import Wish, apply_wish

CLUSTER = "c" * 32


def run_program(*words: str) -> list[str]:
    return [sys.executable, "-m", "nebh.programs.controller", *words]


def program_env(extra: dict[str, str] | None = None) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **(extra or {})}


@dataclass
class Cloud:
    folder: Path
    operator: Seed = field(default_factory=lambda: Seed(secrets.token_bytes(32)))
    node: Seed = field(default_factory=lambda: Seed(secrets.token_bytes(32)))
    transport: Seed = field(default_factory=lambda: Seed(secrets.token_bytes(32)))
    ci: Seed = field(default_factory=lambda: Seed(secrets.token_bytes(32)))
    controller_key: str = ""
    pin: str = ""
    genesis: Genesis | None = None
    process: subprocess.Popen[bytes] | None = None
    numbers: int = 0

    @property
    def state(self) -> Path:
        return self.folder / "s"

    @property
    def socket(self) -> Path:
        return self.folder / "r" / "controller.sock"

    def init(self) -> None:
        done = subprocess.run(
            run_program("init", "--state", str(self.state)),
            env=program_env(),
            check=True,
            capture_output=True,
            timeout=60,
        )
        answer = json.loads(done.stdout)
        self.controller_key, self.pin = answer["controller_key"], answer["tls_pin"]
        self.genesis = init_cluster(
            name="home",
            operator=self.operator,
            controller=self.controller_key,
            entropy=b"e" * 16,
            cluster_id=CLUSTER,
            now=int(time.time()),
            nodes=(self.record(),),
        )

    def record(self) -> NodeRecord:
        return NodeRecord(
            node_id="1" * 32,
            name="one",
            groups=(),
            sign_pk=self.node.public,
            seal_pk="2" * 64,
            wg_pk="",
            subnets=("10.7.0.0/20",),
            enrolled_at=1,
            baseline=Baseline(snapshot=1),
        )

    def start(self, *more: str, env: dict[str, str] | None = None, inside: tuple[str, ...] = ()) -> None:
        """inside: words that run the program somewhere else, such as in another network."""
        log = (self.folder / "log").open("ab")
        words = ("serve", "--state", str(self.state), "--run", str(self.folder / "r"), *more)
        self.process = subprocess.Popen([*inside, *run_program(*words)], env=program_env(env), stdout=log, stderr=log)
        self.wait_ready()

    def wait_ready(self) -> None:
        end = time.monotonic() + 100
        while True:
            try:
                self.nobody().health()
                return
            except Unreachable:
                assert time.monotonic() < end, (self.folder / "log").read_text()
                assert self.process is None or self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def nobody(self) -> Client:
        return Client(UnixTransport(path=self.socket))

    def as_operator(self, key: Seed | None = None) -> Client:
        key = key or self.operator
        return Client(
            UnixTransport(path=self.socket),
            login=Login(kind=Who.OPERATOR, sign=lambda data: (key.public, key.sign_bytes(data))),
        )

    def as_ci(self, key: Seed | None = None) -> Client:
        key = key or self.ci
        return Client(
            UnixTransport(path=self.socket),
            login=Login(kind=Who.CI, sign=lambda data: (key.public, key.sign_bytes(data))),
        )

    def statement(self, **changes: object) -> bytes:
        made = {
            "cluster_id": CLUSTER,
            "node_id": "1" * 32,
            "transport_pk": self.transport.public,
            "not_after": int(time.time()) + 3600,
            **changes,
        }
        return sign_statement("transport", TransportKey(**made), self.node)  # type: ignore[arg-type]

    def as_node(self, envelope: bytes | None = None) -> Client:
        return Client(
            UnixTransport(path=self.socket),
            login=Login(
                kind=Who.NODE,
                sign=lambda data: (self.transport.public, self.transport.sign_bytes(data)),
                envelope=envelope or self.statement(),
            ),
        )

    def publish(self, publication: Publication, client: Client | None = None) -> None:
        (client or self.as_operator()).publish(
            base=publication.base, metadata=publication.metadata, targets=publication.targets
        )

    def sign(self, wish: Wish, *, key: Seed | None = None, **more: object) -> Publication:
        assert self.genesis is not None
        with tempfile.TemporaryDirectory() as scratch:
            store = TrustStore(Path(scratch), self.nobody().fetch, self.genesis.root, CLUSTER)
            state = read_state(store)
        return apply_wish(state, wish, key=key or self.operator, now=int(time.time()), **more).publication  # type: ignore[arg-type]

    def policy(self, service: str = "web") -> Policy:
        return Policy(
            cluster_id=CLUSTER,
            service=service,
            version=1,
            epoch=1,
            signed_at=int(time.time()),
            state=ServiceState.RUNNING,
            placement=Placement(),
            replicas=Replicas(count=1, min=1, max=3),
            limits=Limits(memory=64 << 20),
            net=NetPolicy(),
        )

    def release(self, counter: int, service: str = "web") -> Release:
        return Release(
            cluster_id=CLUSTER,
            service=service,
            epoch=1,
            counter=counter,
            signed_at=int(time.time()),
            images={"main": ImageRef(manifest="a" * 64, bytes=1, entries=1)},
            argv=("/bin/web",),
        )

    def order(self, signer: Seed | None = None) -> bytes:
        """Return an order to abort what `web` does, by the operator or somebody else."""
        made = Order(
            cluster_id=CLUSTER,
            nodes=("1" * 32,),
            service="web",
            action=Action.ABORT,
            nonce=secrets.token_hex(16),
            signed_at=int(time.time()),
            not_after=int(time.time()) + 600,
        )
        return sign_statement("order", made, signer or self.operator)

    def receipt(
        self, nonce: str, outcome: Outcome, *, signer: Seed | None = None, **changes: object
    ) -> tuple[int, bytes]:
        self.numbers += 1
        made = Receipt(
            cluster_id=CLUSTER,
            node_id="1" * 32,
            number=self.numbers,
            previous="0" * 64,
            at=1,
            nonce=nonce,
            outcome=outcome,
            service="web",
            **changes,  # type: ignore[arg-type]
        )
        return self.numbers, sign_statement("receipt", made, signer or self.node)


@pytest.fixture(scope="module")
def make_cloud() -> Iterator[Callable[[], Cloud]]:
    made: list[Cloud] = []

    def make() -> Cloud:
        cloud = Cloud(folder=Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp")))
        made.append(cloud)
        cloud.init()
        return cloud

    yield make
    for cloud in made:
        if cloud.process is not None and cloud.process.poll() is None:
            cloud.process.kill()
            cloud.process.wait(20)
        shutil.rmtree(cloud.folder)


@pytest.fixture(scope="module")
def cloud(make_cloud) -> Cloud:
    """A running controller with service `web`, which has a CI key, releases 1 and 2, published."""
    made = make_cloud()
    made.start()
    made.publish(made.genesis.publication, made.nobody())
    made.publish(made.sign(Wish(policies=(made.policy(),), releases=(made.release(1),))))
    made.publish(made.sign(Wish(releases=(made.release(2),), ci_keys={"web": (made.ci.public,)})))
    return made


@pytest.fixture
def program():
    """Return the argv of `nebh-controller`; its environment is `program.env`."""

    def argv(*words: str) -> list[str]:
        return run_program(*words)

    argv.env = program_env()
    return argv
