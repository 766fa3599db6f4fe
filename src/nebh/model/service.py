"""What an operator writes about a service: the parsed form of a service spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from nebh.model.backup import BackupRule
from nebh.model.config_layer import ConfigSpec, FileSource
from nebh.model.rehearsal import RehearsalRule
from nebh.model.secret import SecretWish
from nebh.model.volume import DataRules, Hook, OnFailureData, VolumeBound, VolumeMount


class SourceKind(StrEnum):
    """Where an image comes from."""

    DIRECTORY = "dir"
    TAR = "tar"
    OCI_LAYOUT = "oci-layout"
    DOCKER_ARCHIVE = "docker-archive"
    REGISTRY = "registry"
    DOOR = "door"
    MANIFEST = "manifest"
    BUILD = "build"


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """An image to import: `location` is a path (made absolute by the parser), a registry reference, `name:tag` at the
    controller's registry door, or a digest. For BUILD it is the path of a declaration: built, then used by its digest."""

    kind: SourceKind
    location: str


class CheckKind(StrEnum):
    """How a check looks."""

    HTTP = "http"
    TCP = "tcp"
    EXEC = "exec"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One look at an instance. `port` is a port number of the service (0 for exec); times in ms.

    http: GET `path` with `host` header; passes when the status is in `statuses` and the body contains `contains`.
    tcp: connects. exec: runs `argv`, whose first word is an absolute path inside the image; passes on exit 0.
    """

    name: str
    kind: CheckKind
    port: int = 0
    path: str = "/"
    host: str = ""
    statuses: tuple[int, ...] = (200,)
    contains: str = ""
    argv: tuple[str, ...] = ()
    interval: int = 1000
    timeout: int = 1000
    failures: int = 3


@dataclass(frozen=True, kw_only=True)
class Health:
    """startup: must pass once before the others count, within `startup_timeout` ms; readiness: gets traffic only
    while it passes; liveness: restarted when it fails `failures` times in a row."""

    startup: Check | None = None
    readiness: Check | None = None
    liveness: Check | None = None
    startup_timeout: int = 60_000


class OnFailure(StrEnum):
    """What a node does when the checks of a new release fail before its commit."""

    ROLLBACK = "rollback"
    HOLD = "hold"


@dataclass(frozen=True, kw_only=True)
class Update:
    """How a node moves from one release to the next; times in ms. together: services with the same word move together
    where one change of config renews them all."""

    bake: int = 10_000
    checks: tuple[Check, ...] = ()
    overlap: bool = True
    on_failure: OnFailure = OnFailure.ROLLBACK
    drain: int = 30_000
    max_error_percent: int = 100
    together: str = ""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """How an instance is asked to end: signal name without SIG, then SIGKILL after `grace` ms."""

    signal: str = "TERM"
    grace: int = 10_000


LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"


@dataclass(frozen=True, kw_only=True)
class Acme:
    """Whom the node asks for a certificate. directory: URL; email: for the authority's account, "" = none; ca: path on
    the node of PEM authorities that the directory and its certificates are checked by, "" = the system's."""

    directory: str = LETS_ENCRYPT
    email: str = ""
    ca: str = ""


@dataclass(frozen=True, kw_only=True)
class RouteTls:
    """Where a host's certificate chain and key come from, one of three. cert and key: PEM files on the node; secret: the
    name of a secret of the service that holds both as PEM; acme: the node makes the key and gets the certificate."""

    cert: str = ""
    key: str = ""
    secret: str = ""
    acme: Acme | None = None

    @property
    def is_file(self) -> bool:
        """Whether they are files on the node; else the executor gives them to the proxy in memory."""
        return not self.secret and self.acme is None


@dataclass(frozen=True, kw_only=True)
class Route:
    """A public name. HTTP: `host` ("" = any) and `path` prefix. TCP: `tcp_port` on the node (0 = HTTP route).
    `port`: the service's port number it leads to."""

    port: int
    host: str = ""
    path: str = "/"
    tcp_port: int = 0
    tls: RouteTls | None = None


@dataclass(frozen=True, kw_only=True)
class Connect:
    """This service may open connections to `service` on its TCP port `port`."""

    service: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Egress:
    """This service may reach `cidr` (IPv4 or IPv6) on `port` (0 = any) over `protocol` tcp | udp.
    `cidr` "dns" opens the node's resolver for public names (port and protocol are then ignored)."""

    cidr: str
    port: int = 0
    protocol: str = "tcp"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """memory, log, shm, tmp, image_bytes in bytes (log: all files together); cpu in thousandths of a core (0 = no
    cap); pids and image_entries counts; disk in bytes (writable data, 0 = none)."""

    memory: int
    cpu: int = 0
    pids: int = 256
    disk: int = 0
    log: int = 40 * 1024 * 1024
    shm: int = 8 * 1024 * 1024
    tmp: int = 16 * 1024 * 1024
    image_bytes: int = 4 * 1024**3
    image_entries: int = 200_000


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """min <= count <= max. `count` is the wish of the spec; min and max are the policy's bounds."""

    count: int = 1
    min: int = 1
    max: int = 1


class PlacementMode(StrEnum):
    """spread: anywhere in the placement, the controller may move it. pinned: stays until its policy says so."""

    SPREAD = "spread"
    PINNED = "pinned"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Nodes allowed to run the service: union of groups and node names; both empty = every node."""

    groups: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    mode: PlacementMode = PlacementMode.SPREAD
    max_per_node: int = 8


@dataclass(frozen=True, kw_only=True)
class PolicyExtras:
    """The fields of a spec's `policy:` part that stand nowhere else in it. rollback_window in ms."""

    lint_exceptions: tuple[str, ...] = ()
    checks_required: bool = True
    pins: tuple[int, ...] = ()
    min_release: int = 0
    rollback_window: int = 7 * 86_400_000
    on_failure_data: OnFailureData = OnFailureData.AUTO
    cgroup_view: bool = False
    tmp_exec: bool = False


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """A service spec file, whole. `ports` maps names to numbers; `needs` orders starting after a reboot."""

    name: str
    image: ImageSource
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    user: int = 10001
    ports: dict[str, int] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    connects: tuple[Connect, ...] = ()
    egress: tuple[Egress, ...] = ()
    needs: tuple[str, ...] = ()
    limits: Limits
    volumes: tuple[VolumeBound, ...] = ()
    mounts: tuple[VolumeMount, ...] = ()
    data: DataRules = field(default_factory=DataRules)
    hooks: tuple[Hook, ...] = ()
    rehearse: RehearsalRule | None = None
    health: Health = field(default_factory=Health)
    stop: Stop = field(default_factory=Stop)
    update: Update = field(default_factory=Update)
    retention: int = 3
    replicas: Replicas = field(default_factory=Replicas)
    placement: Placement = field(default_factory=Placement)
    policy: PolicyExtras = field(default_factory=PolicyExtras)
    secrets: tuple[SecretWish, ...] = ()
    backup: BackupRule | None = None
    config: ConfigSpec = field(default_factory=ConfigSpec)
    files: tuple[FileSource, ...] = ()
