"""A real Redis with its append-only file, and a client that counts what it was told is written, through updates, broken
updates, rollbacks and snapshots."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from nebh.cli.images import read_declaration
from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.images.declared.lock import write_lock
from nebh.testing.built_images import builder_of, lock_of

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "data" / "redis"
ANY = tuple(range(256))
BROKEN = 'update: {bake: 20s, checks: [{name: never, exec: [/usr/bin/redis-server, --nonsense, "1"], interval: 1s}]}'


class Writer:
    """Appends 1, 2, 3... to a list, one after the other, for as long as it is let. acked: what Redis said OK to."""

    def __init__(self, name: str) -> None:
        self.acked: list[int] = []
        self._name = name
        self._number = 0
        self._ended = threading.Event()
        self._paused = threading.Event()
        self._still = threading.Event()
        self._rows: list[int] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError, ValueError):
                with Path(f"/run/netns/{self._name}").open("rb") as space:  # another one after a power cut
                    setns(space.fileno(), CLONE_NEWNET)
                with socket.create_connection(("127.0.0.1", 16379), timeout=3) as one, one.makefile("rb") as answers:
                    self._write(one, answers)
            time.sleep(0.02)

    def _write(self, one: socket.socket, answers) -> None:
        while not self._ended.is_set():
            if self._paused.is_set():
                one.sendall(b"LRANGE rows 0 -1\r\n")
                self._rows = [int(_bulk(answers)) for _ in range(int(_line(answers, b"*")))]
                self._still.set()
                time.sleep(0.02)
                continue
            self._number += 1
            one.sendall(b"RPUSH rows %d\r\n" % self._number)
            _line(answers, b":")
            self.acked.append(self._number)
            time.sleep(0.002)

    def rest(self) -> list[int]:
        """Write no more; return what Redis holds."""
        self._still.clear()
        self._paused.set()
        assert self._still.wait(60), "Redis does not answer"
        assert self._rows is not None
        return self._rows

    def go_on(self, *, rows: int = 30) -> None:
        """Write again, and wait until so many more are written."""
        self._paused.clear()
        wanted, end = len(self.acked) + rows, time.monotonic() + 60
        while len(self.acked) < wanted:
            assert time.monotonic() < end, "nothing is written"
            time.sleep(0.02)

    def close(self) -> None:
        self._ended.set()
        self._thread.join(10)


def _line(answers, kind: bytes) -> bytes:
    line = answers.readline()
    if not line.startswith(kind) or not line.endswith(b"\r\n"):
        raise OSError(f"Redis says {line!r}")
    return line[1:].strip()


def _bulk(answers) -> bytes:
    size = int(_line(answers, b"$"))
    return answers.read(size + 2)[:size]


@pytest.fixture(scope="module")
def specs(cloud, disk_folder, shorten) -> dict[str, Path]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    folder = disk_folder / "redis"
    shutil.copytree(EXAMPLE, folder)
    builder = builder_of(cloud.folder / "cache")
    declared = read_declaration(folder / "image.yaml")
    lock = lock_of(declared, builder)
    write_lock(folder / "image.lock", lock)
    builder.build(declared, lock)
    found = {}
    for name in ("release-1", "release-2"):
        found[name] = folder / f"{name}.yaml"
        found[name].write_text(shorten(found[name].read_text()))
    for name, policy in (("broken-keep", "keep"), ("broken-restore", "restore")):
        lines = found["release-2"].read_text().splitlines()
        text = "\n".join(BROKEN if line.startswith("update:") else line for line in lines)
        found[name] = folder / f"{name}.yaml"
        found[name].write_text(f"{text}\npolicy: {{on_failure_data: {policy}}}\n")
    return found


@pytest.fixture(scope="module")
def deploy(cloud, specs):
    def act(name: str, *, accept: tuple[int, ...] = (0,)) -> str:
        done = cloud.nebh("deploy", "--yes-widen", "--json", str(specs[name]), accept=accept, timeout=900.0)
        return str(json.loads(done.stdout)["receipts"][0]["outcome"])

    return act


@pytest.fixture
def writer(cloud, deploy):
    assert deploy("release-1") == "committed"
    made = Writer(cloud.name)
    yield made
    made.close()


def nebh(cloud, *words: str):
    return json.loads(cloud.nebh(*words, "--json", timeout=300.0).stdout)


def lost(writer: Writer, rows: list[int]) -> list[int]:
    """Return what was said to be written and is not there; what is there is there once and in order."""
    assert rows == sorted(set(rows)), "a row stands twice, or out of order"
    return sorted(set(writer.acked) - set(rows))


def test_what_redis_said_is_written_is_there_or_gone_exactly_as_asked(cloud, deploy, writer):
    writer.go_on()
    assert deploy("release-2") == "committed"
    writer.go_on()
    assert lost(writer, writer.rest()) == [], "an update loses nothing"

    writer.go_on()
    assert deploy("broken-keep", accept=ANY) == "rolled-back"
    writer.go_on()
    assert lost(writer, writer.rest()) == [], "one that failed goes back, the data is kept as its policy says"

    writer.go_on()
    before = len(writer.acked)
    assert deploy("broken-restore", accept=ANY) == "rolled-back"
    writer.go_on()
    gone = lost(writer, writer.rest())
    assert gone, "it served for a while"
    assert gone[0] > writer.acked[before - 1], "nothing from before the update"
    assert gone == [one for one in writer.acked if gone[0] <= one <= gone[-1]], "all that it was given, and no more"
    forgotten = set(gone)

    writer.go_on()
    at_most = len(writer.acked)
    name = nebh(cloud, "volume", "snapshot", "redis")["snapshot"]
    snapshotted = len(writer.acked)
    writer.go_on()
    with_all = writer.rest()
    nebh(cloud, "volume", "restore", "redis", name, "--yes")
    rows = writer.rest()
    assert set(writer.acked[:at_most]) - forgotten <= set(rows), "what was written before the snapshot is in it"
    assert rows[-1] <= writer.acked[snapshotted], "and nothing that came after it"
    nebh(cloud, "volume", "undo", "redis", "--yes")
    assert writer.rest() == with_all

    cloud.nebh("rollback", "redis", "--to", "1", timeout=300.0)
    assert writer.rest() == with_all, "release 1 on today's data"
    writer.go_on()
    at_most = len(writer.acked)
    cloud.nebh("rollback", "redis", "--to", "2", "--data", "restore", "--yes", timeout=300.0)
    rows = writer.rest()
    assert rows[: len(with_all)] == with_all, "release 2 with the data that it last had"
    assert rows[len(with_all)] > writer.acked[at_most - 1], "and nothing that release 1 was given"

    began = len(writer.acked)
    writer.go_on()
    cloud.power_cut()
    cloud.up()
    writer.go_on()
    assert not set(writer.acked[began:]) - set(writer.rest()), "a power cut loses nothing that was said to be written"
