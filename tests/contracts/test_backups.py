"""What every backup driver promises, asked of restic (with a folder and over SFTP) and of the fake."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.drivers.backups.base import digest_folder
from nebh.drivers.backups.fake import FakeBackups
from nebh.drivers.backups.restic import BackupStore, ResticBackups
from nebh.host.run import Command, Result, run
from nebh.model.backup import Backup, BackupRetention
from nebh.model.errors import BadInput, Broken, Failed, NebhError, NotFound, Refused, Unreachable

NAME = "db.data.0"
KEY = "S3CR3T-of-the-store"


class FakeCase:
    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.driver = FakeBackups(folder / "store")

    def exchange(self, one: Backup, other: Backup) -> None:
        self.driver.exchange(one, other)

    def lose(self, one: Backup) -> None:
        self.driver.lose(one)


class ResticCase:
    """restic on a folder. Its commands are kept, to look for what must not be in them."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        if shutil.which("restic") is None:
            pytest.skip("restic is not installed (packaging/packages.sh runtime)")
        self.folder, self.commands = folder, []
        (folder / "password").write_text(KEY)
        (folder / "password").chmod(0o600)
        self.driver = ResticBackups(self.store(folder / "store"), start=self.start)

    def store(self, place: Path, **more) -> BackupStore:
        plain = {"repository": str(place), "password_file": self.folder / "password", "cache": self.folder / "cache"}
        return BackupStore(**{**plain, **more})

    def start(self, command: Command) -> Result:
        self.commands.append(command)
        return run(command)

    def exchange(self, one: Backup, other: Backup) -> None:
        """What the store can do: give one file's bytes for another's."""
        snapshots = self.folder / "store" / "snapshots"
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        (snapshots / one.id).chmod(0o600)
        (snapshots / one.id).write_bytes((snapshots / other.id).read_bytes())

    def lose(self, one: Backup) -> None:
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        (self.folder / "store" / "snapshots" / one.id).unlink()


@pytest.fixture(params=[FakeCase, pytest.param(ResticCase, marks=pytest.mark.long)])  # daily: see restic's own
def case(request, tmp_path):
    with contextlib.ExitStack() as stack:
        made = request.param(tmp_path, stack)
        made.driver.init()
        yield made


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "kept" / "data", "one")


def fill(place: Path, text: str) -> Path:
    place.mkdir(parents=True, mode=0o750, exist_ok=True)
    (place / "file").write_text(text)
    (place / "large").write_bytes(text.encode() * 100_000)
    if not (place / "link").is_symlink():
        (place / "link").symlink_to("/etc/passwd")
    (place / "folder").mkdir(exist_ok=True)
    (place / "folder" / "new\nline").write_text("x")
    os.chmod(place / "file", 0o640)
    return place


def test_what_was_backed_up_comes_back(case, folder, tmp_path):
    for _ in range(2):
        case.driver.init()
    made = case.driver.backup(folder, volume=NAME, snapshot="r1")
    assert (made.volume, made.snapshot) == (NAME, "r1")
    assert (made.digest, made.bytes) == digest_folder(folder)
    assert case.driver.backup(folder, volume=NAME, snapshot="r1") == made, "once is enough"
    assert case.driver.list() == (made,)
    case.driver.restore(made, into=tmp_path / "back")
    assert digest_folder(tmp_path / "back") == digest_folder(folder)
    assert os.readlink(tmp_path / "back" / "link") == "/etc/passwd"
    assert not list(tmp_path.glob(".back*"))
    with pytest.raises(BadInput, match="there already"):
        case.driver.restore(made, into=tmp_path / "back")
    case.driver.verify()
    case.driver.verify(percent=100)


