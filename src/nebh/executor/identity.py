"""Who this node is: its keys, its cluster, the agent's transport key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nebh.executor.context import Context
from nebh.host.files import write_atomic
from nebh.model.errors import BadInput, Conflict
from nebh.model.names import check_name, is_digest
from nebh.model.question import Answer
from nebh.model.statement import TransportKey
from nebh.signing.node_keys import NodeKeys
from nebh.signing.statements import sign_statement

TRANSPORT_SECONDS = 30 * 86_400
ROOT_LIMIT = 512 * 1024


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `nebh up` reads to make the node's record. Keys are hex."""

    sign_pk: str
    seal_pk: str
    cluster_id: str
    node_id: str
    name: str


class Identity:
    """The node's keys live here and nowhere else; they sign only what this program composed."""

    def __init__(self, context: Context, keys: NodeKeys, *, enrolled: Callable[[], None]) -> None:
        self._context = context
        self._keys = keys
        self._enrolled = enrolled

    def describe(self) -> Description:
        """Return the public half."""
        meta = self._context.accepted.meta
        return Description(
            sign_pk=self._keys.sign.public,
            seal_pk=self._keys.seal_pk,
            cluster_id=meta("cluster_id"),
            node_id=meta("node_id"),
            name=meta("node_name") or self._context.config.name,
        )

    def enrol(self, *, cluster_id: str, node_id: str, name: str, root: bytes) -> None:
        """Pin a cluster's root. A node belongs to one cluster for good. Raises BadInput, Conflict."""
        accepted = self._context.accepted
        known = accepted.meta("cluster_id")
        if known and known != cluster_id:
            raise Conflict(
                f"this node belongs to cluster {known}", hint="`nebh down --purge` on it frees it for another"
            )
        check_name(name, what="node")
        if not cluster_id or not node_id or not 0 < len(root) <= ROOT_LIMIT:
            raise BadInput("cannot enrol this node: cluster_id, node_id or the root is missing")
        if not is_digest(node_id):
            raise BadInput(f"cannot enrol this node as {node_id[:80]!r}: a node id is 64 hex digits")
        with self._context.database.atomically():
            if not known:
                write_atomic(self._context.layout.pinned_root, root, mode=0o600)
            for key, value in (("cluster_id", cluster_id), ("node_id", node_id), ("node_name", name)):
                accepted.set_meta(key, value)
        self._enrolled()

    def sign_answer(self, answer: Answer) -> bytes:
        """Return the node's word on its data."""
        return sign_statement("answer", answer, self._keys.sign)

    def sign_transport(self, public: str) -> bytes:
        """Return the statement that lets the agent speak for this node to controllers. Raises BadInput."""
        if not is_digest(public):
            raise BadInput("cannot name that transport key: it is not 64 hex digits")
        state = self._context.accepted
        return sign_statement(
            "transport",
            TransportKey(
                cluster_id=state.meta("cluster_id"),
                node_id=state.meta("node_id"),
                transport_pk=public,
                not_after=self._context.clock.now_ms() // 1000 + TRANSPORT_SECONDS,
            ),
            self._keys.sign,
        )
