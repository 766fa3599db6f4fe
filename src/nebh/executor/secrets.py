"""Secrets on a node: boxes are fetched through the agent, opened here and nowhere else, given to containers as files.

A box stays as it came, sealed, in the journal; its value exists in this process for the moment in which an instance is
made or its files are replaced. What cannot be had is one refusal (N11), and what runs, runs on with what it has.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.journal.secrets import HeldBox
from nebh.model.errors import BadInput, Failed, NebhError, NotFound, Refused
from nebh.model.event import Severity
from nebh.model.instance import Status
from nebh.model.release import Release
from nebh.model.rules import demand
from nebh.model.secret import (
    MAX_VALUE,
    Box,
    SealedFor,
    SecretFile,
    SecretList,
    SecretUse,
    key_of,
    places,
    rotation_nonce,
)
from nebh.model.statement import Outcome
from nebh.model.work import InstanceRow, Role
from nebh.planning import accept
from nebh.planning.accept_secret import SecretFacts
from nebh.signing.node_keys import load_seed

_LARGEST = MAX_VALUE + 48
FIRST_DELAY, MOST_DELAY = 2.0, 300.0


@dataclass(frozen=True, kw_only=True)
class Given:
    """What an instance gets. env: by variable; versions: by name, as the journal notes them."""

    files: tuple[SecretFile, ...] = ()
    env: dict[str, str] = field(default_factory=dict, repr=False)
    versions: str = ""


def fetch_secrets(context: Context, release: Release, *, more: tuple[str, ...] = ()) -> None:
    """Have the newest box of every secret of a release here, seen to open. more: names of others that its routes need.
    Raises Refused N11, Failed.

    Where nobody can be asked just now, a box that was held before does: going back must not need a network.
    """
    lists = context.accepted.secrets.listed()
    names = (*(use.name for use in release.secrets), *more, *node_secrets(context, release.service))
    for name in dict.fromkeys(names):
        key = key_of(release.service, name)
        held, listed = context.accepted.secrets.held(key), lists.get(key)
        try:
            _refresh(context, key, listed, held)
        except Refused:
            raise
        except NebhError as error:
            if held is None:
                raise Failed(f"cannot get the secret {key}: {error.message}", hint=error.hint) from error
            context.event(
                "secret.stale",
                f"{release.service}: version {held.version} of secret {key} is used: the newer one cannot be fetched: {error}",
                severity=Severity.WARNING,
                service=release.service,
                hint="it is tried again at the next look",
            )


def node_secrets(context: Context, service: str) -> tuple[str, ...]:
    """Return the names of a service's secrets that no container gets: those for its backups."""
    policy = context.accepted.policy(service)
    return policy.backup.secrets if policy is not None and policy.backup is not None else ()


def open_for_node(context: Context, service: str, names: tuple[str, ...]) -> dict[str, bytes]:
    """Return the values of such secrets, the newest that can be had. Raises Refused N11."""
    lists = context.accepted.secrets.listed()
    found = {}
    for name in names:
        key = key_of(service, name)
        with contextlib.suppress(NebhError):  # where nobody can be asked just now, what is held is good enough
            _refresh(context, key, lists.get(key), context.accepted.secrets.held(key))
        held = context.accepted.secrets.held(key)
        value, opened = _try(context, key, held.box, version=held.version) if held is not None else (b"", False)
        if not opened:
            raise Refused(f"cannot open the secret {key}", rule="N11", hint=f"`nebh secret rotate {key}`, then deploy")
        found[name] = value
    return found


