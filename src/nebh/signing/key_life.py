"""Keys and roles over time: what `nebh key list | add | revoke | rotate | recover` and `nebh trust show | renew` do.

Whatever changes who an operator or a controller is changes root, so it needs the recovery words; running services
never notice: nodes go on with what they accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nebh.model.errors import BadInput, NotFound, Refused
from nebh.signing import roles, words
from nebh.signing.difference import compare
from nebh.signing.keys import short
from nebh.signing.repository import Draft, State
from nebh.signing.statements import Seed, StatementSigner, keyid_of
from nebh.signing.trusted_set import SETTINGS, service_of
from nebh.signing.wish import Signed, Wish, apply_wish, view_of, view_of_draft
from nebh.wire import codec


@dataclass(frozen=True, kw_only=True)
class KeyLine:
    """One key: hex public key, its eight-digit name, and the roles it may sign."""

    public: str
    name: str
    kind: str
    roles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RoleLine:
    """One role as it stands: expires_at in Unix seconds; keys: eight-digit names; digest: hex SHA-256."""

    role: str
    version: int
    digest: str
    expires_at: int
    threshold: int
    keys: tuple[str, ...]


def list_keys(state: State) -> tuple[KeyLine, ...]:
    """Return every key; kind: recovery | operator | controller | ci."""
    held: dict[str, list[str]] = {}
    for line in _holders(state):
        for public in line[2]:
            held.setdefault(public, []).append(line[0])
    controllers = state.trusted.settings.controller_keys
    for public in controllers:
        held.setdefault(public, []).append("assignments")
    lines = [
        KeyLine(public=public, name=short(public), kind=_kind(names), roles=tuple(names))
        for public, names in held.items()
    ]
    return tuple(sorted(lines, key=lambda line: (line.kind, line.public)))


def show_trust(state: State) -> tuple[RoleLine, ...]:
    """Return every role with its version, digest and keys: also the floors to give a new computer (O1)."""
    trusted = state.trusted
    return tuple(
        RoleLine(
            role=role,
            version=trusted.versions.get(role, 0),
            digest=trusted.digests.get(role, ""),
            expires_at=trusted.expires.get(role, 0),
            threshold=threshold,
            keys=tuple(short(public) for public in publics),
        )
        for role, threshold, publics in _holders(state)
    )


def renew(state: State, *, key: StatementSigner, now: int, recovery_words: str = "") -> Signed:
    """Sign every role this key may sign anew, expired or not; with the words root too. Read the state with
    accept_expired. Raises Refused (O2) when the key may sign nothing."""
    draft = Draft.of(state, now=now)
    names = ("targets", *draft.releases)
    draft.touched |= {role for role in names if draft.may_sign(role, key)}
    signers: tuple[StatementSigner, ...] = ()
    if recovery_words:
        signers = (_recovery(state, recovery_words),)
        draft.touched.add("root")
    if not draft.touched and not draft.may_sign("snapshot", key):
        raise Refused(f"cannot renew anything: the key {short(key.public)} signs no role", rule="O2")
    return _signed(state, draft, key, root_signers=signers)


def set_operators(
    state: State, *, recovery_words: str, publics: tuple[str, ...], key: StatementSigner, now: int
) -> Signed:
    """Make `publics` the only operator keys; `key` is one of them and signs everything operators sign anew.

    Key add, revoke, rotate and recover are this with other lists. CI keys keep their services.
    """
    if key.public not in publics:
        raise BadInput(f"cannot change the operator keys: the key {short(key.public)} is not one of the new ones")
    recovery = _recovery(state, recovery_words)
    draft = Draft.of(state, now=now)
    old = set(roles.keys_of(draft.root, "targets"))
    for role in ("targets", "snapshot", "timestamp"):
        others = [public for public in roles.keys_of(draft.root, role) if public not in old]
        threshold = 1 if role != "targets" else min(draft.root.roles["targets"].threshold, len(publics))
        roles.set_keys(draft.root, role, (*publics, *others), threshold=threshold)
    delegations = draft.targets.delegations
    for name, held in tuple((delegations.roles or {}).items()) if delegations else ():
        assert delegations is not None
        ci = [str(delegations.keys[keyid].keyval["public"]) for keyid in held.keyids]
        kept = (public for public in ci if public not in old)
        draft.delegate(service_of(name), tuple(dict.fromkeys((*publics, *kept))))
    draft.touched |= {"root", "targets"}
    draft.restart_online()
    return _signed(state, draft, key, root_signers=(recovery,))


def recover(state: State, *, recovery_words: str, key: StatementSigner, now: int) -> Signed:
    """Make `key` the one operator key: the way back from a lost or stolen one."""
    return set_operators(state, recovery_words=recovery_words, publics=(key.public,), key=key, now=now)


def add_operator(state: State, *, recovery_words: str, public: str, key: StatementSigner, now: int) -> Signed:
    """Let one more key be an operator's."""
    publics = tuple(dict.fromkeys((*state.trusted.operator_keys, public)))
    return set_operators(state, recovery_words=recovery_words, publics=publics, key=key, now=now)


