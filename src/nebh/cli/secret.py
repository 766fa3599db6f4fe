"""`nebh secret`: values in, never out. What a node gets is sealed here and signed; receipts prove that it took it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nebh.cli.certificates import check_certificate
from nebh.cli.output import Output
from nebh.cli.sealing import Sealer
from nebh.cli.secret_values import check_value, edit_value, parse_key, parse_values, read_value
from nebh.cli.session import Session
from nebh.cli.watch import failure_of, follow, show_receipts, to_document
from nebh.host import files
from nebh.host.core_dumps import forbid_core_dumps
from nebh.model.errors import BadInput, Conflict, NebhError, NotFound, Refused
from nebh.model.secret import SecretList, key_of, rotation_nonce
from nebh.model.statement import Outcome
from nebh.planning.sealing import plan_sealing, readers_of

if TYPE_CHECKING:
    from nebh.signing.repository import State
    from nebh.signing.wish import Wish

ENDS = frozenset({Outcome.ROTATED, Outcome.REFUSED, Outcome.FAILED})
PATIENCE = 60.0
_LIMIT = 16 << 20


def set_secret(options: argparse.Namespace, out: Output) -> int:
    """Give a secret a value."""
    service, name = parse_key(options.key)
    session = _operator(options, out)
    value, rule = read_value(options, what=options.key)
    return _give(session, {(service, name): (value, rule)})


def rotate(options: argparse.Namespace, out: Output) -> int:
    """Give a secret that has a value a new one."""
    service, name = parse_key(options.key)
    session = _operator(options, out)
    sealer = Sealer(session)
    known = sealer.vault.entry(options.key)
    if known is None and options.key not in session.state().trusted.secrets:
        raise NotFound(f"cannot rotate {options.key}: it has no value yet", hint=f"`nebh secret set {options.key}`")
    given = options.file or options.command_line or options.generate
    if known is not None and known.generate and not given:
        options.generate = known.generate
    value, rule = read_value(options, what=options.key)
    return _give(session, {(service, name): (value, rule)})


def edit(options: argparse.Namespace, out: Output) -> int:
    """Change a value in an editor."""
    service, name = parse_key(options.key)
    session = _operator(options, out)
    sealer = Sealer(session)
    old = sealer.vault.open(service, name, sealer.key) if sealer.vault.entry(options.key) else b""
    value = edit_value(old, what=options.key)
    if value == old:
        return _nothing(out, options.key)
    return _give(session, {(service, name): (value, "")})


def _nothing(out: Output, key: str) -> int:
    if out.json_wanted:
        out.document({"secrets": [], "ok": True})
    else:
        out.say(f"{key} stays as it was")
    return 0


def import_secrets(options: argparse.Namespace, out: Output) -> int:
    """Take many values at once."""
    if options.vault == bool(options.service):
        raise BadInput(
            "cannot import: say for which service, or --vault for a copy of the vault",
            hint="nebh secret import web production.env",
        )
    session = _operator(options, out)
    data = _read(options.file)
    if options.vault:
        return _import_vault(session, data, options.file)
    values = parse_values(data, file=options.file)
    return _give(session, {(options.service, name): (value, "") for name, value in values.items()})


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read(_LIMIT)
    try:
        return files.read_bounded(Path(path), limit=_LIMIT)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def _import_vault(session: Session, data: bytes, file: str) -> int:
    from nebh.signing.vault import recipients_of

    sealer = session.sealer = Sealer(session)
    taken = sealer.vault.adopt(data, what=file)
    state = session.state()
    left = [key for key in sealer.vault.reseal(sealer.key, recipients_of(state, sealer.key)) if key in taken]
    out = session.out
    if out.json_wanted:
        out.document({"taken": list(taken), "not_opened": left})
        return 0
    out.say(f"{len(taken)} values taken: {', '.join(taken) or 'this vault has nothing newer'}")
    for key in left:
        out.say(
            out.paint(
                f"  {key} was not sealed to your key: only the recovery words open it (`nebh key recover`)", "yellow"
            )
        )
    return 0


def _operator(options: argparse.Namespace, out: Output) -> Session:
    forbid_core_dumps()
    session = Session(options, out)
    if session.is_ci:
        raise Refused(
            "cannot change secrets with a CI key",
            rule="O2",
            hint="an operator sets them, from a computer with that key",
        )
    session.key  # noqa: B018 - a wrong passphrase is said before a value is asked for
    return session


# -- giving


def _give(session: Session, values: dict[tuple[str, str], tuple[bytes, str]]) -> int:
    """Keep, seal, sign, publish, wait. A publication that does not come about leaves the vault as it was."""
    sealer = session.sealer = Sealer(session)
    before = files.read_bounded(sealer.vault.path, limit=1 << 30) if sealer.vault.path.exists() else b""
    versions: dict[str, int] = {}

    def make(state: State) -> Wish:
        from nebh.signing.wish import Wish

        for (service, name), (value, rule) in values.items():
            check_value(value, what=key_of(service, name))
            check_certificate(state.trusted.policies.get(service), name, value, what=key_of(service, name))
            known = versions.get(key_of(service, name), 0)
            signed = state.trusted.secrets.get(key_of(service, name))
            if not known or (signed is not None and signed.version >= known):
                versions[key_of(service, name)] = sealer.keep(
                    state, service=service, name=name, value=value, generate=rule
                )
        return Wish()

    try:
        state = session.publish(make)
    except (BadInput, Conflict, Refused):  # where it is not certain that nothing was published, the new value is kept
        _put_back(sealer.vault.path, before)
        raise
    return _report(session, state, versions)


def _put_back(path: Path, before: bytes) -> None:
    if before:
        files.write_atomic(path, before, mode=0o600)
    else:
        path.unlink(missing_ok=True)


def _report(session: Session, state: State, versions: dict[str, int]) -> int:
    out = session.out
    rows: list[dict[str, Any]] = []
    worst: NebhError | None = None
    for key, version in versions.items():
        service, _, name = key.partition("/")
        policy = state.trusted.policies.get(service)
        named = policy is not None and name in policy.secrets
        row: dict[str, Any] = {"secret": key, "version": version, "sealed": named, "receipts": [], "error": ""}
        rows.append(row)
        if not named:
            out.note(f"{key}, version {version}, is in your vault; no signed policy names it yet")
            out.note(f"  write it under `secrets:` in the spec of {service}: `nebh deploy` seals it")
            continue
        if not getattr(session.options, "detach", False):
            error = _confirm(session, state, service, name, version, row)
            row["error"] = error.message if error else ""
            worst = worst or error
    if out.json_wanted:
        out.document({"secrets": rows, "ok": worst is None})
        return worst.exit_status if worst else 0
    if worst is not None:
        raise worst
    for row in rows:
        out.say(f"{row['secret']} is version {row['version']}" + ("" if row["sealed"] else ", in the vault only"))
    return 0


def _confirm(
    session: Session, state: State, service: str, name: str, version: int, row: dict[str, Any]
) -> NebhError | None:
    """Wait for the receipts of nodes that run the service; return what went wrong."""
    view = session.client.service(service)
    running = {one.node for one in view.allocations if one.running.counter and one.running.replicas}
    nodes = tuple(
        one for one in readers_of(state.trusted.policies[service], state.trusted.nodes.nodes) if one.name in running
    )
    if not nodes:
        session.out.note(f"no node runs {service} now: its next instance gets it")
        return None
    listed = SecretList(cluster_id=state.cluster_id, service=service, name=name, version=version, signed_at=0, boxes={})
    try:
        followed = follow(
            session,
            nonce=rotation_nonce(listed),
            service=service,
            nodes=nodes,
            timeout=session.options.timeout or PATIENCE,
            ends=ENDS,
        )
    except NebhError as error:
        return error
    row["receipts"] = to_document(followed)
    if not session.out.json_wanted:
        show_receipts(session.out, followed)
    return failure_of(followed, what=f"version {version} of secret {key_of(service, name)}")


def forget(options: argparse.Namespace, out: Output) -> int:
    """Remove a value from the vault."""
    parse_key(options.key)
    vault = Sealer(Session(options, out)).vault
    if vault.entry(options.key) is None:
        raise NotFound(f"cannot forget {options.key}: it is not in the vault", hint="`nebh secret list` shows what is")
    vault.drop(options.key)
    if out.json_wanted:
        out.document({"secret": options.key, "ok": True})
    else:
        out.say(f"{options.key} is no longer in the vault on this computer")
    return 0


# -- looking


def list_secrets(options: argparse.Namespace, out: Output) -> int:
    """List secrets, never a value."""
    session = Session(options, out)
    state = session.state(accept_expired=True)
    vault = Sealer(session).vault
    plan = {
        one.key: one
        for one in plan_sealing(state.trusted.policies.values(), state.trusted.nodes.nodes, state.trusted.secrets)
    }
    rows = []
    for key in sorted({*plan, *vault.keys}):
        if options.service and key.partition("/")[0] != options.service:
            continue
        one, known = plan.get(key), vault.entry(key)
        rows.append(
            {
                "secret": key,
                "version": one.version if one else 0,
                "readers": [node.name for node in one.readers] if one else [],
                "lacking": [node.name for node in one.lacking] if one else [],
                "vault": known.version if known else 0,
                "generate": known.generate if known else "",
            }
        )
    if out.json_wanted:
        out.document({"secrets": rows})
        return 0
    out.table(("SECRET", "VERSION", "NODES", "VAULT", "REMARK"), [_row(one) for one in rows])
    return 0


def _row(one: dict[str, Any]) -> tuple[str, str, str, str, str]:
    remark = ""
    if not one["version"] and not one["vault"]:
        remark = f"no value yet: nebh secret set {one['secret']}"
    elif not one["version"]:
        remark = "no signed policy names it, or it is not deployed yet"
    elif one["lacking"]:
        remark = f"not sealed to {', '.join(one['lacking'])}"
    elif not one["vault"]:
        remark = "its value is not on this computer"
    elif one["vault"] != one["version"]:
        remark = "the vault here holds another version"
    return (
        one["secret"],
        str(one["version"] or "-"),
        ", ".join(one["readers"]) or "-",
        str(one["vault"] or "-"),
        remark,
    )


def who(options: argparse.Namespace, out: Output) -> int:
    """Show who can read a secret."""
    from nebh.signing.keys import short

    service, name = parse_key(options.key)
    session = Session(options, out)
    state = session.state(accept_expired=True)
    listed = state.trusted.secrets.get(options.key)
    known = Sealer(session).vault.entry(options.key)
    if listed is None and known is None:
        raise NotFound(f"cannot find the secret {options.key}", hint="`nebh secret list` shows those there are")
    names = {one.node_id: one for one in state.trusted.nodes.nodes}
    policy = state.trusted.policies.get(service)
    allowed = (
        {one.node_id for one in readers_of(policy, names.values())} if policy and name in policy.secrets else set()
    )
    boxes = set(listed.boxes) if listed else set()
    operators = set(state.trusted.operator_keys)
    nodes: list[dict[str, Any]] = [
        {
            "node": names[node].name if node in names else node,
            "groups": list(names[node].groups) if node in names else [],
            "box": node in boxes,
            "admitted": node in allowed,
        }
        for node in sorted(boxes | allowed, key=lambda one: names[one].name if one in names else one)
    ]
    vault = [
        {"key": public, "name": short(public), "kind": "operator" if public in operators else "recovery or former"}
        for public in sorted(known.boxes if known else ())
    ]
    if out.json_wanted:
        out.document(
            {"secret": options.key, "version": listed.version if listed else 0, "nodes": nodes, "vault": vault}
        )
        return 0
    out.say(f"{options.key}, version {listed.version if listed else 'not signed yet'}")
    out.table(
        ("NODE", "GROUPS", "MAY READ", "HAS A BOX"),
        [
            (
                one["node"],
                ", ".join(one["groups"]) or "-",
                "yes" if one["admitted"] else "no",
                "yes" if one["box"] else "no",
            )
            for one in nodes
        ],
    )
    out.table(("VAULT OPENS WITH", "KIND"), [(one["name"], one["kind"]) for one in vault])
    out.say("and whoever is root on such a node, and the service itself")
    return 0
