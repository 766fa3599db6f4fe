"""What the controller's use cases share: its state, its keys, and the bells that long polls sleep on."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nebh.controller.bell import Bell
from nebh.controller.door import Door
from nebh.controller.identity import Identity
from nebh.controller.repository import Repository, TrustTools
from nebh.images.delta_folder import DeltaFolder
from nebh.images.objects import ObjectFolder
from nebh.model.api import LogReply, LogRequest, RelayedAnswer, RelayedQuestion
from nebh.model.errors import NotFound
from nebh.model.event import Event, Severity
from nebh.model.node import NodeRecord, NodeStatus
from nebh.model.trust import TrustedSet
from nebh.signing.statements import StatementSigner
from nebh.state.database import Database
from nebh.state.events import CONTROLLER, add_event, newest_event
from nebh.state.publications import read_publication

WAIT_LIMIT = 60.0


@dataclass
class LogDesk:
    """Log requests and questions on their way to nodes, by node id, and the futures that wait for the answers."""

    waiting: dict[str, list[LogRequest]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[tuple[str, int], asyncio.Future[LogReply]] = field(default_factory=dict)
    questions: dict[str, list[RelayedQuestion]] = field(default_factory=lambda: defaultdict(list))
    boxes: dict[tuple[str, int], asyncio.Future[RelayedAnswer]] = field(default_factory=dict)
    number: int = 0


class Core:
    """One controller. Used from one event loop; the database is small and called directly."""

    def __init__(
        self,
        *,
        state: Path,
        signer: StatementSigner,
        tools: TrustTools,
        now: Callable[[], int],
        version: str,
    ) -> None:
        """Open the database below `state`, repair what a crash left. Raises Broken."""
        self.state = state
        self.testing_mail = asyncio.Lock()
        self.database = Database(state / "controller.db")
        self.repository = Repository(state)
        self.objects = ObjectFolder(state / "objects")
        self.deltas = DeltaFolder(state / "deltas")
        self.door = Door(state)
        self.identity = Identity(now=now)
        self.signer, self.tools, self.now, self.version = signer, tools, now, version
        self.publishing = asyncio.Lock()
        self.receipts, self.events = Bell(), Bell()
        self.logs = LogDesk()
        self._nodes: dict[str, Bell] = {}
        with self.database.begin() as connection:
            found = read_publication(connection)
        self.trusted: TrustedSet | None = found[0] if found else None
        self.timestamp: bytes = found[1] if found else b""
        self.repository.repair(found[1] if found else None)
        self.objects.sweep()

    def standing(self) -> TrustedSet:
        """Return the published set. Raises NotFound before the first publication."""
        if self.trusted is None:
            raise NotFound(
                "cannot answer: nothing was published here yet", hint="run `nebh init` or `nebh trust renew`"
            )
        return self.trusted

    @property
    def snapshot(self) -> int:
        """Version of the published snapshot, 0 when there is none."""
        return self.trusted.versions["snapshot"] if self.trusted else 0

    def node_name(self, node_id: str) -> str:
        """Return a node's name, its id when the signed list no longer has it."""
        nodes = self.trusted.nodes.nodes if self.trusted else ()
        return next((node.name for node in nodes if node.node_id == node_id), node_id)

    def active_node(self, node_id: str) -> NodeRecord | None:
        """Return the signed record of an active node."""
        nodes = self.trusted.nodes.nodes if self.trusted else ()
        return next((node for node in nodes if node.node_id == node_id and node.status is NodeStatus.ACTIVE), None)

    def node_bell(self, node_id: str) -> Bell:
        """Return the bell that this node's polls sleep on."""
        return self._nodes.setdefault(node_id, Bell())

    def wake_nodes(self) -> None:
        """Wake every node's poll."""
        for bell in self._nodes.values():
            bell.ring()

    def report_event(self, kind: str, severity: Severity, message: str, *, service: str = "", hint: str = "") -> None:
        """Store an event of the controller's own."""
        with self.database.begin() as connection:
            event = Event(
                number=newest_event(connection, node_id=CONTROLLER) + 1,
                at=self.now(),
                source=CONTROLLER,
                kind=kind,
                severity=severity,
                message=message,
                hint=hint,
                service=service,
            )
            add_event(connection, node_id=CONTROLLER, event=event)
        self.events.ring()

    def close(self) -> None:
        """End every long poll, for good."""
        for bell in (self.receipts, self.events, *self._nodes.values()):
            bell.silence()
        for future in self.logs.answers.values():
            future.cancel()
        for box in self.logs.boxes.values():
            box.cancel()
        self.door.close()


async def poll(bell: Bell, seconds: float, look: Callable[[], bool]) -> None:
    """Return once `look` finds something or `seconds` (at most WAIT_LIMIT) have passed, looking after each ring."""
    loop = asyncio.get_running_loop()
    end = loop.time() + min(seconds, WAIT_LIMIT)
    while not look():
        if not await bell.wait(end - loop.time()):
            return
