"""Putting the executor together, and bringing reality to what the journal says after a start."""

from __future__ import annotations

import contextlib
import threading
from functools import partial

from nebh.client.frame_channel import FrameServer
from nebh.drivers.containers.apparmor import ensure_profile
from nebh.drivers.containers.crun import CrunContainers, Folders
from nebh.drivers.containers.preflight import preflight
from nebh.drivers.dns.dnsmasq import DnsmasqDns
from nebh.drivers.ingress.haproxy import HaproxyIngress
from nebh.drivers.networks.routed import RoutedNetwork
from nebh.executor.agent_link import AgentLink
from nebh.executor.answers import Answers
from nebh.executor.backup_store import WEIGHT, restic_stores
from nebh.executor.backups import BackupKeeper
from nebh.executor.certificates import CertificateKeeper
from nebh.executor.context import Context, Drivers
from nebh.executor.dataplane import Dataplane
from nebh.executor.door import Door
from nebh.executor.engine import Engine
from nebh.executor.forking import Helpers
from nebh.executor.identity import Identity
from nebh.executor.instances import release_of
from nebh.executor.intake import Intake
from nebh.executor.look import Look
from nebh.executor.rehearser import Rehearser
from nebh.executor.rest import wake_all
from nebh.executor.route_secrets import RouteSecrets
from nebh.executor.scrub import Scrubber
from nebh.executor.secrets import SecretKeeper
from nebh.executor.storage import Storage, open_storage
from nebh.executor.supervise import Supervisor
from nebh.executor.sweep import Sweeper
from nebh.executor.trust import Trust
from nebh.host import cgroups, daemons
from nebh.host.clock import SystemClock
from nebh.host.files import read_bounded
from nebh.host.layout import Layout
from nebh.images.store import NodeStore
from nebh.journal.database import Database
from nebh.model.errors import BadInput, Broken, NebhError
from nebh.model.event import Severity
from nebh.model.instance import Status
from nebh.model.local import LocalConfig
from nebh.model.work import InstanceRow, Role
from nebh.planning.local import boot_order
from nebh.signing.node_keys import ensure_node_keys
from nebh.signing.statements import sign_statement
from nebh.wire import codec

BOOT_PATIENCE = 60.0


def read_config(layout: Layout) -> LocalConfig:
    """Return node.json. Raises BadInput."""
    try:
        data = read_bounded(layout.node_config, limit=64 * 1024)
    except OSError as error:
        raise BadInput(
            f"cannot read {layout.node_config}: {error.strerror or error}", hint="`nebh up` writes it"
        ) from error
    return codec.decode_loose(data, LocalConfig, what=str(layout.node_config))


def assemble(layout: Layout, helpers: Helpers) -> Executor:
    """Build every part around the helpers that were forked before."""
    config = read_config(layout)
    layout.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    layout.executor.mkdir(mode=0o700, parents=True, exist_ok=True)
    networker, launcher = helpers.networker, helpers.launcher
    tree = cgroups.find_tree(config.cgroup_parent)
    tree.prepare()
    ingress_uid, ingress_gid = daemons.user_id(config.ingress_user, "nobody")
    keys = ensure_node_keys(layout.node_key.parent)
    storage = Storage(config.storage, layout)
    apart = partial(tree.enter_service, "backup", weight=WEIGHT)
    context = Context(
        layout=layout,
        config=config,
        database=Database(layout.journal),
        drivers=Drivers(
            containers=CrunContainers(
                folders=Folders(bundles=layout.bundles, logs=layout.logs, run=layout.run),
                cgroups=tree,
                launcher=launcher,
            ),
            networks=RoutedNetwork(networker),
            dns=DnsmasqDns(networker, folder=layout.dns, cgroups=tree.enter_service("dns")),
            ingress=HaproxyIngress(
                state=layout.ingress,
                run=layout.run / "ingress",
                spawn=networker.spawn,
                uid=ingress_uid,
                gid=ingress_gid,
                cgroups=tree.enter_service("ingress"),
                seen_from=networker.pid,
            ),
            volumes=storage.driver,
            stores=restic_stores(layout, launcher=launcher, network=networker.pid, cgroups=apart),
        ),
        store=NodeStore(layout.state),
        clock=SystemClock(),
        agent=AgentLink(layout.agent_socket),
        sign=lambda receipt: sign_statement("receipt", receipt, keys.sign),
        cgroup_v2=tree.v2,
        apparmor=ensure_profile(layout.run),
        storage=storage.ensure,
        look_at_storage=storage.look,
        storage_warning=storage.warning,
    )
    context.agent.mirrors = lambda: _signed_mirrors(context)
    executor = Executor(context)
    executor.identity = Identity(context, keys, enrolled=executor.intake.hint)
    executor.look = Look(
        context,
        trust=executor.trust,
        preflight=lambda: [
            (one.ok, one.sentence, one.remedy) for one in preflight(cgroups=tree, launcher=launcher, tree=layout.trees)
        ],
    )
    return executor


def _signed_mirrors(context: Context) -> tuple[str, ...]:
    settings = context.accepted.settings()
    return settings.mirrors if settings is not None else ()