def test_an_empty_folder_is_a_backup_too(case, tmp_path):
    (tmp_path / "empty").mkdir()
    made = case.driver.backup(tmp_path / "empty", volume=NAME, snapshot="r1")
    case.driver.restore(made, into=tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


def test_each_backup_is_what_it_was_then(case, folder, tmp_path):
    first = case.driver.backup(folder, volume=NAME, snapshot="r1")
    fill(folder, "two")
    second = case.driver.backup(folder, volume=NAME, snapshot="r2")
    assert case.driver.list() == (first, second)
    case.driver.restore(first, into=tmp_path / "first")
    case.driver.restore(second, into=tmp_path / "second")
    assert (tmp_path / "first" / "file").read_text() == "one"
    assert (tmp_path / "second" / "file").read_text() == "two"


def test_an_exchanged_backup_is_refused(case, folder, tmp_path):
    first = case.driver.backup(folder, volume=NAME, snapshot="r1")
    fill(folder, "two")
    second = case.driver.backup(folder, volume=NAME, snapshot="r2")
    case.exchange(second, first)
    with pytest.raises((Refused, NotFound, Failed, Broken)):
        case.driver.restore(second, into=tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not list(tmp_path.glob(".back*"))
    with pytest.raises(NebhError):
        case.driver.verify(percent=100)


def test_an_older_backup_under_a_newer_record_is_refused(case, folder, tmp_path):
    first = case.driver.backup(folder, volume=NAME, snapshot="r1")
    fill(folder, "two")
    second = case.driver.backup(folder, volume=NAME, snapshot="r2")
    for lie in (
        replace(second, id=first.id),
        replace(first, digest=second.digest),
        replace(first, volume="web.data.0"),
    ):
        with pytest.raises(Refused):
            case.driver.restore(lie, into=tmp_path / "back")
    assert not (tmp_path / "back").exists()
    case.driver.restore(second, into=tmp_path / "back")


def test_a_lost_backup_is_told(case, folder, tmp_path):
    first = case.driver.backup(folder, volume=NAME, snapshot="r1")
    case.lose(first)
    with pytest.raises(NotFound):
        case.driver.restore(first, into=tmp_path / "back")
    for bad in ("", "latest", first.id[:8], "../x"):
        with pytest.raises(BadInput):
            case.driver.restore(replace(first, id=bad), into=tmp_path / "back")


def test_retention_keeps_the_last_and_what_may_never_go(case, folder):
    made = []
    for number in range(5):
        fill(folder, f"{number}")
        made.append(case.driver.backup(folder, volume=NAME, snapshot=f"r{number}"))
    other = case.driver.backup(folder, volume="web.data.0", snapshot="r1")
    rule = BackupRetention(last=2, daily=0, weekly=0, monthly=0)
    gone = case.driver.forget(NAME, rule, never=frozenset({made[0].id}))
    assert set(gone) == {made[1].id, made[2].id}
    assert set(case.driver.list()) == {made[0], made[3], made[4], other}
    assert case.driver.forget(NAME, replace(rule, last=0)) == (made[0].id, made[3].id)
    assert set(case.driver.list()) == {made[4], other}
    assert case.driver.forget("a.b.0", rule) == ()


def test_names_are_checked(case, folder):
    for bad in ("", "../x", "a b", "A", "--x"):
        with pytest.raises(BadInput):
            case.driver.backup(folder, volume=bad, snapshot="r1")
        with pytest.raises(BadInput):
            case.driver.backup(folder, volume=NAME, snapshot=bad)
    assert case.driver.list() == ()


def test_the_fake_fails_and_hangs_when_told(folder, tmp_path):
    driver = FakeBackups(tmp_path / "store")
    driver.init()
    driver.fail_next("backup", Unreachable("the store does not answer"))
    with pytest.raises(Unreachable):
        driver.backup(folder, volume=NAME, snapshot="r1")
    gate = driver.hang_next("list")
    thread = threading.Thread(target=driver.list)
    thread.start()
    assert thread.is_alive()
    gate.set()
    thread.join(10)
    assert driver.calls == [("init", ""), ("backup", NAME), ("list", "")]


# restic's own


@pytest.fixture
def restic(tmp_path):
    with contextlib.ExitStack() as stack:
        made = ResticCase(tmp_path, stack)
        made.driver.init()
        yield made


def test_the_password_is_in_no_argv_and_no_environment(restic, folder, tmp_path):
    made = restic.driver.backup(folder, volume=NAME, snapshot="r1")
    restic.driver.restore(made, into=tmp_path / "back")
    assert len(restic.commands) > 4
    for command in restic.commands:
        assert KEY not in " ".join((*command.argv, *command.env.values()))
    store = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert b"one" * 100 not in store, "it is encrypted"


@pytest.mark.long
def test_it_comes_back_and_nothing_else_does(restic, folder, tmp_path):
    """The daily part of what every driver promises."""
    first = restic.driver.backup(folder, volume=NAME, snapshot="r1")
    fill(folder, "two")
    second = restic.driver.backup(folder, volume=NAME, snapshot="r2")
    assert restic.driver.list() == (first, second)
    restic.driver.restore(second, into=tmp_path / "back")
    assert digest_folder(tmp_path / "back") == digest_folder(folder)
    with pytest.raises(Refused):
        restic.driver.restore(replace(second, id=first.id), into=tmp_path / "more")
    assert not (tmp_path / "more").exists()


@pytest.mark.long
def test_what_a_killed_writer_locked_is_freed(restic, folder):
    made = restic.driver.backup(folder, volume=NAME, snapshot="r1")
    (lock,) = restic_locks(restic, folder)
    assert lock.is_file()
    rule = BackupRetention(last=1, daily=0, weekly=0, monthly=0)
    fill(folder, "two")
    restic.driver.backup(folder, volume=NAME, snapshot="r2")
    assert restic.driver.forget(NAME, rule) == (made.id,)


def restic_locks(restic, folder) -> list:
    """Kill a writer once it has locked the store; return what it left."""
    env = {
        "RESTIC_REPOSITORY": str(restic.folder / "store"),
        "RESTIC_PASSWORD_FILE": str(restic.folder / "password"),
        "PATH": os.environ["PATH"],
    }
    (folder / "slow").write_bytes(os.urandom(64 << 20))
    process = subprocess.Popen(["restic", "backup", "--no-cache", "--limit-upload", "10", str(folder)], env=env)
    locks = restic.folder / "store" / "locks"
    while not list(locks.iterdir()):
        assert process.poll() is None
    process.kill()
    process.wait()
    (folder / "slow").unlink()
    return list(locks.iterdir())


@pytest.mark.long
@pytest.mark.root
def test_a_store_that_is_full_is_said(restic, folder, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(full)], check=True)
    try:
        driver = ResticBackups(restic.store(full / "store", patience=100.0))
        driver.init()
        (folder / "random").write_bytes(os.urandom(4 << 20))
        with pytest.raises(Failed, match="the store is full"):
            driver.backup(folder, volume=NAME, snapshot="r1")
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_another_password_is_said(restic, tmp_path):
    (tmp_path / "other").write_text("another")
    (tmp_path / "other").chmod(0o600)
    with pytest.raises(BadInput, match="another password"):
        ResticBackups(restic.store(tmp_path / "store", password_file=tmp_path / "other")).init()


@pytest.mark.long
def test_a_damaged_store_is_found(restic, folder, tmp_path):
    made = restic.driver.backup(folder, volume=NAME, snapshot="r1")
    pack = max(
        (path for path in (tmp_path / "store" / "data").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    with pytest.raises(Broken):
        restic.driver.verify(percent=100)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(Broken, match="the store is damaged"):
        restic.driver.restore(made, into=tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.long
@pytest.mark.root
def test_over_sftp(restic, folder, tmp_path):
    """sftp-server at the other end of a pipe: what ssh would lead to."""
    server = "/usr/lib/openssh/sftp-server"
    if not os.path.exists(server):
        pytest.skip(f"{server} is not installed")
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\nexec {server}\n")
    program.chmod(0o755)
    store = restic.store(tmp_path, repository=f"sftp:backup@host.example:{tmp_path}/remote", ssh=(str(program),))
    driver = ResticBackups(store)
    driver.init()
    made = driver.backup(folder, volume=NAME, snapshot="r1")
    driver.restore(made, into=tmp_path / "back")
    assert digest_folder(tmp_path / "back") == digest_folder(folder)


@pytest.mark.long
def test_an_s3_store_that_does_not_answer_is_said(restic, tmp_path):
    (tmp_path / "key").write_text("[default]\naws_access_key_id = k\naws_secret_access_key = s\n")
    (tmp_path / "key").chmod(0o600)
    address = "s3:http://127.0.0.1:1/bucket/path"
    driver = ResticBackups(restic.store(tmp_path, repository=address, credentials=tmp_path / "key", patience=20.0))
    with pytest.raises(Unreachable):
        driver.list()


def test_all_that_is_wrong_with_a_store_is_said_at_once(tmp_path):
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    for repository in (
        "relative",
        "sftp:host:/x",
        "s3:bucket",
        "rest:http://host/",
        "sftp:-oProxyCommand=x@h:/x",
        "sftp:x@-oProxyCommand=y:/x",
    ):
        with pytest.raises(BadInput) as caught:
            ResticBackups(BackupStore(repository=repository, password_file=tmp_path / "open", cache=tmp_path / "cache"))
        assert repr(repository) in str(caught.value)
        assert "can be read by others" in str(caught.value)
    with pytest.raises(BadInput, match="needs a file with its key"):
        ResticBackups(
            BackupStore(repository="s3:https://h/b", password_file=tmp_path / "none", cache=tmp_path / "cache")
        )


def test_a_program_that_is_not_there_is_named(tmp_path):
    if shutil.which("restic") is not None:
        pytest.skip("restic is installed")
    (tmp_path / "password").write_text("x")
    (tmp_path / "password").chmod(0o600)
    store = BackupStore(repository="/srv/backups", password_file=tmp_path / "password", cache=tmp_path / "cache")
    with pytest.raises(Failed, match="restic is not installed"):
        ResticBackups(store).init()


def test_the_digest_sees_what_counts(folder, tmp_path):
    before = digest_folder(folder)
    subprocess.run(["touch", folder / "file"], check=True)
    assert digest_folder(folder) == before, "times do not count"
    for change, undo in (
        (lambda: (folder / "file").chmod(0o600), lambda: (folder / "file").chmod(0o640)),
        (lambda: folder.chmod(0o700), lambda: folder.chmod(0o750)),
        (lambda: (folder / "file").write_text("onf"), lambda: (folder / "file").write_text("one")),
        ((folder / "more").mkdir, (folder / "more").rmdir),
        (lambda: (folder / "folder").rename(folder / "g"), lambda: (folder / "g").rename(folder / "folder")),
    ):
        change()
        assert digest_folder(folder) != before
        undo()
        assert digest_folder(folder) == before
