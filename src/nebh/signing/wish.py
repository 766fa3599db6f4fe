"""A wish on a verified state: the files it makes, and what they change (O2). Composing policies and releases from a
spec is `planning/release`; here they are checked against what is signed already, listed and signed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nebh.model.config_layer import ConfigLayer
from nebh.model.errors import BadInput, Conflict, NotFound
from nebh.model.names import check_name
from nebh.model.node import NodeList, NodeRecord, Settings
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.secret import SecretList
from nebh.signing import roles
from nebh.signing.difference import Difference, View, compare
from nebh.signing.layers import put_layers
from nebh.signing.repository import Draft, Publication, State
from nebh.signing.secret_lists import drop_secrets, put_secrets
from nebh.signing.statements import StatementSigner
from nebh.signing.trusted_set import NODES, SETTINGS, policy_path, release_path
from nebh.wire import codec


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a command wants signed, and nothing else.

    policies: new or next versions; releases: new ones; delist, relist: (service, counter), the latter needs its bytes
    in `releases`; nodes: added, or replacing the one with the same node_id; remove: services that go for good;
    ci_keys: by service the hex keys that may sign its releases beside the operators' (() = operators only);
    secrets: lists of sealed boxes, new or next; what a policy no longer names is taken away by itself;
    fresh_roles: services whose releases are signed under a new role name from now on, after a stolen key; layers: the
    next version of layers of configuration.
    """

    policies: tuple[Policy, ...] = ()
    releases: tuple[Release, ...] = ()
    delist: tuple[tuple[str, int], ...] = ()
    relist: tuple[tuple[str, int], ...] = ()
    nodes: tuple[NodeRecord, ...] = ()
    settings: Settings | None = None
    remove: tuple[str, ...] = ()
    ci_keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fresh_roles: tuple[str, ...] = ()
    secrets: tuple[SecretList, ...] = ()
    layers: tuple[ConfigLayer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A wish come true: what to publish, and what it changes."""

    publication: Publication
    difference: Difference


def apply_wish(state: State, wish: Wish, *, key: StatementSigner, now: int, renew: bool = True) -> Signed:
    """Return the publication that adds exactly `wish` to `state`, signed by `key`. now: Unix seconds.

    With `renew`, roles past half of their life that this key may sign are renewed along. A CI key's publication holds
    its release role only. Raises BadInput, Conflict (number or name is taken), NotFound, Refused (O2: not this key's).
    """
    draft = Draft.of(state, now=now)
    _put_settings(draft, state, wish)
    _put_nodes(draft, state, wish)
    put_layers(draft, wish.layers)
    for policy in wish.policies:
        _put_policy(draft, state, policy)
    put_secrets(draft, state, wish.secrets, policies=wish.policies, nodes=wish.nodes)
    for service, publics in wish.ci_keys.items():
        _delegate(draft, service, publics, fresh=service in wish.fresh_roles)
    for service, counter in wish.delist:
        _delist(draft, service, counter)
    for release in wish.releases:
        _put_release(draft, state, wish, release)
    for service in wish.remove:
        _remove(draft, service)
    if renew:
        draft.touch_stale(key)
    return Signed(publication=draft.finish(key), difference=compare(view_of(state), view_of_draft(draft, state)))


def view_of(state: State) -> View:
    """Return a state as one side of a comparison."""
    return view_of_draft(Draft.of(state, now=0), state)


def view_of_draft(draft: Draft, state: State | None) -> View:
    """Return a draft as one side of a comparison."""
    files = {**(state.files if state else {}), **draft.contents}
    return View(root=draft.root, targets=draft.targets, releases=dict(draft.releases), files=files)


def policies_of(state: State) -> dict[str, Policy]:
    """Return the signed policies by service."""
    return dict(state.trusted.policies)


def listed_counters(state: State, service: str) -> tuple[int, ...]:
    """Return the numbers of the releases that are listed now, rising."""
    return _counters(Draft.of(state, now=0), service)


def first_epoch(state: State, service: str) -> int:
    """Return the epoch that a service without a policy begins with: above every one it had before it was removed, so
    that nodes, which keep the floors of removed services, take its numbers from 1 again."""
    return Draft.of(state, now=0).former_roles(service) + 1


def _check_cluster(draft: Draft, cluster_id: str, what: str) -> None:
    if cluster_id != draft.cluster_id:
        raise BadInput(f"cannot sign {what}: it is of cluster {cluster_id!r}, this is {draft.cluster_id!r}")


def _put_settings(draft: Draft, state: State, wish: Wish) -> None:
    if wish.settings is None:
        return
    _check_cluster(draft, wish.settings.cluster_id, "the settings")
    if not wish.settings.controller_keys and state.trusted.settings.controller_keys:
        raise BadInput("cannot sign the settings: no controller would be left", hint="name at least one controller key")
    draft.put(SETTINGS, codec.encode(wish.settings))


def _put_nodes(draft: Draft, state: State, wish: Wish) -> None:
    if not wish.nodes:
        return
    records = {one.node_id: one for one in state.trusted.nodes.nodes}
    records.update((one.node_id, one) for one in wish.nodes)
    for what in ("name", "sign_pk", "seal_pk", "wg_pk", "subnets"):
        owners: dict[object, NodeRecord] = {}
        for one in records.values():
            owner = owners.setdefault(getattr(one, what) or one.node_id, one)
            if owner is not one:
                raise Conflict(f"cannot sign node {one.name}: its {what} is that of node {owner.name}")
    for one in wish.nodes:
        check_name(one.name, what="node")
    ordered = tuple(sorted(records.values(), key=lambda one: one.node_id))
    draft.put(NODES, codec.encode(NodeList(cluster_id=draft.cluster_id, nodes=ordered)))


def _put_policy(draft: Draft, state: State, policy: Policy) -> None:
    service = check_name(policy.service, what="service")
    _check_cluster(draft, policy.cluster_id, f"the policy of {service}")
    old = state.trusted.policies.get(service)
    if old == policy:
        return
    if old is not None and policy.version != old.version + 1:
        raise Conflict(
            f"cannot sign the policy of {service}: version {policy.version} does not follow {old.version}",
            hint="the policy changed meanwhile; run the command again",
        )
    if old is not None and policy.epoch < old.epoch:
        raise BadInput(f"cannot sign the policy of {service}: epoch {policy.epoch} is behind {old.epoch}")
    draft.put(policy_path(service), codec.encode(policy))
    role = draft.release_role(service)
    if not role:
        role = draft.delegate(service, _operators(draft))
    if old is not None and policy.epoch > old.epoch:
        for counter in _counters(draft, service):
            # Their numbers begin again: what was listed under them can no longer be chosen (N5).
            draft.drop(release_path(service, counter), role=role)


def _operators(draft: Draft) -> tuple[str, ...]:
    return roles.keys_of(draft.root, "targets")


def _delegate(draft: Draft, service: str, publics: tuple[str, ...], *, fresh: bool) -> None:
    if not draft.release_role(service):
        raise NotFound(f"cannot set the release keys of {service}: no such service")
    # The operators' keys stay: they sign the role file once more whenever its keys change.
    draft.delegate(service, tuple(dict.fromkeys((*_operators(draft), *publics))), fresh=fresh)


def _counters(draft: Draft, service: str) -> tuple[int, ...]:
    body = draft.releases.get(draft.release_role(service))
    names = [path.rpartition("/")[2].removesuffix(".json") for path in body.targets] if body else []
    return tuple(sorted(int(name) for name in names if name.isdigit()))


def _delist(draft: Draft, service: str, counter: int) -> None:
    if counter not in _counters(draft, service):
        raise NotFound(f"cannot delist release {counter} of {service}: it is not listed")
    draft.drop(release_path(service, counter), role=draft.release_role(service))


def _put_release(draft: Draft, state: State, wish: Wish, release: Release) -> None:
    name = f"release {release.counter} of {release.service}"
    _check_cluster(draft, release.cluster_id, name)
    policy = next((one for one in wish.policies if one.service == release.service), None)
    policy = policy or state.trusted.policies.get(release.service)
    if policy is None or not draft.release_role(release.service):
        raise NotFound(f"cannot sign {name}: no policy of that service is signed", hint="an operator deploys it first")
    if release.epoch != policy.epoch or release.policy_min_version > policy.version or release.counter < 1:
        raise BadInput(f"cannot sign {name}: it does not fit policy version {policy.version}, epoch {policy.epoch}")
    counters = _counters(draft, release.service)
    path, data = release_path(release.service, release.counter), codec.encode(release)
    role = draft.release_role(release.service)
    if release.counter in counters:
        if draft.releases[role].targets[path] == roles.target_file(path, data):
            return
        raise Conflict(f"cannot sign {name}: that number stands for another release", hint="run the command again")
    again = (release.service, release.counter) in wish.relist
    if counters and release.counter < counters[-1] and not again:
        raise Conflict(f"cannot sign {name}: {counters[-1]} is listed already", hint="run the command again")
    draft.put(path, data, role=role)


def _remove(draft: Draft, service: str) -> None:
    if policy_path(service) not in draft.targets.targets:
        raise NotFound(f"cannot remove {service}: no such service")
    draft.drop(policy_path(service))
    drop_secrets(draft, service)
    draft.undelegate(service)


def complete(publication: Publication, state: State, *, key: StatementSigner, now: int) -> Publication:
    """Return a CI key's publication with the snapshot and timestamp that a controller in CI mode signs (`key`).

    The caller verifies the result (`repository.overlay`). Raises Refused (O2) when the key may not sign the snapshot.
    """
    draft = Draft.of(state, now=now)
    roles.check_may_sign(draft.root, draft.targets, "snapshot", key.public)
    made = draft.adopt(publication.metadata).finish(key)
    return replace(publication, metadata={**publication.metadata, **made.metadata})
