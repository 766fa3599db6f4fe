"""Signed lists of sealed boxes, checked against what is signed already before they are listed."""

from __future__ import annotations

from collections.abc import Iterable

from nebh.model.errors import BadInput, Conflict, NotFound
from nebh.model.names import check_name
from nebh.model.node import NodeRecord, NodeStatus
from nebh.model.policy import Policy
from nebh.model.secret import SecretList, key_of
from nebh.signing.repository import Draft, State
from nebh.signing.trusted_set import secret_path
from nebh.wire import codec


def put_secrets(
    draft: Draft,
    state: State,
    lists: Iterable[SecretList],
    *,
    policies: Iterable[Policy],
    nodes: Iterable[NodeRecord],
) -> None:
    """List these, and take away the lists of secrets that the `policies` being signed no longer name.

    Raises BadInput for a list that fits no policy or names a node that is none, Conflict for one that does not follow
    the signed one.
    """
    signing = {one.service: one for one in policies}
    records = {one.node_id: one for one in (*state.trusted.nodes.nodes, *nodes)}
    for key, old in state.trusted.secrets.items():
        policy = signing.get(old.service)
        if policy is not None and old.name not in policy.secrets:
            draft.drop(secret_path(*key.split("/")))
    for listed in lists:
        policy = signing.get(listed.service) or state.trusted.policies.get(listed.service)
        _check(draft, listed, policy, records)
        _check_follows(listed, state.trusted.secrets.get(key_of(listed.service, listed.name)))
        draft.put(secret_path(listed.service, listed.name), codec.encode(listed))


def drop_secrets(draft: Draft, service: str) -> None:
    """List no secret of a service any longer."""
    for path in [path for path in draft.targets.targets if path.startswith(f"secrets/{service}/")]:
        draft.drop(path)


def _check(draft: Draft, listed: SecretList, policy: Policy | None, records: dict[str, NodeRecord]) -> None:
    key = key_of(check_name(listed.service, what="service"), check_name(listed.name, what="secret"))
    if listed.cluster_id != draft.cluster_id:
        raise BadInput(f"cannot sign the secret {key}: it is of cluster {listed.cluster_id!r}")
    if policy is None:
        raise NotFound(f"cannot sign the secret {key}: no policy of that service is signed", hint="deploy it first")
    if listed.name not in policy.secrets:
        raise BadInput(
            f"cannot sign the secret {key}: the policy of {listed.service} does not name it",
            hint=f"write it under `secrets:` in its spec and deploy, or `nebh secret set {key}` keeps it until then",
        )
    for node_id in listed.boxes:
        record = records.get(node_id)
        if record is None or record.status is not NodeStatus.ACTIVE:
            raise BadInput(f"cannot sign the secret {key}: {node_id[:16]!r} is no active node of this cluster")


def _check_follows(listed: SecretList, old: SecretList | None) -> None:
    key = key_of(listed.service, listed.name)
    if old is None or listed == old:
        return
    if listed.version < old.version:
        raise Conflict(
            f"cannot sign the secret {key}: version {listed.version} is behind the signed {old.version}",
            hint="it was changed meanwhile; run the command again",
        )
    changed = [node for node, box in listed.boxes.items() if old.boxes.get(node, box) != box]
    if listed.version == old.version and changed:
        raise Conflict(f"cannot sign the secret {key}: version {old.version} has another box for {changed[0][:16]}")
