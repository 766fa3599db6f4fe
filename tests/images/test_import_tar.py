"""Rootfs tars: what is read, what is refused, and that a tar and its directory are one image."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.images.report import ImportLimits, ImportReport
from nebh.images.store import NodeStore
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, LintRule
from nebh.model.service import ImageSource, SourceKind

pytestmark = pytest.mark.slow


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if info.size else None)
    return out.getvalue()


def load(tmp_path: Path, data: bytes, *, limits: ImportLimits | None = None) -> ImportReport:
    path = tmp_path / "root.tar"
    path.write_bytes(data)
    source = ImageSource(kind=SourceKind.TAR, location=str(path))
    return import_image(source, cache=ImageCache(tmp_path / "cache"), limits=limits or ImportLimits())


def entries(report: ImportReport) -> dict[str, EntryType]:
    return {entry.path: entry.type for entry in report.manifest.entries}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_and_long_names(tmp_path: Path, form: int) -> None:
    long = "usr/" + "n" * 90 + "/" + "m" * 60
    report = load(
        tmp_path,
        tar(
            member("./", type=tarfile.DIRTYPE, mode=0o755),
            member("./bin/", type=tarfile.DIRTYPE, mode=0o750),
            member("./bin/web", b"#!", mode=0o755),
            member(long, b"x"),
            member("lnk", type=tarfile.SYMTYPE, linkname="../../../etc/shadow"),
            member("hard", type=tarfile.LNKTYPE, linkname="./bin/web"),
            form=form,
        ),
    )
    found = {entry.path: entry for entry in report.manifest.entries}
    assert found["hard"].sha256 == found["bin/web"].sha256
    assert found["hard"].mode == 0o755
    assert found["lnk"].target == "../../../etc/shadow"
    assert found["bin"].mode == 0o750
    assert long in found
    assert {"dev", "etc/hosts", "etc/hostname", "etc/resolv.conf", "proc", "tmp"} <= set(found)
    assert any(line.startswith("/etc/hosts: added") for line in report.normalised)
    assert report.ref.manifest == report.digest


@pytest.mark.parametrize(
    "squeeze",
    [
        gzip.compress,
        lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
        zstandard.ZstdCompressor().compress,
        lzma.compress,
    ],
)
def test_compressions_give_the_same_image(tmp_path: Path, squeeze: Callable[[bytes], bytes]) -> None:
    plain = tar(member("a", os.urandom(300_000)))
    assert load(tmp_path, squeeze(plain)).digest == load(tmp_path, plain).digest


def test_what_is_dropped_is_reported(tmp_path: Path) -> None:
    report = load(
        tmp_path,
        tar(
            member("su", b"1", mode=0o4755, uid=5),
            member("tmp", type=tarfile.DIRTYPE, mode=0o1777),
            member("ping", b"2", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": "x"}),
            member("dev/null", type=tarfile.CHRTYPE),
            member("etc/resolv.conf", type=tarfile.SYMTYPE, linkname="/run/resolv.conf"),
        ),
    )
    assert [(one.rule, one.path) for one in report.findings] == [
        (LintRule.SETUID, "su"),
        (LintRule.FILE_CAPABILITY, "ping"),
    ]
    assert all(entry.mode <= 0o777 for entry in report.manifest.entries)
    text = "\n".join(report.normalised)
    assert "/etc/resolv.conf: was a link" in text
    assert "1 entries below /dev left out" in text
    assert "1 entries now belong to 0:0" in text
    assert "/tmp: mode 777 is now 755" in text


REFUSED = {
    "absolute": ([member("/etc/passwd", b"x")], "absolute"),
    "climbing": ([member("../x", b"x")], "'..'"),
    "climbing inside": ([member("a/../../x", b"x")], "'..'"),
    "double slash": ([member("a//b", b"x")], "component ''"),
    "dot inside": ([member("a/./b", b"x")], "'.'"),
    "not utf-8": ([member("a\udcff", b"x")], "not UTF-8"),
    "control character": ([member("a\x1b[2J", b"x")], "control character"),
    "newline": ([member("a\nb", b"x")], "control character"),
    "below a link": (
        [member("lib", type=tarfile.SYMTYPE, linkname="/etc"), member("lib/passwd", b"x")],
        "below /lib, which is a link",
    ),
    "below a file": ([member("a", b"x"), member("a/b", b"x")], "which is a file"),
    "file over link": ([member("a", type=tarfile.SYMTYPE, linkname="/x"), member("a", b"x")], "stands twice"),
    "twice": ([member("a", b"x"), member("a", b"y")], "stands twice"),
    "device": ([member("sda", type=tarfile.BLKTYPE)], "device"),
    "pipe": ([member("p", type=tarfile.FIFOTYPE)], "device or a pipe"),
    "dev is a link": ([member("dev", type=tarfile.SYMTYPE, linkname="/x")], "mount point"),
    "etc is a link": ([member("etc", type=tarfile.SYMTYPE, linkname="/x")], "mount point"),
    "hosts is a directory": ([member("etc/hosts", type=tarfile.DIRTYPE)], "mount point"),
    "hard link to nothing": ([member("a", type=tarfile.LNKTYPE, linkname="nope")], "no file before it"),
    "hard link outside": ([member("a", type=tarfile.LNKTYPE, linkname="../../etc/shadow")], "'..'"),
    "absolute hard link": ([member("a", type=tarfile.LNKTYPE, linkname="/etc/shadow")], "absolute"),
    "hard link to a directory": (
        [member("d", type=tarfile.DIRTYPE), member("a", type=tarfile.LNKTYPE, linkname="d")],
        "no file before it",
    ),
    "hard link below proc": ([member("a", type=tarfile.LNKTYPE, linkname="proc/self/exe")], "left out"),
    "whiteout": ([member("a/.wh.b", b"")], "whiteout"),
    "sparse": ([member("a", b"x", pax_headers={"GNU.sparse.major": "1"})], "sparse"),
    "gnu sparse": ([member("a", b"x" * 10, type=tarfile.GNUTYPE_SPARSE)], "type b'S'"),
    "deep": ([member("/".join("d" * 1 for _ in range(200)), b"x")], "deeper"),
    "long": ([member("/".join(["x" * 200] * 8), b"x")], "longer"),
    "long component": ([member("x" * 256, b"x")], "component is longer"),
    "control in link": ([member("a", type=tarfile.SYMTYPE, linkname="b\nc")], "control character"),
    "zero in name": ([member("a", b"x", pax_headers={"path": "a\0b"})], "zero byte"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    members, reason = REFUSED[name]
    with pytest.raises(BadInput, match=re.escape(reason)):
        load(tmp_path, tar(member("fine", b"ok"), *members))
    assert entries(load(tmp_path, tar(member("fine", b"ok"))))["fine"] is EntryType.FILE
    assert not list(tmp_path.glob("cache/.new-*"))


def test_link_with_a_size_is_ambiguous(tmp_path: Path) -> None:
    info, _ = member("a", type=tarfile.SYMTYPE, linkname="b")
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"00000001000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(BadInput, match="link with a size"):
        load(tmp_path, bytes(header) + b"x" * 512 + bytes(1024))


def test_damaged_archives(tmp_path: Path) -> None:
    good = tar(member("a", b"x" * 2000), member("b", b"y"))
    for data, reason in [
        (good[:700], "cut"),
        (good[:512], "cut"),
        (b"", "cut"),
        (b"hello" * 500, "checksum"),
        (good[:600] + b"z" * 600 + good[1200:3072] + b"\1" * 512, "follows|cut|checksum"),
        (good + b"x", "follows the end"),
        (gzip.compress(good)[:-20], "too early"),
        (lzma.compress(good)[:-20], "too early|damaged"),
        (zstandard.compress(good)[:-8], "cut|damaged"),
        (gzip.compress(good)[:-6] + b"abcdef", "damaged"),
        (good[:3] + b"Q" + good[4:], "checksum"),
    ]:
        with pytest.raises(BadInput, match=reason):
            load(tmp_path, data)


@pytest.mark.parametrize("squeeze", [gzip.compress, lzma.compress, zstandard.compress])
def test_decompression_bomb(tmp_path: Path, squeeze: Callable[[bytes], bytes]) -> None:
    bomb = squeeze(tar(member("zeros", bytes(40 << 20))))
    assert len(bomb) < 1 << 17
    with pytest.raises(BadInput, match="times its size"):
        load(tmp_path, bomb, limits=ImportLimits(free=1 << 20))


def test_limits(tmp_path: Path) -> None:
    many = tar(*(member(f"f{n}", b"") for n in range(50)))
    with pytest.raises(BadInput, match="more than 40 entries"):
        load(tmp_path, many, limits=ImportLimits(entries=40))
    big = tar(member("a", bytes(5000)), member("b", bytes(5000)))
    with pytest.raises(BadInput, match=r"'a': 4\.9 KiB"):
        load(tmp_path, big, limits=ImportLimits(file=4000))
    with pytest.raises(BadInput, match="of content"):
        load(tmp_path, big, limits=ImportLimits(bytes=6000))
    with pytest.raises(BadInput, match="long names"):
        load(tmp_path, tar(member("a", b"", pax_headers={"comment": "x" * (2 << 20)})))


@pytest.mark.long
def test_a_million_entries_end_at_the_limit(tmp_path: Path) -> None:
    """Of a million names, in 3 MB, no more are looked at than an image may have; nothing is left of them."""
    header = member("d", type=tarfile.DIRTYPE)[0].tobuf(tarfile.USTAR_FORMAT)
    squeezed = gzip.compress(header * 10_000, 6) * 100
    assert len(squeezed) < 6 << 20
    limits = ImportLimits()
    with pytest.raises(BadInput, match=f"more than {limits.entries} entries"):
        load(tmp_path, squeezed, limits=limits)
    assert not list((tmp_path / "cache" / "manifests").iterdir())


def test_a_parser_that_runs_away_is_ended(tmp_path: Path) -> None:
    """200,000 empty directories take more than the CPU that is given."""
    header = member("d", type=tarfile.DIRTYPE)[0].tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(BadInput, match="CPU"):
        load(tmp_path, header * 190_000 + bytes(1024), limits=ImportLimits(cpu=1))


NAMES = st.text(st.sampled_from("ab-.é "), min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(PATHS, st.tuples(st.binary(max_size=40), st.sampled_from([0o644, 0o755, 0o600])), max_size=8),
    links=st.dictionaries(PATHS, st.sampled_from(["a", "/etc/passwd", "../../x"]), max_size=3),
)
def test_directory_tar_and_tree_are_one(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, tuple[bytes, int]], links: dict[str, str]
) -> None:
    tmp_path = tmp_path_factory.mktemp("one")
    root = tmp_path / "root"
    root.mkdir()
    for path, (data, mode) in files.items():
        try:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
            (root / path).chmod(mode)
        except OSError:
            continue
    for path, target in links.items():
        try:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(target)
        except OSError:
            continue
    cache = ImageCache(tmp_path / "cache")
    report = import_image(ImageSource(kind=SourceKind.DIRECTORY, location=str(root)), cache=cache)
    subprocess.run(["tar", "-C", root, "-cf", tmp_path / "root.tar", "."], check=True)
    assert load(tmp_path, (tmp_path / "root.tar").read_bytes()).digest == report.digest
    store = NodeStore(tmp_path / "node")
    for digest, size in store.missing(report.manifest).items:
        store.put(digest, size, cache.objects.read(digest))
    tree = store.materialise(report.digest, report.manifest, durable=False)
    assert store.verify_tree(report.manifest, digest=report.digest) == ()
    again = import_image(ImageSource(kind=SourceKind.DIRECTORY, location=str(tree)), cache=cache)
    assert again.digest == report.digest


def test_a_real_tree_by_gnu_tar(tmp_path: Path) -> None:
    """A tree with hard links and long names, packed by GNU tar in its own format and in PAX."""
    root = tmp_path / "root"
    (root / ("l" * 120) / ("m" * 120)).mkdir(parents=True)
    (root / ("l" * 120) / ("m" * 120) / "file").write_bytes(b"deep")
    (root / "hard").hardlink_to(root / ("l" * 120) / ("m" * 120) / "file")
    cache = ImageCache(tmp_path / "cache")
    wanted = import_image(ImageSource(kind=SourceKind.DIRECTORY, location=str(root)), cache=cache).digest
    for form in ("gnu", "pax"):
        out = tmp_path / f"{form}.tar.gz"
        subprocess.run(["tar", f"--format={form}", "-C", root, "-czf", out, "."], check=True)
        assert load(tmp_path, out.read_bytes()).digest == wanted
