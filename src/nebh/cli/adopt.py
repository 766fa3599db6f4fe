"""A cloud on a computer that did not know it: its root is trusted because the recovery words signed it."""

from __future__ import annotations

import json

from nebh.cli.session import Session, config_base
from nebh.client.api_client import Client
from nebh.model.errors import NotFound, Refused
from nebh.signing.floors import Floors
from nebh.signing.operator import Cluster, create_folder
from nebh.signing.statements import Seed, keyid_of

_ROOT_LIMIT, _ROOTS = 1 << 20, 1000


def adopt_cloud(session: Session, *, name: str, controller: str, pin: str, recovery: Seed) -> None:
    """Make the folder of a cloud from what its controller serves, pinned at the oldest root that names the recovery
    key. Raises NotFound, Refused, BadInput."""
    place = getattr(session.options, "at", "")
    address = controller or (f"ssh://{place}" if place else "unix:/run/nebh/controller/controller.sock")
    cluster = Cluster(cluster_id="", name=name, controller=address, options={"pins": pin} if pin else {})
    root = _find_root(Client(session.transport_to(cluster)), recovery)
    cluster_id = str(json.loads(root)["signed"].get("cluster_id", ""))
    known = Cluster(cluster_id=cluster_id, name=name, controller=address, options=cluster.options)
    session.use_folder(create_folder(config_base(), cluster=known, root=root, floors=Floors(cluster_id=cluster_id)))


def _find_root(client: Client, recovery: Seed) -> bytes:
    """Return the oldest root that the recovery key is a key of and that it signed."""
    for version in range(1, _ROOTS):
        data = client.metadata(f"{version}.root.json", limit=_ROOT_LIMIT)
        if data is None:
            break
        if _is_signed_by(data, recovery):
            return data
    if version == 1:
        raise NotFound("cannot recover: this controller serves no cloud", hint="is the address right?")
    raise Refused(
        "cannot recover: these recovery words are not those of the cloud that this controller serves",
        rule="O2",
        hint="are they another cloud's?",
    )


def _is_signed_by(data: bytes, recovery: Seed) -> bool:
    from securesystemslib.exceptions import UnverifiedSignatureError
    from tuf.api._payload import Root
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata

    keyid = keyid_of(recovery.public)
    try:
        root = Metadata[Root].from_bytes(data)
        if keyid not in root.signed.roles["root"].keyids:
            return False
        # This very key, not whoever else the file calls a root key: nothing else makes the file trustworthy.
        root.signed.keys[keyid].verify_signature(root.signatures[keyid], root.signed_bytes)
    except (RepositoryError, UnverifiedSignatureError, ValueError, KeyError, AttributeError):
        return False
    return True