class Executor:
    """All parts, started and stopped together."""

    identity: Identity
    look: Look

    def __init__(self, context: Context) -> None:
        self.context = context
        self.plane = Dataplane(context)
        self.sweeper = Sweeper(context, self.plane)
        self.supervisor = Supervisor(context, self.plane)
        self.trust = Trust(context)
        self.engine = Engine(
            context, plane=self.plane, sweeper=self.sweeper, supervisor=self.supervisor, trust=self.trust
        )
        self.intake = Intake(context, engine=self.engine, trust=self.trust)
        self.backups = BackupKeeper(context)
        self.certificates = CertificateKeeper(context, self.plane)
        self.plane.changed = self.certificates.wake
        context.certificates = lambda: self.plane.tls.rows(self.plane.policies())
        self.secrets = SecretKeeper(context, at_proxy=RouteSecrets(context, self.certificates))
        self.rehearser = Rehearser(
            context, plane=self.plane, sweeper=self.sweeper, supervisor=self.supervisor, trust=self.trust
        )
        self.intake.orders.rehearse = self.rehearser.order
        self.intake.refreshed = self._refreshed
        self._opening = threading.Lock()
        self._opened = False
        self._server: FrameServer | None = None

    def start(self) -> None:
        """Bring reality to the journal, then open the door. Before enrolment there is nothing to bring."""
        self.context.store.sweep()
        agent_uid, agent_gid = daemons.user_id(self.context.config.agent_user, "nobody")
        answers = Answers(self.context, self.trust, self.identity.sign_answer)
        door = Door(self.context, intake=self.intake, look=self.look, identity=self.identity, answers=answers)
        try:
            self.open()
        finally:
            self._server = door.serve(agent_uid=agent_uid, agent_gid=agent_gid)
        Scrubber(self.context).start()
        self.context.event("executor.started", "the executor is up")

    def open(self) -> None:
        """Once this node's signed record is known: network, names, ingress, instances, transactions."""
        with self._opening:
            if self._opened or not self._has_record():
                return
            open_storage(self.context)
            wake_all(self.context)
            self._retire_orphans()
            self.plane.resting |= self._not_running()
            self.plane.ensure()
            rows = self.context.work.instances()
            self._forget_strangers(rows)
            self.supervisor.start()
            self.supervisor.watch_ingress()
            self.sweeper.sweep(tuple(one.id for one in rows if one.role is Role.LEAVING))
            self.rehearser.start()
            down = self._adopt(rows)
            threading.Thread(target=self._boot, args=(down,), name="boot", daemon=True).start()
            self.engine.recover()
            self.intake.recover()
            self.intake.orders.volumes.recover()
            self.secrets.follow_later()
            self.backups.start()
            self.certificates.start()
            self._opened = True

    def _refreshed(self) -> None:
        self.open()
        self.secrets.follow_later()  # a slow source of boxes must not hold what policies say

    def _retire_orphans(self) -> None:
        """New instances whose transaction has ended were left by a crash: they leave."""
        open_now = {row.id for row in self.context.work.open_transactions()}
        rows = self.context.work.instances()
        self.context.work.set_roles(
            {one.id: Role.LEAVING for one in rows if one.role is Role.NEW and one.txn not in open_now}
        )

    def _not_running(self) -> set[str]:
        """Return the serving instances that get no request until they are started and ready again."""
        observe = self.context.drivers.containers.observe
        rows = [one for one in self.context.work.instances() if one.role is Role.SERVING]
        return {one.id for one in rows if observe(one.id).status is not Status.RUNNING}

    def _has_record(self) -> bool:
        try:
            self.context.subnets()
        except Broken:
            return False
        return True

    def _forget_strangers(self, rows: tuple[InstanceRow, ...]) -> None:
        """Containers and links of ours that the journal does not know were made just before a crash: they go."""
        known = {one.id for one in rows}
        links = {f"nebh{one.address:04x}" for one in rows}
        for name in self.context.drivers.containers.list():
            if name not in known:
                self.context.drivers.containers.delete(name)
        for name in self.context.drivers.networks.links():
            if name not in links:
                self.context.drivers.networks.detach(name)
        self._forget_logs(known)

    def _forget_logs(self, known: set[str]) -> None:
        """A power cut brings back what was removed just before it: logs of instances that the journal has forgotten."""
        work, folder = self.context.work, self.context.layout.logs
        former = {name for service in work.services() for name in work.former(service.service)}
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in known | former:
                self.context.drivers.containers.delete_logs(path.name)

    def _adopt(self, rows: tuple[InstanceRow, ...]) -> tuple[InstanceRow, ...]:
        """Watch what runs; return what should run and does not."""
        down: list[InstanceRow] = []
        for one in rows:
            if one.role is Role.LEAVING:
                continue
            if self.context.drivers.containers.observe(one.id).status is Status.RUNNING:
                self.supervisor.watch(one.id)
            elif one.role in (Role.SERVING, Role.OLD):
                down.append(one)
        return tuple(down)

    def _boot(self, down: tuple[InstanceRow, ...]) -> None:
        """Start what should run, needed services first; a level that is not ready in time does not hold the next."""
        needs = {one.service: release_of(self.context, one).needs for one in down}
        for level in boot_order(needs):
            threads = [
                threading.Thread(target=self._revive, args=(one,), daemon=True) for one in down if one.service in level
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(BOOT_PATIENCE)

    def _revive(self, row: InstanceRow) -> None:
        try:
            self.supervisor.revive(row)
        except (NebhError, OSError) as error:
            self.context.tell(
                "instance.restart-failed",
                f"cannot start {row.id}: {error}",
                severity=Severity.ALARM,
                service=row.service,
                hint="it is tried again",
            )
            self.supervisor.revive_later(row)

    def stop(self) -> None:
        """End the threads and the door; containers, ingress and names run on."""
        self.context.stopping.set()
        self.context.errands.set()
        self.context.wake()
        if self._server is not None:
            self._server.close()
        self.supervisor.stop()
        self.secrets.stop()
        self.certificates.wake()
        self.rehearser.stop()
        self.engine.join(5.0)
        with contextlib.suppress(NebhError):
            self.context.database.checkpoint()
        busy = self.engine.busy() or self.sweeper.busy() or self.intake.orders.volumes.busy()
        if not busy:
            self.context.database.close()  # else whoever still writes may: this process ends in a moment
