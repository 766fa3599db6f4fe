"""What travels between the controller and its callers, and between agent and executor: closed shapes.

Bytes travel as standard base64 in fields called `envelope`, and in values of `metadata` and `targets`. Times are Unix
ms unless said otherwise. A `cursor` is opaque to the caller but orders what it was given with: ask for what comes after.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from nebh.model.event import Event
from nebh.model.image import ImageRef
from nebh.model.statement import Phase, Running
from nebh.model.work import InstanceRow


class Who(StrEnum):
    """Who calls: proven by signing the controller's nonce. Everybody is also nobody."""

    NOBODY = "nobody"
    NODE = "node"
    OPERATOR = "operator"


@dataclass(frozen=True, kw_only=True)
class Health:
    """The controller answers. snapshot: version of the published set, 0 = nothing was published yet."""

    version: str
    cluster_id: str
    snapshot: int
    now: int


@dataclass(frozen=True, kw_only=True)
class Nonce:
    """To be signed (`wire.challenge`) within a minute."""

    nonce: str


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """kind: node or operator. key: hex Ed25519 public key. signature: hex. envelope: for a node, the node-signed
    `transport` statement that names the key."""

    kind: Who
    key: str
    nonce: str
    signature: str
    envelope: str = ""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A bearer token. name: the node's name, or the beginning of the operator's key."""

    token: str
    expires_at: int
    kind: Who
    name: str


@dataclass(frozen=True, kw_only=True)
class PublishRequest:
    """Compare-and-swap: `base` holds the versions built upon by role ({} = first publication; the timestamp's does not
    count). metadata: new files by their name, such as `7.targets.json`; targets: by their path below targets/, hash
    prefix included. The controller signs `timestamp.json` itself when it is left out or was overtaken."""

    base: dict[str, int]
    metadata: dict[str, str]
    targets: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Published:
    """The set that stands now: versions by role."""

    snapshot: int
    versions: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Digests:
    """Hex SHA-256 of plain bytes, at most 10,000."""

    digests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How many objects of an upload were new, and how many bytes they hold."""

    objects: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class DeploymentRequest:
    """Ask for a release to run (or prepare, restart, withdraw). replicas: over all nodes. supersede: take the place of
    an open deployment (rollback, abort)."""

    counter: int
    epoch: int
    replicas: int
    phase: Phase
    nonce: str
    supersede: bool = False


class DeploymentState(StrEnum):
    """open: receipts are awaited. superseded: another took its place. The rest: as the nodes' receipts say."""

    OPEN = "open"
    DONE = "done"
    ROLLED_BACK = "rolled-back"
    REFUSED = "refused"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A request that became assignments. by: beginning of the operator's key. nodes: name -> newest outcome for this
    nonce, "" while none. reasons: why the scheduler chose so."""

    id: int
    service: str
    epoch: int
    counter: int
    replicas: int
    phase: Phase
    nonce: str
    at: int
    by: str
    state: DeploymentState
    ended_at: int = 0
    nodes: dict[str, str] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Signed:
    """One signed envelope, untouched: canonical bytes in base64."""

    envelope: str


@dataclass(frozen=True, kw_only=True)
class Relayed:
    """An order was stored for these nodes (names)."""

    order: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Events:
    """Events after the cursor asked for; ask again with `cursor`."""

    cursor: int
    events: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True)
class NodeReceipt:
    """A node's signed receipt, untouched. The caller verifies it; nothing else here is signed."""

    cursor: int
    node_id: str
    node: str
    envelope: str


