"""Everything the executor's parts share: the journal, the drivers, the clock, the node's voice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from nebh.drivers.backups.base import StoreOpener, no_stores
from nebh.drivers.containers.base import ContainerDriver
from nebh.drivers.dns.base import DnsDriver
from nebh.drivers.ingress.base import IngressDriver
from nebh.drivers.networks.base import NetworkDriver
from nebh.drivers.volumes.base import VolumeDriver
from nebh.executor.agent_link import AgentLink
from nebh.executor.configs import Configs
from nebh.host.clock import Clock
from nebh.host.layout import Layout
from nebh.images.store import NodeStore
from nebh.journal.accepted import Accepted
from nebh.journal.backups import Backups
from nebh.journal.database import Database
from nebh.journal.outbox import Outbox
from nebh.journal.rehearsals import Rehearsals
from nebh.journal.volumes import Volumes
from nebh.journal.work import Work
from nebh.model.certificate import CertificateRow
from nebh.model.errors import Broken, NebhError
from nebh.model.event import Event, Severity
from nebh.model.local import LocalConfig
from nebh.model.policy import Policy
from nebh.model.statement import Outcome, Receipt, Running
from nebh.model.work import InstanceRow, Role, TransactionRow

Sign = Callable[[Receipt], bytes]
UID_FIRST = 0x70000000
UID_SPAN = 65_536


@dataclass(frozen=True, kw_only=True)
class Drivers:
    """The hands."""

    containers: ContainerDriver
    networks: NetworkDriver
    dns: DnsDriver
    ingress: IngressDriver
    volumes: VolumeDriver
    stores: StoreOpener = no_stores


@dataclass(kw_only=True)
class Context:
    """Made once; every part gets it. `changed` is notified, and `news` counts on, at every new receipt or event. Who
    holds `changed` must not touch the database: who writes there may be about to wake. storage: has that of volumes
    ready, or raises; certificates: those of this node's routes; look_at_storage: why it cannot be used, "" = it can;
    storage_warning: (what should be done something about, what helps), as of the last look. errands: set when there is
    something to do with backups; stores_lock: one at a time works with a store of them. at_rest: instances that stand
    still for a snapshot, so that nobody takes them for ill."""

    layout: Layout
    config: LocalConfig
    database: Database
    drivers: Drivers
    store: NodeStore
    clock: Clock
    agent: AgentLink
    sign: Sign
    cgroup_v2: bool
    apparmor: str = ""
    certificates: Callable[[], tuple[CertificateRow, ...]] = tuple
    storage: Callable[[], None] = lambda: None
    look_at_storage: Callable[[], str] = lambda: ""
    storage_warning: Callable[[], tuple[str, str]] = lambda: ("", "")
    accepted: Accepted = field(init=False)
    work: Work = field(init=False)
    outbox: Outbox = field(init=False)
    volumes: Volumes = field(init=False)
    backups: Backups = field(init=False)
    rehearsals: Rehearsals = field(init=False)
    configs: Configs = field(init=False)
    changed: threading.Condition = field(default_factory=threading.Condition)
    news: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    store_lock: threading.RLock = field(default_factory=threading.RLock)
    secrets_lock: threading.RLock = field(default_factory=threading.RLock)
    errands: threading.Event = field(default_factory=threading.Event)
    stores_lock: threading.Lock = field(default_factory=threading.Lock)
    at_rest: set[str] = field(default_factory=set)
    _places: dict[str, threading.RLock] = field(default_factory=dict)
    _places_lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.accepted = Accepted(self.database)
        self.work = Work(self.database)
        self.outbox = Outbox(self.database)
        self.volumes = Volumes(self.database)
        self.backups = Backups(self.database)
        self.rehearsals = Rehearsals(self.database)
        self.configs = Configs(layout=self.layout, agent=self.agent, accepted=self.accepted)

    def place(self, name: str) -> threading.RLock:
        """Return the lock of one instance's place: it is made anew or taken away, never both at once."""
        with self._places_lock:
            return self._places.setdefault(name, threading.RLock())

    def data_lock(self, service: str) -> threading.RLock:
        """Return the lock of one service's data: an update hands it over, or somebody copies it, never both at once."""
        return self.place(f"data/{service}")

    def forget_place(self, name: str) -> None:
        """The instance is gone for good."""
        with self._places_lock:
            self._places.pop(name, None)

    def subnets(self) -> tuple[str, ...]:
        """Return this node's (IPv4, IPv6) subnets from its signed record. Raises Broken before enrolment."""
        mine = self.accepted.meta("node_id")
        nodes = self.accepted.nodes()
        for record in nodes.nodes if nodes else ():
            if record.node_id == mine:
                return record.subnets
        raise Broken("cannot find this node's own record", hint="`nebh up` enrols this machine")

    def policy(self, service: str) -> Policy:
        """Return the accepted policy of a service. Raises Broken when there is none."""
        policy = self.accepted.policy(service)
        if policy is None:
            raise Broken(f"cannot find the accepted policy of {service}")
        return policy

    def policy_of(self, row: InstanceRow) -> Policy:
        """Return the policy that an instance lives under: a new one's is not in effect yet, an old one's no more."""
        if row.role is Role.NEW and self.brings_policy(self.work.transaction(row.txn)):
            return self.policy(row.service)
        if row.role is Role.REHEARSAL:
            return self.policy(row.service)  # what an update to this release would bring
        earlier = self.accepted.fallback(row.service) if row.role is Role.OLD else None
        return earlier or self.effective(row.service)

    def policy_for(self, row: TransactionRow) -> Policy:
        """Return the policy that is in effect after a transaction. Raises Broken when there is none."""
        return self.policy(row.service) if self.brings_policy(row) else self.effective(row.service)

    def brings_policy(self, row: TransactionRow) -> bool:
        """Tell whether a transaction lets the newest policy take effect. One that fell back with its release waits for
        the next deploy: a restart of the old release must not bring the failed one's routes."""
        return row.kind == "deploy" or not self.accepted.has_fallen(row.service)

    def effective(self, service: str) -> Policy:
        """Return the policy in effect. Raises Broken when there is none."""
        policy = self.accepted.effective(service)
        if policy is None:
            raise Broken(f"cannot find the policy of {service} in effect")
        return policy

    def uid_base(self, service: str) -> int:
        """Return the first host user id of a service's range."""
        row = self.work.service(service)
        if row is None:
            raise Broken(f"cannot find the service {service} in the journal")
        return UID_FIRST + UID_SPAN * row.uid_index

    def event(
        self,
        kind: str,
        message: str,
        *,
        severity: Severity = Severity.INFO,
        service: str = "",
        hint: str = "",
        facts: dict[str, str] | None = None,
    ) -> None:
        """Journal an event and wake whoever waits for news."""
        now = self.clock.now_ms()
        source = self.accepted.meta("node_name") or self.config.name

        def make(number: int) -> Event:
            return Event(
                number=number,
                at=now,
                source=source,
                kind=kind,
                severity=severity,
                message=message,
                hint=hint,
                service=service,
                facts=facts or {},
            )

        self.outbox.add_event(make)
        self.database.then(self.wake)

    def tell(
        self,
        kind: str,
        message: str,
        *,
        severity: Severity = Severity.WARNING,
        service: str = "",
        hint: str = "",
        facts: dict[str, str] | None = None,
    ) -> None:
        """As `event`, for whoever must not die of bad news: where the journal cannot be written, a line in the log."""
        try:
            self.event(kind, message, severity=severity, service=service, hint=hint, facts=facts)
        except (NebhError, OSError) as error:
            logging.getLogger(__name__).error("%s (and %s)", message, error)

    def running(self) -> tuple[Running, ...]:
        """Return what runs here, as receipts and status say it."""
        open_now = {row.service: row for row in self.work.open_transactions()}
        instances = self.work.instances()
        return tuple(
            Running(
                service=row.service,
                epoch=row.epoch,
                counter=row.counter,
                replicas=row.replicas,
                ready=sum(1 for one in instances if one.service == row.service and one.role is Role.SERVING),
                transaction=open_now[row.service].state.value if row.service in open_now else "",
                target=open_now[row.service].to_counter if row.service in open_now else 0,
            )
            for row in self.work.services()
            if row.wanted.value != "removed"
        )

    def receipt(
        self,
        outcome: Outcome,
        *,
        nonce: str,
        service: str = "",
        counter: int = 0,
        rule: str = "",
        detail: str = "",
        hint: str = "",
        phases: dict[str, int] | None = None,
    ) -> None:
        """Sign and journal what happened to the command with `nonce`, and wake whoever waits for it."""
        state = self.accepted.state()

        def make(number: int, previous: str) -> bytes:
            return self.sign(
                Receipt(
                    cluster_id=state.cluster_id,
                    node_id=state.node_id,
                    number=number,
                    previous=previous,
                    at=self.clock.now_ms(),
                    nonce=nonce,
                    outcome=outcome,
                    service=service,
                    counter=counter,
                    rule=rule,
                    detail=detail,
                    hint=hint,
                    phases=phases,
                    snapshot=state.sources.get("controller", (0, 0))[0],
                    root=state.roles.get("root", (0, ""))[0],
                    targets=state.roles.get("targets", (0, ""))[0],
                    running=self.running(),
                    audit_head=self.outbox.audit_head(),
                )
            )

        self.outbox.add_receipt(make, nonce=nonce)
        self.database.then(self.wake)

    def receipt_for(self, row: TransactionRow, outcome: Outcome) -> None:
        """Sign and journal what became of a transaction."""
        self.receipt(
            outcome,
            nonce=row.nonce,
            service=row.service,
            counter=row.to_counter,
            rule=row.rule,
            detail=row.reason,
            phases=row.phases,
        )

    def wake(self) -> None:
        """Wake long polls."""
        with self.changed:
            self.news += 1
            self.changed.notify_all()

    def wait_for_news(self, seen: int, *, seconds: float) -> None:
        """Return once `news` is not `seen` any more, the executor stops, or the time is over."""
        with self.changed:
            self.changed.wait_for(lambda: self.news != seen or self.stopping.is_set(), seconds)
