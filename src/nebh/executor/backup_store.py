"""Stores of backups as this node reaches them: restic, in a root of its own with the host's network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from nebh.drivers.backups.base import BackupDriver, StoreOpener, StoreWish
from nebh.drivers.backups.restic import BackupStore, ResticBackups
from nebh.executor.context import Context
from nebh.executor.secrets import open_for_node
from nebh.host.apart import SECRETS, View, run_apart
from nebh.host.layout import Layout
from nebh.host.run import Command, Result
from nebh.host.trees import remove_tree
from nebh.host.worker import Worker
from nebh.model.backup import BackupRule
from nebh.model.errors import Failed, NotFound
from nebh.planning.backups import part_of

WEIGHT: Final = 0.25
"""Of a container's share of the processor."""
_PASSWORD, _KEY, _HOSTS, _S3 = "password", "ssh-key", "known-hosts", "s3"
_SERVER = "store"  # under which name the SFTP server's key is known


def restic_stores(
    layout: Layout, *, launcher: Worker, network: int, cgroups: Callable[[], tuple[str, ...]]
) -> StoreOpener:
    """Return what opens stores. launcher: starts restic; network: pid of a process in the host's network; cgroups: folders
    that restic enters."""

    def open_store(wish: StoreWish) -> BackupDriver:
        rule, cache = wish.rule, layout.executor / "backups"
        cache.mkdir(mode=0o700, exist_ok=True)
        for left in cache.glob("restic-check-*"):
            remove_tree(left)  # of one that was killed
        folders = (_folder(rule),) if rule.to.startswith("/") else ()
        view = View(
            root=layout.run / "backup",
            reads=wish.reads,
            writes=(cache, *folders, *wish.writes),
            owns=bool(wish.writes),
            cgroups=cgroups(),
        )
        given = _given(rule, wish.secrets)

        def start(command: Command) -> Result:
            return run_apart(launcher, command, view, network=network, given=given, cancelled=wish.cancelled)

        return ResticBackups(
            BackupStore(
                repository=f"{rule.to.rstrip('/')}/{wish.part}",
                password_file=SECRETS / _PASSWORD,
                cache=cache,
                ssh=_ssh(rule),
                credentials=SECRETS / _S3 if rule.secret_key else None,
                region=rule.region,
                given=True,
            ),
            start=start,
        )

    return open_store


def _folder(rule: BackupRule) -> Path:
    """A disk that is not mounted must not be taken for an empty store."""
    folder = Path(rule.to)
    if not folder.is_dir():
        raise NotFound(
            f"cannot reach the store of backups: there is no folder {rule.to} on this node",
            hint="mount the disk that it is to be on, or make the folder",
        )
    return folder


def _given(rule: BackupRule, secrets: dict[str, bytes]) -> dict[str, bytes]:
    found = {_PASSWORD: secrets[rule.password].strip()}
    if not found[_PASSWORD]:
        raise Failed(f"cannot open the store of backups: the secret {rule.password} is empty")
    if rule.ssh_key:
        found[_KEY] = secrets[rule.ssh_key].strip() + b"\n"
        found[_HOSTS] = f"{_SERVER} {rule.host_key}\n".encode()
    if rule.secret_key:
        key = secrets[rule.secret_key].decode(errors="replace").strip()
        text = f"[default]\naws_access_key_id = {rule.access_key}\naws_secret_access_key = {key}\n"
        found[_S3] = text.encode()
    return found


def _ssh(rule: BackupRule) -> tuple[str, ...]:
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": _SERVER,
        "UserKnownHostsFile": str(SECRETS / _HOSTS),
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "IdentityFile": str(SECRETS / _KEY),
        "ConnectTimeout": "20",
        "ServerAliveInterval": "20",
        "Port": str(rule.port),
    }
    return ("ssh", "-F", "/dev/null", *(word for key, value in options.items() for word in ("-o", f"{key}={value}")))


def rule_of(context: Context, service: str) -> BackupRule:
    """Return what the policy in effect says. Raises NotFound."""
    policy = context.accepted.effective(service)
    if policy is None or policy.backup is None:
        raise NotFound(
            f"{service} declares no backups", hint="write `backup:` in its spec and deploy it: see docs/data.md"
        )
    return policy.backup


def open_store(
    context: Context,
    service: str,
    *,
    source: str = "",
    reads: tuple[Path, ...] = (),
    writes: tuple[Path, ...] = (),
    cancelled: Callable[[], bool] = lambda: False,
) -> BackupDriver:
    """Open the part of a service's store that the node `source` ("" = this one) writes. Raises what that says."""
    rule = rule_of(context, service)
    wish = StoreWish(
        rule=rule,
        part=part_of(service, source or own_name(context)),
        secrets=open_for_node(context, service, rule.secrets),
        reads=reads,
        writes=writes,
        cancelled=cancelled,
    )
    return context.drivers.stores(wish)


def own_name(context: Context) -> str:
    """Return this node's name, under which it writes to stores."""
    return context.accepted.meta("node_name") or context.config.name
