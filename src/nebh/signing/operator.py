"""The operator's own computer: one folder per cluster with its pinned root, floors, key and address.

<base>/<name>/ 0700: cluster.json, root.json (pinned), floors.json, operator.key, trust/ (python-tuf's)

Lean: `nebh status` needs the folder and the key, not python-tuf; what verifies is imported when it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nebh.host import files
from nebh.model.errors import BadInput, Broken, NotFound
from nebh.model.names import check_name
from nebh.wire import codec

if TYPE_CHECKING:
    from nebh.signing.floors import Floors
    from nebh.signing.repository import Publication, State
    from nebh.signing.trust_store import Fetch, TrustStore

CLUSTER, ROOT, FLOORS, KEY, TRUST = "cluster.json", "root.json", "floors.json", "operator.key", "trust"
_LIMIT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """cluster.json. controller: how to reach it (a unix socket path, https://..., ssh://root@host); key: a path,
    relative to the folder, or `ssh-agent:<hex public key>`; options: whatever the CLI remembers."""

    cluster_id: str
    name: str
    controller: str
    key: str = KEY
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClusterFolder:
    """One cluster on this computer."""

    path: Path
    cluster: Cluster
    root: bytes

    @property
    def key(self) -> str:
        """What `keys.open_key` takes."""
        text = self.cluster.key
        return text if text.startswith("ssh-agent:") else str(self.path / text)

    def floors(self) -> Floors:
        """Return this computer's floors. Raises Broken when the file is damaged: never started afresh in silence."""
        from nebh.signing.floors import Floors

        try:
            data = files.read_bounded(self.path / FLOORS, limit=_LIMIT)
            return codec.decode(data, Floors, what=str(self.path / FLOORS))
        except (OSError, BadInput) as error:
            raise Broken(
                f"cannot read the floors {self.path / FLOORS}: {error}",
                hint="take them from `nebh trust show` on another computer: `nebh trust floors --from FILE`",
            ) from error

    def save_floors(self, floors: Floors) -> None:
        """Replace the floors."""
        files.write_atomic(self.path / FLOORS, codec.encode(floors), mode=0o600)

    def store(self, fetch: Fetch, *, accept_expired: bool = False) -> TrustStore:
        """Return the TrustStore of this cluster on this computer."""
        from nebh.signing.trust_store import TrustStore

        return TrustStore(self.path / TRUST, fetch, self.root, self.cluster.cluster_id, accept_expired=accept_expired)

    def read(self, fetch: Fetch, *, accept_expired: bool = False, wanted: tuple[str, ...] | None = ()) -> State:
        """Return the verified state, not older than what this computer saw (O1), and remember it.

        Raises Refused (N0, N1, N2, O1), Unreachable; nothing is remembered then.
        """
        from nebh.signing.floors import check_floors, raise_floors
        from nebh.signing.repository import read_state

        state = read_state(self.store(fetch, accept_expired=accept_expired), wanted=wanted)
        floors = self.floors()
        check_floors(state.trusted, floors)
        raised = raise_floors(floors, state.trusted)
        if raised != floors:
            self.save_floors(raised)
        return state

    def published(self, publication: Publication) -> None:
        """Remember what this key signed, once the controller took it."""
        from nebh.signing.floors import raise_floors_by

        self.save_floors(raise_floors_by(self.floors(), publication))


def create_folder(base: Path, *, cluster: Cluster, root: bytes, floors: Floors | None = None) -> ClusterFolder:
    """Make the folder of a new cluster. Raises BadInput when there is one of that name. The key is saved apart."""
    from nebh.signing.floors import Floors

    path = base / check_name(cluster.name, what="cloud")
    if (path / CLUSTER).exists():
        raise BadInput(f"cannot create {path}: there is a cloud of that name", hint="choose another --name")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    files.write_atomic(path / ROOT, root, mode=0o600)
    folder = ClusterFolder(path=path, cluster=cluster, root=root)
    folder.save_floors(floors or Floors(cluster_id=cluster.cluster_id))
    save_cluster(path, cluster)
    return folder


def save_cluster(path: Path, cluster: Cluster) -> None:
    """Replace cluster.json."""
    files.write_atomic(path / CLUSTER, codec.encode(cluster), mode=0o600)


def list_clusters(base: Path) -> tuple[str, ...]:
    """Return the names of the clusters on this computer, sorted."""
    if not base.is_dir():
        return ()
    return tuple(sorted(path.parent.name for path in base.glob(f"*/{CLUSTER}")))


def load_cluster(base: Path, name: str = "") -> ClusterFolder:
    """Return a cluster by name; "" = the only one. Raises NotFound, BadInput (several), Broken."""
    names = list_clusters(base)
    if not name:
        if len(names) != 1:
            known = f"{len(names)} clouds are known here: {', '.join(names)}" if names else "no cloud is known here"
            kind = BadInput if names else NotFound
            raise kind(f"cannot choose a cloud: {known}", hint="--cloud NAME" if names else "`nebh init` makes one")
        name = names[0]
    if name not in names:
        raise NotFound(f"cannot find the cloud {name!r} in {base}", hint=f"known: {', '.join(names) or 'none'}")
    path = base / name
    try:
        cluster = codec.decode(files.read_bounded(path / CLUSTER, limit=_LIMIT), Cluster, what=str(path / CLUSTER))
        root = files.read_bounded(path / ROOT, limit=_LIMIT)
    except (OSError, BadInput) as error:
        raise Broken(f"cannot read the cloud {name}: {error}") from error
    return ClusterFolder(path=path, cluster=cluster, root=root)
