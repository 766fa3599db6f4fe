"""A new cluster: its first root, settings and recovery words."""

from __future__ import annotations

from dataclasses import dataclass

from tuf.api._payload import Root, Targets

from nebh.model.node import NodeList, NodeRecord, Settings
from nebh.signing import roles, words
from nebh.signing.repository import Draft, Publication
from nebh.signing.statements import StatementSigner
from nebh.signing.trusted_set import NODES, SETTINGS
from nebh.wire import codec


@dataclass(frozen=True, kw_only=True, repr=False)
class Genesis:
    """A new cluster. root: the bytes to pin; words: to be shown once and stored nowhere."""

    cluster_id: str
    root: bytes
    words: str
    publication: Publication

    def __repr__(self) -> str:
        return f"Genesis(cluster_id={self.cluster_id!r})"


def init_cluster(
    *,
    name: str,
    operator: StatementSigner,
    controller: str,
    entropy: bytes,
    cluster_id: str,
    now: int,
    nodes: tuple[NodeRecord, ...] = (),
    settings: Settings | None = None,
) -> Genesis:
    """Return a new cluster's first publication.

    controller: hex key that renews the timestamp and signs assignments; entropy: 16 random bytes behind the words;
    cluster_id: 32 random hex digits; now: Unix seconds; settings: instead of the default ones.
    """
    recovery = words.root_key(entropy)
    root = Root(consistent_snapshot=True)
    roles.set_keys(root, "root", (recovery.public,))
    roles.set_keys(root, "targets", (operator.public,))
    roles.set_keys(root, "snapshot", (operator.public,))
    roles.set_keys(root, "timestamp", (controller, operator.public))
    draft = Draft(cluster_id=cluster_id, root=root, targets=Targets(), base=None, now=now)
    draft.touched |= {"root", "targets"}
    chosen = settings or Settings(cluster_id=cluster_id, name=name, controller_keys=(controller,))
    draft.put(SETTINGS, codec.encode(chosen))
    draft.put(NODES, codec.encode(NodeList(cluster_id=cluster_id, nodes=nodes)))
    publication = draft.finish(operator, root_signers=(recovery,))
    return Genesis(
        cluster_id=cluster_id,
        root=publication.metadata["1.root.json"],
        words=words.to_words(entropy),
        publication=publication,
    )
