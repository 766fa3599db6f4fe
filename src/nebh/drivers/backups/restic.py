"""Backups by restic: encrypted, deduplicated, in a folder, over SFTP or in an S3-compatible store.

A backup's id is the SHA-256 of a file in the store that names its tree by hash, and so on down: by its id one gets what
was backed up, or an error. The password is in a file that restic reads, never in its argv or ours.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import secrets
import shlex
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nebh.drivers.backups.base import RULE, check_restored, digest_folder
from nebh.host.disk import sync_filesystem
from nebh.host.files import fsync_directory
from nebh.host.run import Command, CommandFailed, Result, run
from nebh.host.trees import open_folder, remove_tree
from nebh.model.backup import Backup, BackupRetention
from nebh.model.errors import BadInput, Broken, Conflict, Failed, NebhError, NotFound, Refused, Unreachable
from nebh.model.names import is_digest
from nebh.model.stored import check_stored_name

_TAG = "nebh"
_SFTP = re.compile(
    r"sftp:(?P<user>[a-z_][a-z0-9_.-]*)@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-f:]+\]):(?P<path>/\S*)\Z"
)
_S3 = re.compile(r"s3:https?://[^/@\s]+/\S+\Z")
_NO_STORE = ("unable to open config file", "Is there a repository at the following location?")
_WRONG_PASSWORD = "wrong password or no key found"  # noqa: S105 - what restic says
_READS = ("--no-lock",)
"""Readers leave no lock: one that is killed must not hold a writer up."""
_FIRST_ANSWER = 120.0
"""Seconds in which a store has to answer at all: restic itself would try for a quarter of an hour."""
_UNREADABLE = b"could not load snapshot"
_LOCKED = "already locked"
_FULL = ("no space left on device", "disk quota exceeded", "xminiostoragefull", "quotaexceeded", "insufficient storage")
_DAMAGED = (
    "does not match id",
    "ciphertext verification failed",
    "invalid data returned",
    "pack file",
    "unexpected eof",
)
_DENIED = ("permission denied", "access denied", "forbidden", "invalidaccesskeyid", "signaturedoesnotmatch")
_NO_SESSION = "unable to start the sftp session"
_AWAY = (
    "connection refused",
    "no such host",
    "i/o timeout",
    "no route to host",
    "connection reset",
    "network is",
)


@dataclass(frozen=True, kw_only=True)
class BackupStore:
    """Where backups go. repository: an absolute path, `sftp:user@host:/path` or `s3:https://host/bucket/path`;
    password_file: root's alone; cache: folder for restic's index; ssh: words of the ssh command for SFTP (host key and
    identity); credentials: file of an S3 key in the form of `~/.aws/credentials`; region: of S3, "" = the store's own;
    patience: seconds for one verb; given: whoever starts restic puts these files before it, and only there."""

    repository: str
    password_file: Path
    cache: Path
    ssh: tuple[str, ...] = ("ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes")
    credentials: Path | None = None
    region: str = ""
    given: bool = False
    patience: float = 24 * 3600.0

    def find_problems(self) -> tuple[str, ...]:
        """Return one sentence for everything that is wrong with it."""
        found = []
        if not (self.repository.startswith("/") or _SFTP.match(self.repository) or _S3.match(self.repository)):
            found.append(
                f"{self.repository!r} is no absolute path, no sftp:user@host:/path and no s3:https://host/bucket/path"
            )
        if self.repository.startswith("s3:") and self.credentials is None:
            found.append("an S3 store needs a file with its key")
        for path in () if self.given else filter(None, (self.password_file, self.credentials)):
            found += _check_private(path)
        return tuple(found)


def _check_private(path: Path) -> list[str]:
    try:
        state = path.lstat()
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    if not stat.S_ISREG(state.st_mode):
        return [f"{path} is no file"]
    if state.st_mode & 0o077:
        return [f"{path} can be read by others: chmod 600 {path}"]
    return [] if state.st_size else [f"{path} is empty"]


class ResticBackups:
    """Contract: base.BackupDriver. Raises BadInput for a store that cannot be one, all problems at once. start: runs
    commands, where the store can be reached from."""

    def __init__(self, store: BackupStore, *, start: Callable[[Command], Result] = run) -> None:
        problems = store.find_problems()
        if problems:
            raise BadInput("cannot back up: " + "; ".join(problems))
        self._store = store
        self._start = start
        self._unreadable = ""

    def init(self) -> None:
        """As promised by the contract."""
        try:
            self._restic("look for the store of backups", "cat", "config", *_READS)
        except NotFound:
            self._restic("make the store of backups", "init")

    def backup(self, folder: Path, *, volume: str, snapshot: str) -> Backup:
        """As promised by the contract."""
        check_stored_name(volume, what="volume")
        check_stored_name(snapshot, what="snapshot")
        digest, size = digest_folder(folder)
        before = [one for one in self.list() if one.volume == volume]
        for one in before:
            if one.snapshot == snapshot and one.digest == digest:
                return one
        mark = f"run={secrets.token_hex(16)}"
        tags = (f"volume={volume}", f"snapshot={snapshot}", f"digest={digest}", f"bytes={size}", mark)
        words = [word for tag in (_TAG, *tags) for word in ("--tag", tag)]
        parent = ("--parent", before[-1].id) if before else ("--force",)
        self._write(
            f"back up volume {volume}", "backup", "--host", "nebh", *words, *parent, "--", folder.name, at=folder.parent
        )
        made = [one for one, found in self._read() if mark in found["tags"]]
        if len(made) != 1:
            raise Failed(f"cannot back up volume {volume}: the store does not list what was sent to it")
        return made[0]

    def list(self) -> tuple[Backup, ...]:
        """As promised by the contract."""
        return tuple(one for one, _ in self._read())

    def _read(self) -> tuple[tuple[Backup, dict[str, Any]], ...]:
        said = self._restic("list backups", "snapshots", "--json", "--tag", _TAG, *_READS)
        if _UNREADABLE in said.stderr and self._forget_cache():
            said = self._restic("list backups", "snapshots", "--json", "--tag", _TAG, *_READS)
        self._unreadable = said.stderr.decode(errors="replace") if _UNREADABLE in said.stderr else ""
        try:
            found = [(_parse_snapshot(one), one) for one in json.loads(said.stdout) or ()]
        except (ValueError, KeyError, TypeError) as error:
            raise Broken(f"cannot list backups: restic's answer makes no sense: {error}") from error
        return tuple(sorted(found, key=lambda pair: (pair[0].taken_at, pair[0].id)))

    def restore(self, wanted: Backup, *, into: Path) -> None:
        """As promised by the contract."""
        if not is_digest(wanted.id):
            raise BadInput(f"cannot restore backup {wanted.id!r}: its id is no whole SHA-256")
        if into.exists() or into.is_symlink():
            raise BadInput(f"cannot restore a backup into {into}: it is there already")
        what = f"restore volume {wanted.volume} from backup {wanted.id[:12]}"
        found = next((one for one in self.list() if one.id == wanted.id), None)
        if found is None and wanted.id[:8] in self._unreadable:
            raise Broken(f"cannot {what}: its record in the store was exchanged or damaged: {self._unreadable.strip()}")
        if found is None:
            raise NotFound(f"cannot {what}: the store does not have it (any more)")
        if (found.volume, found.snapshot, found.digest) != (wanted.volume, wanted.snapshot, wanted.digest):
            raise Refused(f"cannot {what}: the store says it is of something else", rule=RULE)
        part = into.with_name(f".{into.name}.part")
        remove_tree(part)
        part.mkdir(mode=0o700)
        try:
            self._restic(what, "restore", wanted.id, "--target", str(part), *_READS)
            (folder,) = part.iterdir()
            check_restored(wanted, folder)
            descriptor = open_folder(folder)
            try:
                sync_filesystem(descriptor)
            finally:
                os.close(descriptor)
            folder.rename(into)
            fsync_directory(into.parent)
        except (ValueError, OSError) as error:
            raise Failed(f"cannot {what}: {error}") from error
        finally:
            remove_tree(part)

    def verify(self, *, percent: int = 0) -> None:
        """As promised by the contract."""
        more = (f"--read-data-subset={percent}%",) if 0 < percent < 100 else ("--read-data",) if percent else ()
        try:
            self._restic("verify the backups", "check", *more, *_READS)
        except (Unreachable, NotFound, BadInput):
            raise
        except Failed as error:
            raise Broken(error.message, hint="`restic check` and `restic repair` say more") from error

    def forget(
        self, volume: str, retention: BackupRetention, *, never: frozenset[str] = frozenset()
    ) -> tuple[str, ...]:
        """As promised by the contract."""
        check_stored_name(volume, what="volume")
        words = {
            "last": max(1, retention.last),
            **{one: getattr(retention, one) for one in ("daily", "weekly", "monthly")},
        }
        keep = [word for name, count in words.items() if count > 0 for word in (f"--keep-{name}", str(count))]
        what = f"forget backups of volume {volume}"
        tags = ("--tag", f"{_TAG},volume={volume}", "--group-by", "")
        said = self._restic(what, "forget", "--dry-run", "--json", *tags, *keep, *_READS)
        try:
            groups = json.loads(said.stdout.decode().splitlines()[0] if said.stdout.strip() else "[]") or []
            names = tuple(one["id"] for group in groups for one in group.get("remove") or ())
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Broken(f"cannot {what}: restic's answer makes no sense: {error}") from error
        gone = tuple(
            name for name in reversed(names) if is_digest(name) and name not in never
        )  # it says the newest first
        if gone:
            self._write(what, "forget", "--prune", *gone)
        return gone

    def _write(self, what: str, *words: str, at: Path | None = None) -> Result:
        """Nobody else writes to this part of the store: a lock in it is of a process that was killed."""
        try:
            return self._restic(what, *words, at=at)
        except Conflict:
            self._restic("free the store of backups", "unlock", "--remove-all")
            return self._restic(what, *words, at=at)

    def _restic(self, what: str, *words: str, at: Path | None = None) -> Result:
        if shutil.which("restic", path="/usr/local/bin:/usr/bin:/bin") is None:
            raise Failed(f"cannot {what}: restic is not installed", hint="Debian: restic")
        patience = min(self._store.patience, _FIRST_ANSWER) if words[0] == "cat" else self._store.patience
        command = Command(argv=("restic", *self._options(), *words), env=self._environment(), cwd=at, timeout=patience)
        try:
            return self._start(command)
        except CommandFailed as error:
            said = _explain(what, error)
            if not isinstance(said, Broken) or not self._forget_cache():
                raise said from error
        try:
            return self._start(command)
        except CommandFailed as error:
            raise _explain(what, error) from error

    def _forget_cache(self) -> bool:
        """What is damaged may be a copy that was once taken of a damaged store. Tell whether there was one."""
        found = tuple(self._store.cache.iterdir()) if self._store.cache.is_dir() else ()
        for one in found:
            remove_tree(one)
        return bool(found)

    def _options(self) -> tuple[str, ...]:
        found = _SFTP.match(self._store.repository)
        if found is None:
            return ()
        return (
            "-o",
            f"sftp.command={shlex.join((*self._store.ssh, '-l', found['user'], found['host'].strip('[]'), '-s', 'sftp'))}",
        )

    def _environment(self) -> dict[str, str]:
        credentials = {"AWS_SHARED_CREDENTIALS_FILE": str(self._store.credentials)} if self._store.credentials else {}
        return {
            "RESTIC_REPOSITORY": self._store.repository,
            "RESTIC_PASSWORD_FILE": str(self._store.password_file),
            "RESTIC_CACHE_DIR": str(self._store.cache),
            "RESTIC_PROGRESS_FPS": "0.01",
            "TMPDIR": str(self._store.cache),
            **({"AWS_DEFAULT_REGION": self._store.region} if self._store.region else {}),
            **credentials,
        }


def _explain(what: str, error: CommandFailed) -> NebhError:
    # restic before 0.17 ends with 1 for all of these: its words are all there is
    said = error.stderr.strip()[-2000:]
    if error.status is None:
        return Unreachable(f"cannot {what}: the store does not answer in time")
    if _WRONG_PASSWORD in said or error.status == 12:
        return BadInput(
            f"cannot {what}: the store has another password",
            hint="the secret that `backup.password` names is not the one it was made with",
        )
    if _LOCKED in said or error.status == 11:
        return Conflict(f"cannot {what}: the store is locked: {said}")
    if any(word in said.lower() for word in _FULL):
        return Failed(f"cannot {what}: the store is full: {said}", hint="give it more room, or keep fewer backups")
    if "host key verification failed" in said.lower():
        hint = "`host_key` has to be that of the server; if it has a new one, find out why"
        return Failed(f"cannot {what}: the server shows another host key than the one that was declared", hint=hint)
    if any(word in said.lower() for word in _AWAY):
        return Unreachable(f"cannot {what}: the store does not answer: {said}")
    if _NO_SESSION in said.lower():  # what ssh said itself is mostly lost
        hint = "is the server up, is `host_key` its key, and does it let `ssh_key` in? Its log says which"
        return Unreachable(
            f"cannot {what}: the SFTP server does not answer, or one of the two keys is wrong", hint=hint
        )
    if any(word in said for word in _NO_STORE) or error.status == 10:
        return NotFound(f"cannot {what}: there is no store of backups: {said}")
    if any(word in said.lower() for word in _DENIED):
        hint = "is the key of the store right, and may it write there?"
        return Failed(f"cannot {what}: the store does not let us: {said}", hint=hint)
    if any(word in said.lower() for word in _DAMAGED):
        return Broken(
            f"cannot {what}: the store is damaged: {said}", hint="choose another backup; `nebh backup verify` says more"
        )
    return Failed(f"cannot {what}: restic ended with status {error.status}: {said}")


def _parse_snapshot(one: dict[str, Any]) -> Backup:
    tags = dict(tag.split("=", 1) for tag in one["tags"] if "=" in tag)
    if not is_digest(one["id"]):
        raise ValueError(f"{one['id']!r} is no id")
    when = datetime.datetime.fromisoformat(_shorten(one["time"]))
    return Backup(
        id=one["id"],
        volume=check_stored_name(tags["volume"], what="volume"),
        snapshot=check_stored_name(tags["snapshot"], what="snapshot"),
        digest=tags["digest"],
        taken_at=int(when.timestamp() * 1000),
        bytes=int(tags["bytes"]),
    )


def _shorten(time: str) -> str:
    """Return RFC 3339 text with at most six digits of a second: restic writes nine."""
    return re.sub(r"(\.\d{6})\d+", r"\1", time)
