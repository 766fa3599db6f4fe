"""Directories, the confined child, and the cache."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from nebh.host.confine import Confinement, ordinary_user, run_confined
from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.images.report import ImportReport
from nebh.model.errors import BadInput, Broken, NotFound
from nebh.model.image import LintRule
from nebh.model.service import ImageSource, SourceKind


def load(tmp_path: Path, root: Path) -> ImportReport:
    source = ImageSource(kind=SourceKind.DIRECTORY, location=str(root))
    return import_image(source, cache=ImageCache(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "web").write_bytes(b"x" * (3 << 20))
    (root / "secret").write_bytes(b"s")
    (root / "secret").chmod(0o600)
    return root


def test_import_and_again(tmp_path: Path, root: Path) -> None:
    report = load(tmp_path, root)
    cache = ImageCache(tmp_path / "cache")
    assert report.ref.bytes == (3 << 20) + 1
    assert sorted(cache.objects.digests()) == sorted({e.sha256 for e in report.manifest.entries if e.size})
    assert load(tmp_path, root).digest == report.digest
    again = import_image(ImageSource(kind=SourceKind.MANIFEST, location=report.digest), cache=cache)
    assert (again.digest, again.ref, again.manifest) == (report.digest, report.ref, report.manifest)
    for wrong in ("0" * 64, "../x"):
        with pytest.raises(NotFound):
            import_image(ImageSource(kind=SourceKind.MANIFEST, location=wrong), cache=cache)
    assert [path.name for path in cache.root.iterdir() if path.name.startswith(".")] == []


def test_leftovers_of_a_killed_import_go(tmp_path: Path, root: Path) -> None:
    cache = ImageCache(tmp_path / "cache")
    for name, age in ((".new-old", 90_000), (".new-young", 60)):
        (cache.root / name).mkdir()
        os.utime(cache.root / name, (time.time() - age, time.time() - age))
    load(tmp_path, root)
    assert [path.name for path in cache.root.glob(".new-*")] == [".new-young"]
    assert cache.sweep() == 1


def test_what_a_directory_may_not_hold(tmp_path: Path, root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(BadInput, match="'pipe': it is a device"):
        load(tmp_path, root)
    (root / "pipe").unlink()
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).touch()
    with pytest.raises(BadInput, match="not UTF-8"):
        load(tmp_path, root)
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).unlink()
    (root / "bin" / "web").chmod(0o4755)
    (root / "dev").mkdir()
    os.mkfifo(root / "dev" / "initctl")
    report = load(tmp_path, root)
    assert [(one.rule, one.path) for one in report.findings] == [(LintRule.SETUID, "bin/web")]
    assert "1 entries below /dev left out" in report.normalised
    with pytest.raises(NotFound):
        load(tmp_path, tmp_path / "nowhere")
    with pytest.raises(BadInput, match="Not a directory"):
        load(tmp_path, root / "secret")


def test_file_capability(tmp_path: Path, root: Path) -> None:
    try:
        os.setxattr(
            root / "bin" / "web", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
        )
    except OSError as error:
        pytest.skip(f"file capabilities cannot be set here: {error}")
    (finding,) = load(tmp_path, root).findings
    assert (finding.rule, finding.path) == (LintRule.FILE_CAPABILITY, "bin/web")


def test_a_poisoned_scratch_folder_is_not_believed(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "cache")
    with cache.scratch() as scratch:
        (scratch.path / ("0" * 64)).write_bytes(b"not that")
        with pytest.raises(Broken):
            scratch.adopt(cache.objects)
    with cache.scratch() as scratch:
        (scratch.path / ("0" * 64)).symlink_to("/etc/passwd")
        with pytest.raises(OSError, match="symbolic"):
            scratch.adopt(cache.objects)
    assert list(cache.objects.digests()) == []


def confined(work, *, cpu: int = 5, user: int | None = None):
    confinement = Confinement(cpu=cpu, memory=64 << 20, file=1 << 20, user=user)
    return run_confined(work, confinement=confinement, limit=1000)


def test_confinement() -> None:
    assert confined(lambda: b"yes").answer == b"yes"
    assert len(confined(lambda: b"x" * 5000).answer) == 1000
    user = ordinary_user()
    status = confined(lambda: Path("/proc/self/status").read_bytes()[:1000], user=user).answer
    assert b"\nUid:\t%d\t" % (os.geteuid() if user is None else user) in status

    def new_privileges() -> bytes:
        return next(l for l in Path("/proc/self/status").read_bytes().splitlines() if l.startswith(b"NoNewPrivs"))

    assert confined(new_privileges).answer == b"NoNewPrivs:\t1"

    def greedy() -> bytes:
        try:
            return b"%d" % len(bytes(200 << 20))
        except MemoryError:
            return b"refused"

    assert confined(greedy).answer == b"refused"

    def busy() -> bytes:
        while True:
            pass

    assert confined(busy, cpu=1).signal in (signal.SIGXCPU, signal.SIGKILL)

    def broken() -> bytes:
        raise ValueError("no")

    assert confined(broken).status == 1
