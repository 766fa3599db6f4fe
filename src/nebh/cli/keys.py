"""`nebh key`: who may sign what. Whatever changes that needs the recovery words, except CI keys of one service."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nebh.cli.output import Output
from nebh.cli.session import Session, ask_passphrase, now_seconds
from nebh.cli.vaulting import read_copy, reseal_vault
from nebh.cli.words import ask_words
from nebh.model.errors import BadInput, NebhError, NotFound

if TYPE_CHECKING:
    from nebh.signing.key_life import KeyLine
    from nebh.signing.repository import State
    from nebh.signing.statements import Seed
    from nebh.signing.wish import Signed

CI = "ci:"


def list_keys(options: argparse.Namespace, out: Output) -> int:
    """Show every key and what it may sign."""
    from nebh.signing import key_life

    session = Session(options, out)
    lines = key_life.list_keys(session.state(accept_expired=True))
    own = _own_public(session)
    if out.json_wanted:
        out.document(
            {
                "keys": [
                    {
                        "key": one.public,
                        "name": one.name,
                        "kind": one.kind,
                        "roles": one.roles,
                        "own": one.public == own,
                    }
                    for one in lines
                ]
            }
        )
        return 0
    rows = [
        (f"{'*' if one.public == own else ' '} {one.name}", one.kind, ", ".join(one.roles), one.public) for one in lines
    ]
    out.table(("KEY", "KIND", "SIGNS", "PUBLIC KEY"), rows)
    return 0


def _own_public(session: Session) -> str:
    try:
        return session.key.public
    except NebhError:
        return ""


def add(options: argparse.Namespace, out: Output) -> int:
    """Let one more key sign as an operator, a controller, or a service's CI."""
    from nebh.signing import key_life
    from nebh.signing.wish import Wish, apply_wish

    session = Session(options, out)
    public = _public_to_add(options)
    role = options.role
    if role.startswith(CI):
        service = role.removeprefix(CI)

        def sign(state: State) -> Signed:
            held = _ci_keys(state, service)
            wish = Wish(ci_keys={service: tuple(dict.fromkeys((*held, public)))})
            return apply_wish(state, wish, key=session.key, now=now_seconds())

        session.publish_signed(sign)
        return _done(out, public, f"may sign releases of {service}")
    text = ask_words(options.words_file)

    def sign_root(state: State) -> Signed:
        if role == "operator":
            return key_life.add_operator(state, recovery_words=text, public=public, key=session.key, now=now_seconds())
        publics = tuple(dict.fromkeys((*state.trusted.settings.controller_keys, public)))
        return key_life.set_controllers(state, recovery_words=text, publics=publics, key=session.key, now=now_seconds())

    session.publish_signed(sign_root)
    reseal_vault(session, opener=session.key, own=session.key)
    return _done(out, public, f"is {'an' if role == 'operator' else 'a'} {role} key now")


def _public_to_add(options: argparse.Namespace) -> str:
    from nebh.model.names import is_digest
    from nebh.signing.keys import generate_key, save_key

    if options.new:
        if options.key:
            raise BadInput("cannot add two keys at once", hint="give a public key, or --new FILE")
        made = generate_key()
        save_key(Path(options.new), made, passphrase=new_passphrase(options))
        return made.public
    if not is_digest(options.key):
        raise BadInput(
            f"cannot use {options.key!r} as a public key: it is not 64 hex digits",
            hint="--new FILE makes a key and adds it",
        )
    return str(options.key)


def _ci_keys(state: State, service: str) -> tuple[str, ...]:
    from nebh.signing import key_life

    operators = state.trusted.operator_keys
    return tuple(
        one.public for one in key_life.list_keys(state) if one.public not in operators and service in _services(one)
    )


def _services(line: KeyLine) -> frozenset[str]:
    from nebh.signing.trusted_set import service_of

    return frozenset(filter(None, (service_of(role) for role in line.roles)))


def revoke(options: argparse.Namespace, out: Output) -> int:
    """Take a key's right to sign away."""
    from nebh.signing import key_life

    session = Session(options, out)
    line = _find(session, options.key)
    if line.kind == "ci":
        return _revoke_ci(session, options, line)
    if line.kind == "recovery":
        raise BadInput("cannot revoke the recovery key", hint="`nebh key rotate --recovery` replaces it by new words")
    text = ask_words(options.words_file)

    def sign(state: State) -> Signed:
        if line.kind == "operator":
            return key_life.revoke_operator(
                state, recovery_words=text, public=line.public, key=session.key, now=now_seconds()
            )
        publics = tuple(one for one in state.trusted.settings.controller_keys if one != line.public)
        return key_life.set_controllers(state, recovery_words=text, publics=publics, key=session.key, now=now_seconds())

    session.publish_signed(sign)
    reseal_vault(session, opener=session.key, own=session.key)
    return _done(out, line.public, f"signs nothing any more (it was {line.kind})")


def _find(session: Session, text: str) -> KeyLine:
    """Return the key that a name of eight digits or the beginning of the public key means. Raises NotFound, BadInput."""
    from nebh.signing import key_life

    lines = key_life.list_keys(session.state(accept_expired=True))
    found = [one for one in lines if len(text) >= 8 and (one.name == text or one.public.startswith(text))]
    if len(found) != 1:
        kind = BadInput if found else NotFound
        raise kind(f"cannot find the key {text[:64]!r}: {len(found)} keys match", hint="`nebh key list` shows them")
    return found[0]