@dataclass(frozen=True, kw_only=True)
class Receipts:
    """Receipts after the cursor asked for; ask again with `cursor`."""

    cursor: int
    receipts: tuple[NodeReceipt, ...]


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """Something that was asked of the controller. what: published, deployed, ordered, ended."""

    cursor: int
    at: int
    by: str
    what: str
    service: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class History:
    """Newest first; ask for older ones with `before` = cursor of the last."""

    entries: tuple[HistoryEntry, ...]


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node says of itself, unsigned (its receipts are signed). seq: newest assignment its executor took;
    snapshot: version of the set it accepted from the controller; version: of its programs."""

    seq: int = 0
    snapshot: int = 0
    running: tuple[Running, ...] = ()
    instances: tuple[InstanceRow, ...] = ()
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """A node of the signed list with what it last reported; last_seen 0 = never."""

    node_id: str
    name: str
    groups: tuple[str, ...]
    status: str
    last_seen: int
    connected: bool
    report: NodeReport | None = None


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """All nodes, by name."""

    nodes: tuple[NodeView, ...]


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A service on one node, as the node reported it."""

    node: str
    running: Running


@dataclass(frozen=True, kw_only=True)
class ServiceView:
    """A service that has a policy. releases: counters listed now. deployment: the newest one."""

    service: str
    state: str
    epoch: int
    policy_version: int
    releases: tuple[int, ...]
    allocations: tuple[Allocation, ...]
    deployment: Deployment | None = None


@dataclass(frozen=True, kw_only=True)
class Services:
    """All services, by name."""

    services: tuple[ServiceView, ...]


@dataclass(frozen=True, kw_only=True)
class ReleaseView:
    """A listed release in short. signed_at: Unix seconds. outcome: how its newest deployment through this controller
    stands, "" = there was none; committed_at: Unix ms when nodes last committed it, 0 = not known to."""

    epoch: int
    counter: int
    signed_at: int
    images: dict[str, ImageRef]
    built_from: dict[str, str]
    outcome: str = ""
    committed_at: int = 0


@dataclass(frozen=True, kw_only=True)
class Releases:
    """Newest first."""

    releases: tuple[ReleaseView, ...]


@dataclass(frozen=True, kw_only=True)
class Status:
    """The cloud at a glance. expires: Unix seconds by role."""

    cluster_id: str
    name: str
    version: str
    now: int
    snapshot: int
    versions: dict[str, int]
    expires: dict[str, int]
    nodes: tuple[NodeView, ...]
    services: tuple[ServiceView, ...]


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line that a container wrote. time: as the runtime noted it; stream: stdout or stderr."""

    instance: str
    time: str
    stream: str
    text: str


@dataclass(frozen=True, kw_only=True)
class LogPage:
    """Log lines as the node gave them. cursor: opaque text to ask on with; lost: lines fell out of the log before."""

    cursor: str
    lines: tuple[LogLine, ...]
    lost: bool = False


@dataclass(frozen=True, kw_only=True)
class LogRequest:
    """Log lines wanted from a node. instance "" = all of the service; cursors: by instance; tail: without a cursor,
    begin that many lines before the end."""

    id: int
    service: str
    instance: str
    cursors: dict[str, str]
    limit: int
    tail: int = 0


@dataclass(frozen=True, kw_only=True)
class LogReply:
    """Answer to the LogRequest of the same id; error: message, "" when it worked."""

    id: int
    lines: tuple[LogLine, ...] = ()
    cursors: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class PollRequest:
    """A node's long poll: what it has. wait: ms."""

    snapshot: int
    seq: int
    order: int
    wait: int = 30_000


@dataclass(frozen=True, kw_only=True)
class NumberedOrder:
    """An order to relay; `order` is the controller's number for it."""

    order: int
    envelope: str


@dataclass(frozen=True, kw_only=True)
class PollAnswer:
    """Signed envelopes to hand to the executor, the snapshot version published now, and log requests."""

    assignments: tuple[str, ...]
    orders: tuple[NumberedOrder, ...]
    snapshot: int
    requests: tuple[LogRequest, ...]


@dataclass(frozen=True, kw_only=True)
class NumberedReceipt:
    """A receipt with its number (the executor's)."""

    number: int
    envelope: str


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """What a node has to say. Empty is allowed: the answer then tells where to begin."""

    receipts: tuple[NumberedReceipt, ...] = ()
    events: tuple[Event, ...] = ()
    status: NodeReport | None = None
    logs: tuple[LogReply, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportAnswer:
    """Numbers of the newest receipt and event that are stored for this node."""

    receipt: int
    event: int