def _refresh(
    context: Context,
    key: str,
    listed: SecretList | None,
    held: HeldBox | None,
    check: Callable[[bytes], None] = lambda _: None,
) -> bool:
    """Hold the box that is listed; return whether it is another than before. What is signed now counts, whatever its
    number: older metadata does not get here (N2). check: raises Refused for a value that is not to be held."""
    node_id = context.accepted.meta("node_id")
    if listed is None or node_id not in listed.boxes:
        if held is None:
            raise Refused(
                f"the secret {key} was not sealed to this node",
                rule="N11",
                hint=f"`nebh secret set {key}`, then deploy",
            )
        return False
    if held is not None and _digest(held.box) == listed.boxes[node_id].digest:
        return False
    data = _fetch(context, key, listed.boxes[node_id])
    value, opened = _try(context, key, data, version=listed.version)
    arrived = Box(digest=_digest(data), bytes=len(data))
    facts = SecretFacts(key=key, node_id=node_id, listed=listed, arrived=arrived, opened=opened)
    demand(accept.accept_secret(facts), what=f"the secret {key}")
    check(value)
    context.accepted.secrets.hold(key, HeldBox(version=listed.version, box=data))
    return True


def _digest(data: bytes) -> str:
    from nebh.signing.seal import box_of

    return box_of(data).digest


def _fetch(context: Context, key: str, box: Box) -> bytes:
    found = bytearray()

    def take(_: str, size: int, chunks: Iterator[bytes]) -> None:
        for chunk in chunks:
            found.extend(chunk)
            if len(found) > size:
                raise BadInput("cannot take a box from the agent: it is longer than signed")

    if not 0 < box.bytes <= _LARGEST:
        raise Refused(f"the box of the secret {key} has {box.bytes} bytes", rule="N11")
    try:
        context.agent.objects(((box.digest, box.bytes),), take)
    except NotFound as error:
        raise Failed(
            f"the controller does not hold its box: {error.message}", hint=f"`nebh secret rotate {key}`"
        ) from error
    except BadInput as error:
        raise Refused(
            f"cannot accept the secret {key}: {error.message}",
            rule="N11",
            hint="the controller holds other bytes than were signed: damaged or attacked",
        ) from error
    return bytes(found)


def _try(context: Context, key: str, data: bytes, *, version: int) -> tuple[bytes, bool]:
    """Return (value, whether the box opened)."""
    from nebh.signing.seal import open_box

    service, _, name = key.partition("/")
    meta = context.accepted.meta
    to = SealedFor(
        cluster_id=meta("cluster_id"), recipient=meta("node_id"), service=service, name=name, version=version
    )
    try:
        return open_box(data, private=load_seed(context.layout.seal_key).seed, to=to), True
    except Refused:
        return b"", False


def open_held(context: Context, key: str) -> bytes:
    """Return the value in the box of `service/name` that is held here. Raises Refused N11."""
    held = context.accepted.secrets.held(key)
    value, opened = _try(context, key, held.box, version=held.version) if held is not None else (b"", False)
    if held is None or not opened:
        why = "no box of it is here" if held is None else "its box does not open with this node's key"
        raise Refused(f"cannot open the secret {key}: {why}", rule="N11", hint=f"`nebh secret rotate {key}`")
    return value


def open_secrets(context: Context, release: Release) -> Given:
    """Return what an instance of a release gets, of the boxes held here. Raises Refused N11."""
    files: list[SecretFile] = []
    env: dict[str, str] = {}
    versions: list[str] = []
    where = places(release.secrets)
    for use in release.secrets:
        key = key_of(release.service, use.name)
        value, held = open_held(context, key), context.accepted.secrets.held(key)
        assert held is not None
        files.append(SecretFile(place=where[use.name], value=value))
        versions.append(f"{use.name}={held.version}:{held.digest[:16]}")
        if use.env:
            env[use.env] = _variable(key, use, value)
    return Given(files=tuple(files), env=env, versions=" ".join(versions))


