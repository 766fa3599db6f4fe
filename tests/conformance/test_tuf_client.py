"""The conformance client against a repository over real HTTP: the attacks of the TUF specification, and honest updates.

The public suite (tuf-conformance) covers more; this is what runs without it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import MetaFile

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).with_name("tuf_client")


def test_the_executable(client):
    repository = client.repository
    repository.add("a.txt", b"one")
    repository.publish("targets", "snapshot", "timestamp")

    def run(*arguments: str) -> int:
        env = {"NEBH_PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
        command = [str(CLIENT), "--metadata-dir", str(client.folder / "metadata"), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode

    url = ["--metadata-url", client.url + "/metadata"]
    assert run("init", str(client.folder / "initial.json")) == 0
    assert run(*url, "refresh") == 0
    download = [
        "--target-base-url",
        client.url + "/targets",
        "--target-dir",
        str(client.folder / "targets"),
        "download",
    ]
    assert run(*url, "--target-name", "a.txt", *download) == 0
    assert client.downloaded() == [b"one"]
    assert run(*url, "--target-name", "b.txt", *download) == 1


def test_refresh_and_download_and_cache(client):
    repository = client.repository
    repository.add("a.txt", b"one")
    repository.add("folder/b.txt", b"two")
    repository.publish("targets", "snapshot", "timestamp")
    assert client.refresh() == 0
    assert client.versions() == {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2}
    assert client.download("a.txt", "folder/b.txt") == 0
    assert client.downloaded() == [b"one", b"two"]
    client.asked.clear()
    assert client.download("a.txt") == 0
    assert client.asked == ["/metadata/2.root.json", "/metadata/timestamp.json"]
    assert client.download("nothing.txt") == 1


def test_rollback_of_each_role_is_refused(client):
    repository = client.repository
    old = dict(repository.files)
    repository.publish("targets", "snapshot", "timestamp")
    assert client.refresh() == 0
    # timestamp
    repository.files["/metadata/timestamp.json"] = old["/metadata/timestamp.json"]
    assert client.refresh() == 1
    # snapshot: a newer timestamp names an older snapshot
    newest = repository.bodies["timestamp"].snapshot_meta
    repository.bodies["timestamp"].snapshot_meta = MetaFile.from_data(1, old["/metadata/1.snapshot.json"], ["sha256"])
    repository.publish("timestamp")
    assert client.refresh() == 1
    repository.bodies["timestamp"].snapshot_meta = newest
    # targets: a newer snapshot names older targets
    repository.bodies["snapshot"].meta["targets.json"] = MetaFile.from_data(
        1, old["/metadata/1.targets.json"], ["sha256"]
    )
    repository.publish("snapshot", "timestamp")
    assert client.refresh() == 1
    assert client.versions()["targets"] == 2


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_expired_roles_are_refused_and_a_renewed_one_is_taken(client, role):
    repository = client.repository
    body = repository.bodies[role]
    good, body.expires = body.expires, datetime.now(tz=UTC).replace(microsecond=0) - timedelta(days=1)
    repository.publish("root", "targets", "snapshot", "timestamp")
    assert client.refresh() == 1
    body.expires = good
    repository.publish("root", "targets", "snapshot", "timestamp")
    assert client.refresh() == 0


def test_wrong_long_and_truncated_targets_are_refused(client):
    repository = client.repository
    repository.add("a.txt", b"right bytes")
    repository.publish("targets", "snapshot", "timestamp")
    (name,) = [name for name in repository.files if name.startswith("/targets/")]
    for bad in (b"wrong bytes", b"right bytes and more", b"right", b""):
        repository.files[name] = bad
        assert client.download("a.txt") == 1
        assert client.downloaded() == []
    repository.files[name] = b"right bytes"
    assert client.download("a.txt") == 0


def test_metadata_with_other_bytes_is_refused(client):
    repository = client.repository
    repository.publish("targets", "snapshot", "timestamp")
    for name in ("/metadata/timestamp.json", "/metadata/2.snapshot.json", "/metadata/2.targets.json"):
        good = repository.files[name]
        repository.files[name] = good.replace(b'"version":2', b'"version":3')
        assert repository.files[name] != good
        assert client.refresh() == 1
        repository.files[name] = b"{" + good
        assert client.refresh() == 1
        repository.files[name] = good
    assert client.refresh() == 0


def test_roots_are_followed_in_order_and_only_when_signed_by_the_one_before(client):
    repository = client.repository
    for _ in range(3):
        repository.new_key("root")
        repository.bodies["root"].roles["root"].threshold += 0
        repository.publish("root")
    assert client.refresh() == 0
    assert client.versions()["root"] == 4
    # a root signed by keys of its own only
    honest = repository.signers["root"]
    repository.signers["root"] = []
    body = repository.bodies["root"]
    for keyid in tuple(body.roles["root"].keyids):
        body.revoke_key(keyid, "root")
    thief = repository.new_key("root")
    repository.publish("root")
    assert client.refresh() == 1
    assert client.versions()["root"] == 4
    # the same change, signed by the old keys too
    body.version -= 1
    repository.signers["root"] = [*honest, thief]
    repository.publish("root")
    assert client.refresh() == 0
    assert client.versions()["root"] == 5


def test_a_skipped_root_version_is_refused(client):
    repository = client.repository
    repository.publish("root", "root")
    repository.files["/metadata/2.root.json"] = repository.files["/metadata/3.root.json"]
    assert client.refresh() == 1
    assert client.versions() == {"root": 1}


def test_a_rotated_key_signs_no_longer(client):
    repository = client.repository
    assert client.refresh() == 0
    thief = repository.signers["timestamp"]
    body = repository.bodies["root"]
    for keyid in tuple(body.roles["timestamp"].keyids):
        body.revoke_key(keyid, "timestamp")
    repository.signers["timestamp"] = []
    honest = [repository.new_key("timestamp")]
    repository.signers["timestamp"] = thief
    repository.publish("root", "timestamp")
    assert client.refresh() == 1
    repository.signers["timestamp"] = honest
    repository.publish("timestamp")
    assert client.refresh() == 0


def test_a_fast_forwarded_timestamp_is_recovered_from_by_rotation(client):
    repository = client.repository
    repository.bodies["timestamp"].version = 10_000
    repository.publish("timestamp")
    assert client.refresh() == 0
    repository.bodies["timestamp"].version = 5
    repository.publish("timestamp")
    assert client.refresh() == 1
    body = repository.bodies["root"]
    for keyid in tuple(body.roles["timestamp"].keyids):
        body.revoke_key(keyid, "timestamp")
    repository.signers["timestamp"] = []
    repository.new_key("timestamp")
    repository.publish("root", "timestamp")
    assert client.refresh() == 0


@pytest.mark.parametrize("role", ["team", "?", "#", "/role", "../role"])
def test_delegated_roles_and_their_names(client, role):
    repository = client.repository
    repository.delegate(role, ["x/*"])
    repository.add("x/a", b"delegated", role)
    repository.publish(role, "targets", "snapshot", "timestamp")
    assert client.download("x/a") == 0
    assert client.downloaded() == [b"delegated"]
    assert client.versions()[role] == 1
    assert not (client.folder / "role.json").exists()
    # the role may not speak for other paths
    repository.add("y/b", b"outside", role)
    repository.publish(role, "targets", "snapshot", "timestamp")
    assert client.download("y/b") == 1


def test_missing_files_are_an_error_without_a_traceback(client):
    del client.repository.files["/metadata/1.snapshot.json"]
    assert client.refresh() == 1
    assert client.versions() == {"root": 1, "timestamp": 1}
    shutil.rmtree(client.folder / "metadata")
    assert client.refresh() == 1


def test_a_frozen_repository_is_accepted_until_its_timestamp_expires(client):
    repository = client.repository
    body = repository.bodies["timestamp"]
    for seconds in (3, 12, 48):  # a machine so busy that the first ones pass unused gets longer ones
        body.expires = datetime.now(tz=UTC).replace(microsecond=0) + timedelta(seconds=seconds)
        repository.publish("timestamp")
        if client.refresh() == 0:
            break
    assert client.versions()["timestamp"] == body.version
    time.sleep(max(0.0, (body.expires - datetime.now(tz=UTC)).total_seconds()) + 0.1)
    assert client.refresh() == 1