def _revoke_ci(session: Session, options: argparse.Namespace, line: KeyLine) -> int:
    from nebh.signing import key_life

    services = sorted(_services(line))
    since = options.since
    for service in services:

        def sign(state: State, service: str = service) -> Signed:
            listed = {one.counter: one.signed_at for one in state.trusted.releases.values() if one.service == service}
            return key_life.revoke_ci(
                state,
                service=service,
                public=line.public,
                key=session.key,
                now=now_seconds(),
                signed_since=since,
                signed_at_of=lambda counter: listed.get(counter, 0),
            )

        session.publish_signed(sign, wanted=None)
        _warn_delisted(session, service)
    return _done(session.out, line.public, f"signs no releases of {', '.join(services)} any more")


def _warn_delisted(session: Session, service: str) -> None:
    view = session.client.service(service)
    gone = sorted({one.running.counter for one in view.allocations} - set(view.releases) - {0})
    for counter in gone:
        best = max((one for one in view.releases if one < counter), default=0)
        what = f"nebh rollback {service} --to {best}" if best else f"nebh stop {service}"
        session.out.note(
            session.out.paint(f"  release {counter} of {service} runs and is no longer listed: {what}", "yellow")
        )


def rotate(options: argparse.Namespace, out: Output) -> int:
    """Put a new key in the place of this computer's, or new recovery words in the place of the old ones."""
    from nebh.signing import key_life

    session = Session(options, out)
    if options.recovery:
        return _rotate_recovery(session, options)
    old = session.key
    text = ask_words(options.words_file)
    new, path = _make_own(session, options)
    session.enter_with(old)

    def sign(state: State) -> Signed:
        return key_life.rotate_operator(state, recovery_words=text, old=old.public, key=new, now=now_seconds())

    try:
        session.publish_signed(sign)
    except NebhError:
        path.unlink(missing_ok=True)
        raise
    _keep_own(session, path)
    reseal_vault(session, opener=old, own=new)
    return _done(out, new.public, f"replaces {old.public[:16]}; it is {path}")


def _rotate_recovery(session: Session, options: argparse.Namespace) -> int:
    from nebh.cli.founding import show_words
    from nebh.signing import key_life, words

    text = ask_words(options.words_file)
    entropy = os.urandom(words.ENTROPY)
    shown = argparse.Namespace(words_file=options.new_words_file)
    show_words(words.to_words(entropy), shown, session.out)

    def sign(state: State) -> Signed:
        return key_life.set_recovery(state, recovery_words=text, entropy=entropy, key=session.key, now=now_seconds())

    session.publish_signed(sign)
    reseal_vault(session, opener=session.key, own=session.key)
    return _done(session.out, words.root_key(entropy).public, "is the recovery key now; the old words are void")


def recover(options: argparse.Namespace, out: Output) -> int:
    """Make a new key the one operator key, by the recovery words."""
    from nebh.signing import key_life, words

    text = ask_words(options.words_file)
    recovery = words.root_key(words.from_words(text))
    copy = read_copy(options.vault)
    session = Session(options, out)
    if options.name:
        from nebh.cli.adopt import adopt_cloud

        adopt_cloud(session, name=options.name, controller=options.controller, pin=options.pin, recovery=recovery)
    new, path = _make_own(session, options)
    session.use_key(new)
    session.enter_with(recovery)

    def sign(state: State) -> Signed:
        return key_life.recover(state, recovery_words=text, key=new, now=now_seconds())

    try:
        session.publish_signed(sign, accept_expired=True)
    except NebhError:
        path.unlink(missing_ok=True)
        raise
    _keep_own(session, path)
    reseal_vault(session, opener=recovery, own=new, copy=copy)
    return _done(out, new.public, f"is the one operator key now; it is {path}")


def _make_own(session: Session, options: argparse.Namespace) -> tuple[Seed, Path]:
    """Make and save a new key beside the old one, so that no moment is without one."""
    from nebh.signing.keys import generate_key, save_key, short

    made = generate_key()
    path = session.folder.path / f"operator-{short(made.public)}.key"
    save_key(path, made, passphrase=new_passphrase(options))
    return made, path


def _keep_own(session: Session, path: Path) -> None:
    from nebh.signing.operator import save_cluster

    save_cluster(session.folder.path, replace(session.folder.cluster, key=path.name))


def new_passphrase(options: argparse.Namespace) -> str:
    """Return the passphrase for a new key, "" when none is wanted. Raises BadInput."""
    if not options.passphrase:
        return ""
    first = ask_passphrase("Passphrase for the new key: ")
    if not os.environ.get("NEBH_PASSPHRASE_FILE") and ask_passphrase("Once more: ") != first:
        raise BadInput("cannot use this passphrase: the two differ", hint="try again")
    return first


def _done(out: Output, public: str, said: str) -> int:
    from nebh.signing.keys import short

    if out.json_wanted:
        out.document({"key": public, "name": short(public), "ok": True})
    else:
        out.say(f"key {short(public)} {said}")
    return 0