def _variable(key: str, use: SecretUse, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Refused(
            f"cannot give the secret {key} in the variable {use.env}: it is no text",
            rule="N11",
            hint="take `env` away and read the file",
        )
    return text


class ProxySecrets:
    """Secrets that the proxy gets: none. `executor.route_secrets` has some."""

    def names(self, _service: str) -> tuple[str, ...]:
        """Return the names of a service's secrets that its routes have certificates in."""
        return ()

    def check(self, _key: str, _value: bytes) -> None:
        """Raise Refused for a value that the proxy could not use."""

    def give(self, _service: str, *, also: frozenset[str]) -> bool:  # noqa: ARG002 - the real one needs it
        """Have the proxy use what is held now; return whether it does. also: names that containers get too."""
        return True


class SecretKeeper:
    """Follows signed lists: new versions reach what runs without a deploy, each said by event and receipt."""

    def __init__(self, context: Context, *, at_proxy: ProxySecrets | None = None) -> None:
        """at_proxy: those that routes have certificates in."""
        self._context = context
        self._at_proxy = at_proxy or ProxySecrets()
        self._following = threading.Lock()
        self._refused: set[tuple[str, int]] = set()
        self._delay = FIRST_DELAY
        self._timer: threading.Timer | None = None

    def follow_later(self) -> None:
        """Look in the background."""
        threading.Thread(target=self.follow, name="secrets", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def follow(self) -> None:
        """Fetch what is newer, give it to what runs. What cannot be had is tried again later. Never raises."""
        if self._context.stopping.is_set():
            return
        with self._following:
            try:
                again = self._follow()
            except (NebhError, OSError) as error:
                again = True
                if not self._context.stopping.is_set():
                    self._context.tell("secret.trouble", f"cannot look after secrets: {error}", severity=Severity.ALARM)
            self._plan_next(again=again)

    def _plan_next(self, *, again: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not again:
            self._delay = FIRST_DELAY
            return
        if not self._context.stopping.is_set():
            self._timer = threading.Timer(self._delay, self.follow)
            self._timer.daemon = True
            self._timer.start()
            self._delay = min(self._delay * 2, MOST_DELAY)

    def _follow(self) -> bool:
        """Return whether something is to be tried again."""
        context = self._context
        rows = tuple(one for one in context.work.instances() if one.role is not Role.LEAVING)
        self._forget_gone({one.id for one in rows})
        again = False
        for service in sorted({one.service for one in rows}):
            mine = {
                one: release for one in rows if one.service == service if (release := _release(context, one)).secrets
            }
            names = {use.name for release in mine.values() for use in release.secrets}
            at_proxy = self._at_proxy.names(service)
            again |= self._fetch_newer({key_of(service, name) for name in (*names, *at_proxy)})
            if at_proxy:
                again |= not self._at_proxy.give(service, also=frozenset(names))
            if mine:
                with context.secrets_lock:
                    again |= not self._give(service, mine)
            again |= self._follow_node(service)
        return again

    def _follow_node(self, service: str) -> bool:
        """Hold the newest of what the node alone opens; return whether something is to be tried again."""
        context, again = self._context, False
        for name in node_secrets(context, service):
            listed = context.accepted.secrets.listed().get(key_of(service, name))
            if listed is None or (key_of(service, name), listed.version) in self._refused:
                continue
            try:
                changed = _refresh(
                    context, key_of(service, name), listed, context.accepted.secrets.held(key_of(service, name))
                )
            except Refused as error:
                self._refused.add((key_of(service, name), listed.version))
                self._say_refused(listed, error)
            except NebhError:
                again = True
            else:
                if changed:
                    detail = f"version {listed.version} of {key_of(service, name)} on this node"
                    context.receipt(Outcome.ROTATED, nonce=rotation_nonce(listed), service=service, detail=detail)
        return again

    def _forget_gone(self, there: set[str]) -> None:
        for instance in self._context.accepted.secrets.given():
            if instance not in there:
                self._context.accepted.secrets.note_given(instance, "")

    def _fetch_newer(self, keys: set[str]) -> bool:
        """Hold the newest box of each secret; return whether one could not be fetched."""
        context = self._context
        lists = context.accepted.secrets.listed() if keys else {}
        again = False
        for key in sorted(keys):
            listed = lists.get(key)
            if listed is None or (key, listed.version) in self._refused:
                continue
            try:
                check = functools.partial(self._at_proxy.check, key)
                _refresh(context, key, listed, context.accepted.secrets.held(key), check)
            except Refused as error:
                self._refused.add((key, listed.version))
                self._say_refused(listed, error)
            except NebhError as error:
                again = True
                context.tell(
                    "secret.unreachable",
                    f"cannot fetch version {listed.version} of secret {key}: {error}",
                    service=listed.service,
                    hint="it is tried again; what runs has the version before",
                )
        return again

    def _say_refused(self, listed: SecretList, error: Refused) -> None:
        key = key_of(listed.service, listed.name)
        self._context.event(
            "secret.refused",
            f"version {listed.version} of secret {key} was refused: {error}",
            severity=Severity.ALARM,
            service=listed.service,
            hint=error.hint or "what runs, runs on with the version before",
            facts={"rule": error.rule, "secret": key, "version": str(listed.version)},
        )
        self._context.receipt(
            Outcome.REFUSED,
            nonce=rotation_nonce(listed),
            service=listed.service,
            rule=error.rule,
            detail=error.message,
            hint=error.hint,
        )

    def _give(self, service: str, rows: dict[InstanceRow, Release]) -> bool:
        """Replace the files of a service's instances; return whether all have the newest. Under the lock under which
        instances are made."""
        context = self._context
        noted = context.accepted.secrets.given()
        done: dict[str, str] = {}
        changed: dict[str, int] = {}
        all_given = True
        for row, release in rows.items():
            given = open_secrets(context, release)
            before = noted.get(row.id, "")
            if before == given.versions:
                continue
            status = context.drivers.containers.observe(row.id).status
            if status not in (Status.CREATED, Status.RUNNING):
                continue  # it gets them when it is made anew
            try:
                with effect(context, row.txn, "rotate.give"):
                    context.drivers.containers.give_secrets(row.id, given.files)
            except (NebhError, OSError) as error:
                all_given = False
                context.tell(
                    "secret.trouble",
                    f"cannot give {row.id} its secrets: {error}",
                    severity=Severity.ALARM,
                    service=service,
                    hint="it is tried again",
                )
                continue
            newer = _differences(before, given.versions)
            self._signal(row, release, newer)
            done[row.id] = given.versions
            changed |= newer
        self._say_rotated(service, done, changed)
        return all_given

    def _signal(self, row: InstanceRow, release: Release, newer: dict[str, int]) -> None:
        for name in sorted({use.signal for use in release.secrets if use.signal and use.name in newer}):
            with effect(self._context, row.txn, "rotate.signal"):
                self._context.drivers.containers.signal(row.id, name)

    def _say_rotated(self, service: str, done: dict[str, str], changed: dict[str, int]) -> None:
        """In one commit: what was given, and that it was said."""
        context = self._context
        lists = context.accepted.secrets.listed()
        with context.database.atomically():
            for instance, versions in done.items():
                context.accepted.secrets.note_given(instance, versions)
            for name, version in sorted(changed.items()):
                key = key_of(service, name)
                context.event(
                    "secret.rotated",
                    f"{service}: version {version} of secret {key} is in place in {_instances(len(done))}",
                    service=service,
                    facts={"secret": key, "version": str(version)},
                )
                listed = lists.get(key)
                if listed is not None and listed.version == version:
                    context.receipt(
                        Outcome.ROTATED,
                        nonce=rotation_nonce(listed),
                        service=service,
                        detail=f"version {version} of {key} in {_instances(len(done))}",
                    )


def _instances(count: int) -> str:
    return "1 instance" if count == 1 else f"{count} instances"


def _release(context: Context, row: InstanceRow) -> Release:
    release = context.accepted.release(row.service, row.epoch, row.counter)
    if release is None:
        raise Failed(f"cannot find release {row.counter} of {row.service} among the accepted ones")
    return release


def _differences(before: str, now: str) -> dict[str, int]:
    """Return the versions that are other ones than before."""
    old = dict(one.partition("=")[::2] for one in before.split())
    new = dict(one.partition("=")[::2] for one in now.split())
    return {name: int(version.partition(":")[0]) for name, version in new.items() if old.get(name) != version}