def revoke_operator(state: State, *, recovery_words: str, public: str, key: StatementSigner, now: int) -> Signed:
    """Let a key no longer be an operator's. Raises NotFound, BadInput for the last one."""
    if public not in state.trusted.operator_keys:
        raise NotFound(f"cannot revoke the key {public[:16]}: it is no operator key", hint="`nebh key list`")
    publics = tuple(one for one in state.trusted.operator_keys if one != public)
    if not publics:
        raise BadInput("cannot revoke the last operator key", hint="`nebh key rotate` puts a new one in its place")
    return set_operators(state, recovery_words=recovery_words, publics=publics, key=key, now=now)


def rotate_operator(state: State, *, recovery_words: str, old: str, key: StatementSigner, now: int) -> Signed:
    """Put `key` in the place of the operator key `old`."""
    if old not in state.trusted.operator_keys:
        raise NotFound(f"cannot rotate the key {old[:16]}: it is no operator key", hint="`nebh key list`")
    publics = tuple(key.public if one == old else one for one in state.trusted.operator_keys)
    return set_operators(state, recovery_words=recovery_words, publics=publics, key=key, now=now)


def set_controllers(
    state: State,
    *,
    recovery_words: str,
    publics: tuple[str, ...],
    key: StatementSigner,
    now: int,
    ci_mode: bool | None = None,
) -> Signed:
    """Make `publics` the controllers' keys: they renew the timestamp and sign assignments.

    ci_mode: also let them sign the snapshot, or no longer; None = as it is. Versions that a hacked controller ran
    ahead begin again.
    """
    recovery = _recovery(state, recovery_words)
    draft = Draft.of(state, now=now)
    mode = roles.ci_mode(draft.root) if ci_mode is None else ci_mode
    operators = roles.keys_of(draft.root, "targets")
    roles.set_keys(draft.root, "timestamp", (*publics, *operators))
    roles.set_keys(draft.root, "snapshot", (*operators, *(publics if mode else ())))
    draft.put(SETTINGS, codec.encode(replace(state.trusted.settings, controller_keys=publics)))
    draft.touched |= {"root", "targets"}
    draft.restart_online()
    return _signed(state, draft, key, root_signers=(recovery,))


def set_recovery(state: State, *, recovery_words: str, entropy: bytes, key: StatementSigner, now: int) -> Signed:
    """Replace the recovery key by the one of 16 new random bytes (`words.to_words` writes them)."""
    old, new = _recovery(state, recovery_words), words.root_key(entropy)
    draft = Draft.of(state, now=now)
    roles.set_keys(draft.root, "root", (new.public,))
    draft.touched.add("root")
    return _signed(state, draft, key, root_signers=(old, new))


def revoke_ci(
    state: State,
    *,
    service: str,
    public: str,
    key: StatementSigner,
    now: int,
    signed_since: int = 0,
    signed_at_of: Callable[[int], int] | None = None,
) -> Signed:
    """Take a CI key's right to sign a service's releases, under a new role name; releases signed at `signed_since`
    (Unix seconds, 0 = none) or later are delisted, `signed_at_of` saying when a listed counter was signed.

    The caller then rolls back or stops what runs on a delisted release, and may raise the policy's epoch.
    """
    draft = Draft.of(state, now=now)
    role = draft.release_role(service)
    delegations = draft.targets.delegations
    if not role or delegations is None or delegations.roles is None:
        raise NotFound(f"cannot revoke a key of {service}: no such service")
    held = [str(delegations.keys[keyid].keyval["public"]) for keyid in delegations.roles[role].keyids]
    if public not in held or public in state.trusted.operator_keys:
        raise NotFound(f"cannot revoke the key {public[:16]}: it is no CI key of {service}", hint="`nebh key list`")
    kept = tuple(one for one in held if one != public and one not in state.trusted.operator_keys)
    counters = [int(path.rpartition("/")[2].removesuffix(".json")) for path in draft.releases[role].targets]
    gone = [n for n in counters if signed_since and signed_at_of is not None and signed_at_of(n) >= signed_since]
    wish = Wish(
        ci_keys={service: kept}, fresh_roles=(service,), delist=tuple((service, counter) for counter in sorted(gone))
    )
    return apply_wish(state, wish, key=key, now=now)


def _holders(state: State) -> list[tuple[str, int, tuple[str, ...]]]:
    draft = Draft.of(state, now=0)
    found = [(role, held.threshold, roles.keys_of(draft.root, role)) for role, held in draft.root.roles.items()]
    delegations = draft.targets.delegations
    for role, delegated in (delegations.roles or {}).items() if delegations else ():
        assert delegations is not None
        publics = tuple(str(delegations.keys[keyid].keyval["public"]) for keyid in delegated.keyids)
        found.append((role, delegated.threshold, publics))
    return found


def _kind(names: list[str]) -> str:
    if "root" in names:
        return "recovery"
    if "targets" in names:
        return "operator"
    return "controller" if {"timestamp", "snapshot", "assignments"} & set(names) else "ci"


def _recovery(state: State, text: str) -> Seed:
    key = words.root_key(words.from_words(text))
    if keyid_of(key.public) not in Draft.of(state, now=0).root.roles["root"].keyids:
        raise Refused(
            "cannot use these recovery words: they are not this cluster's",
            rule="O2",
            hint="are they another cluster's?",
        )
    return key


def _signed(state: State, draft: Draft, key: StatementSigner, *, root_signers: tuple[StatementSigner, ...]) -> Signed:
    difference = compare(view_of(state), view_of_draft(draft, state))
    return Signed(publication=draft.finish(key, root_signers=root_signers), difference=difference)
