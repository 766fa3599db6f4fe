"""The executor's engine on drivers in memory: real journal, real store, nothing of the machine."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nebh.drivers.backups.base import no_stores
from nebh.drivers.containers.fake import FakeContainers
from nebh.drivers.dns.fake import FakeDns
from nebh.drivers.ingress.fake import FakeIngress
from nebh.drivers.networks.fake import FakeNetwork
from nebh.drivers.volumes.fake import FakeVolumes
from nebh.executor.assemble import Executor
from nebh.executor.context import Context, Drivers
from nebh.host.clock import SystemClock
from nebh.host.layout import Layout
from nebh.images.manifest import encode_manifest, refer_to
from nebh.images.store import NodeStore
from nebh.journal.database import Database
from nebh.model.errors import NotFound, Refused
from nebh.model.image import EntryType, TreeEntry, TreeManifest
from nebh.model.instance import CheckResult
from nebh.model.local import LocalConfig
from nebh.model.node import Baseline, NodeList, NodeRecord
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.service import Check, CheckKind, Health, Limits, Placement, Replicas, Route, Stop, Update
from nebh.model.statement import Assignment, Outcome, Phase, Receipt
from nebh.model.work import InstanceRow, Role, TransactionRow
from nebh.wire import codec

CLUSTER, NODE = "c" * 32, "d" * 64
SUBNETS = ("10.98.0.0/20", "fd00:98::/64")
GOOD = Check(name="good", kind=CheckKind.HTTP, port=8080, interval=100)


class Agent:
    """Serves objects from a dict; probes fail for `sick` paths, and nobody makes them while it is `away`."""

    def __init__(self) -> None:
        self.bytes: dict[str, bytes] = {}
        self.sick: set[str] = set()
        self.away = False
        self.probes = 0
        self.gate = threading.Event()
        self.gate.set()

    def objects(self, items: tuple[tuple[str, int], ...], take: Any) -> None:
        assert self.gate.wait(30)
        for digest, size in items:
            if digest not in self.bytes:
                raise NotFound(f"cannot find object {digest[:12]}")
            take(digest, size, iter((self.bytes[digest],)))

    def probe(self, check: Check, address: str) -> CheckResult:
        self.probes += 1
        if self.away:
            return CheckResult(ok=False, detail="the agent is away", made=False)
        return CheckResult(ok=check.path not in self.sick, detail=f"{check.path} at {address}")


class Bench:
    """An executor without a machine. `web` is the service."""

    def __init__(self, folder: Path, **policy: Any) -> None:
        self.folder = folder
        self.agent = Agent()
        self.receipts: list[Receipt] = []
        self.refuse = ""
        self.containers, self.networks, self.dns, self.ingress = (
            FakeContainers(),
            FakeNetwork(),
            FakeDns(),
            FakeIngress(),
        )
        self.volumes = FakeVolumes(folder / "volumes")
        self.stores = no_stores
        self.nonces = 0
        self.executor = self._executor()
        database = self.executor.context.database
        record = NodeRecord(
            node_id=NODE,
            name="one",
            groups=(),
            sign_pk="1" * 64,
            seal_pk="2" * 64,
            wg_pk="",
            subnets=SUBNETS,
            enrolled_at=1,
            baseline=Baseline(snapshot=1),
        )
        for key, value in (("cluster_id", CLUSTER), ("node_id", NODE), ("node_name", "one")):
            self.accepted.set_meta(key, value)
        nodes = codec.encode(NodeList(cluster_id=CLUSTER, nodes=(record,)))
        database.write("INSERT INTO documents VALUES ('nodes', 1, ?)", nodes)
        self.set_policy(**policy)
        self.executor.open()

    def _executor(self) -> Executor:
        layout = Layout(state=self.folder / "s", run=self.folder / "r")
        layout.executor.mkdir(parents=True, exist_ok=True)
        context = Context(
            layout=layout,
            config=LocalConfig(name="one", reserve=0),
            database=Database(layout.journal),
            drivers=Drivers(
                containers=self.containers,
                networks=self.networks,
                dns=self.dns,
                ingress=self.ingress,
                volumes=self.volumes,
                stores=self._open_store,
            ),
            store=NodeStore(layout.state),
            clock=SystemClock(),
            agent=self.agent,  # type: ignore[arg-type]
            sign=self._sign,
            cgroup_v2=True,
            storage=self.volumes.open,
        )
        executor = Executor(context)
        executor.trust.accept = self._accept  # type: ignore[method-assign]
        executor.trust.check_image = lambda *_: None  # type: ignore[method-assign]
        executor.trust.refresh = lambda *_: None  # type: ignore[method-assign]
        return executor

    def _open_store(self, wish: Any) -> Any:
        return self.stores(wish)

    def _sign(self, receipt: Receipt) -> bytes:
        self.receipts.append(receipt)
        return codec.encode(receipt)

    def _accept(self, row: TransactionRow) -> None:
        if self.refuse:
            raise Refused("no", rule=self.refuse)

    # the parts

    @property
    def context(self) -> Context:
        return self.executor.context

    @property
    def accepted(self) -> Any:
        return self.context.accepted

    @property
    def work(self) -> Any:
        return self.context.work

    # what there is

    def set_policy(self, **fields: Any) -> None:
        policy = Policy(
            cluster_id=CLUSTER,
            service="web",
            version=1,
            epoch=1,
            signed_at=1,
            state=ServiceState.RUNNING,
            placement=Placement(),
            replicas=Replicas(count=1, min=1, max=8),
            limits=Limits(memory=64 << 20),
            net=NetPolicy(routes=(Route(port=8080, host="web.test"),), ports={"http": 8080}),
        )
        policy = replace(policy, **fields)
        self.context.database.write(
            "INSERT OR REPLACE INTO documents VALUES ('policy/web', ?, ?)", policy.version, codec.encode(policy)
        )

    def add_release(self, counter: int, *, fetchable: bool = True, **fields: Any) -> Release:
        """Have release `counter` accepted; its image holds its number."""
        data = f"v{counter}".encode()
        digest = hashlib.sha256(data).hexdigest()
        entries = [
            TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755) for path in ("dev", "etc", "proc", "sys", "tmp")
        ]
        entries += [
            TreeEntry(path=f"etc/{name}", type=EntryType.FILE, mode=0o644, sha256=hashlib.sha256(b"").hexdigest())
            for name in ("resolv.conf", "hosts", "hostname")
        ]
        entries.append(TreeEntry(path="app", type=EntryType.FILE, mode=0o755, size=len(data), sha256=digest))
        manifest = TreeManifest(format=1, entries=tuple(sorted(entries, key=lambda one: one.path)))
        body = encode_manifest(manifest)
        ref = refer_to(manifest, data=body)
        if fetchable:
            self.agent.bytes |= {digest: data, ref.manifest: body, hashlib.sha256(b"").hexdigest(): b""}
        release = Release(
            cluster_id=CLUSTER,
            service="web",
            epoch=1,
            counter=counter,
            signed_at=1,
            images={"main": ref},
            argv=("/bin/sh", "-c", "sleep 1"),
            ports={"http": 8080},
            health=Health(readiness=GOOD),
            stop=Stop(signal="KILL", grace=100),
            update=Update(bake=150, checks=(GOOD,), drain=100),
        )
        release = replace(release, **fields)
        self.accepted.add_release(release, digest="e" * 64, now=self.context.clock.now_ms())
        return release

    # acting

    def assign(self, counter: int, *, replicas: int = 1, phase: Phase = Phase.RUN) -> str:
        """What the intake does with an assignment whose signature is fine."""
        self.nonces += 1
        nonce = f"{self.nonces:032x}"
        wish = Assignment(
            cluster_id=CLUSTER,
            node_id=NODE,
            seq=self.nonces,
            assignment_id=nonce,
            nonce=nonce,
            service="web",
            epoch=1,
            counter=counter,
            replicas=replicas,
            phase=phase,
        )
        with self.executor.intake.lock:
            self.executor.intake._act(wish)
        return nonce

    def deploy(self, counter: int, **fields: Any) -> None:
        """Add and run a release, to its commit."""
        self.add_release(counter, **fields)
        nonce = self.assign(counter)
        self.settle()
        assert self.outcome(nonce) is Outcome.COMMITTED, self.events()

    def restart(self, *, reboot: bool = False, patience: float = 10) -> None:
        """Leave this executor as a SIGKILL would and start another on the same journal."""
        self.executor.context.stopping.set()
        self.executor.supervisor.stop()
        self.executor.engine.join(patience)
        self.executor.context.database.close()
        if reboot:
            self.containers, self.networks, self.dns, self.ingress = (
                FakeContainers(),
                FakeNetwork(),
                FakeDns(),
                FakeIngress(),
            )
        self.executor = self._executor()
        self.executor.open()

    # looking

    def until(self, is_so: Callable[[], bool], *, patience: float = 30.0) -> None:
        end = time.monotonic() + patience
        while not is_so():
            assert time.monotonic() < end, "\n".join(self.events()[-30:])
            time.sleep(0.01)

    def settle(self) -> None:
        """Wait until nothing is under way."""
        for _ in range(2):
            self.until(
                lambda: not self.work.open_transactions() and all(r.role is Role.SERVING for r in self.work.instances())
            )
            time.sleep(0.02)

    def until_state(self, *states: str) -> TransactionRow:
        """Wait until the open transaction is in one of `states`."""
        self.until(lambda: any(row.state.value in states for row in self.work.open_transactions()))
        row: TransactionRow = self.work.open_transaction("web")
        return row

    def serving(self) -> tuple[InstanceRow, ...]:
        return tuple(one for one in self.work.instances("web") if one.role is Role.SERVING)

    def counters(self) -> list[int]:
        return [one.counter for one in self.serving()]

    def outcomes(self, nonce: str) -> list[Outcome]:
        return [one.outcome for one in self.receipts if one.nonce == nonce]

    def outcome(self, nonce: str) -> Outcome:
        return self.outcomes(nonce)[-1]

    def events(self) -> list[str]:
        return [f"{one.kind}: {one.message}" for one in self.context.outbox.events_after(0, limit=500)]

    def close(self) -> None:
        self.executor.stop()


@pytest.fixture
def new_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**policy: Any) -> Bench:
        made.append(Bench(tmp_path / f"b{len(made)}", **policy))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(new_bench: Callable[..., Bench]) -> Bench:
    return new_bench()
