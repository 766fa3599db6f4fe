"""An .rpm as a source: what it brings, and hostile or damaged ones, made here byte by byte. One is made by rpmbuild."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import struct
from pathlib import Path

import pytest
import zstandard

from nebh.images.cache import ImageCache
from nebh.images.declared.layer import Layer, LayerCache
from nebh.images.declared.rpm import read_rpm
from nebh.model.errors import BadInput
from nebh.model.image import EntryType
from nebh.testing.built_images import build_text

pytestmark = pytest.mark.slow

FILE, FOLDER, LINK, DEVICE = 0o100000, 0o040000, 0o120000, 0o020000


def member(name: str, data: bytes = b"", mode: int = FILE | 0o644, *, inode: int = 0, links: int = 1) -> bytes:
    raw = name.encode() + b"\0"
    fields = (inode, mode, 1000, 1000, links, 1, len(data), 8, 1, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08x" % one for one in fields) + raw
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)


def header(tags: dict[int, list[bytes]]) -> bytes:
    index, store = b"", b""
    for tag, values in tags.items():
        kind = 4 if tag == 1116 else 8
        store += bytes(-len(store) % 4)
        index += struct.pack(">IIII", tag, kind, len(store), len(values))
        store += b"".join(one if kind == 4 else one + b"\0" for one in values)
    return b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", len(tags), len(store)) + index + store


def rpm(*members: bytes, squeeze=gzip.compress, tags: dict[int, list[bytes]] | None = None) -> bytes:
    signatures = header({1000: [b"xyz"]})
    signatures += bytes(-len(signatures) % 8)
    payload = b"".join(members) + member("TRAILER!!!")
    return b"\xed\xab\xee\xdb" + bytes(92) + signatures + header(tags or {1124: [b"cpio"]}) + squeeze(payload)


def read(tmp_path: Path, data: bytes) -> Layer:
    (tmp_path / "app.rpm").write_bytes(data)
    descriptor = os.open(tmp_path / "app.rpm", os.O_RDONLY)
    try:
        return LayerCache(ImageCache(tmp_path)).read(lambda intake: read_rpm(descriptor, intake), what="app.rpm")
    finally:
        os.close(descriptor)


GOOD = (
    member("./usr/bin/app", b"\x7fELF not really", FILE | 0o4755),
    member("./usr/lib/app", b"", FOLDER | 0o700),
    member("./usr/lib/app/current", b"/usr/bin/app", LINK | 0o777),
    member("./usr/lib/one", inode=7, links=3),
    member("./usr/lib/two", inode=7, links=3),
    member("./usr/lib/three", b"the same", inode=7, links=3),
    member("./usr/lib/none", inode=8, links=2),
)


@pytest.mark.parametrize("squeeze", [gzip.compress, zstandard.compress, bytes], ids=["gzip", "zstd", "plain"])
def test_files_links_and_hard_links_come_out(tmp_path, squeeze):
    layer = read(tmp_path, rpm(*GOOD, squeeze=squeeze))
    found = {one.path: one for one in layer.entries if one.type is not EntryType.DIRECTORY}
    assert sorted(found) == [
        *("usr/bin/app", "usr/lib/app/current", "usr/lib/none", "usr/lib/one", "usr/lib/three", "usr/lib/two"),
    ]
    assert found["usr/lib/one"].sha256 == found["usr/lib/two"].sha256 == found["usr/lib/three"].sha256
    assert (found["usr/lib/one"].size, found["usr/lib/none"].size) == (8, 0)
    assert found["usr/lib/app/current"].target == "/usr/bin/app"
    assert found["usr/bin/app"].mode == 0o755
    assert [(one.rule.value, one.path) for one in layer.findings] == [("setuid", "usr/bin/app")]


def test_a_file_capability_is_dropped_and_said(tmp_path):
    tags = {1124: [b"cpio"], 1118: [b"/usr/bin/"], 1117: [b"ping"], 1116: [bytes(4)], 5010: [b"cap_net_raw=ep"]}
    layer = read(tmp_path, rpm(member("./usr/bin/ping", b"x", FILE | 0o755), tags=tags))
    assert [(one.rule.value, one.path) for one in layer.findings] == [("file-capability", "usr/bin/ping")]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("../../escape", b"x")], "path"),
        ([member("/absolute", b"x")], "absolute"),
        ([member("./a/../../x", b"x")], "path"),
        ([member("./dev2", b"", DEVICE | 0o666)], "device or a pipe"),
        ([member("./link", b"x" * 5000, LINK)], "too long"),
        ([member("./link", b"a\0b", LINK)], "link"),
        ([member("./" + "n" * 5000, b"x")], "too long"),
        ([b"07070X" + bytes(200)], "over 4 GiB"),
        ([b"070701" + b"zz" * 60], "no numbers"),
        ([b"070701short"], "cut"),
        ([member("./x", b"x" * 100)[:-50]], "cut|no cpio"),
        ([b"nonsense" * 100], "no cpio archive"),
    ],
)
def test_a_hostile_payload_is_one_clear_error(tmp_path, members, said):
    data = rpm(*members) if members[0][:6] != b"070701" or b"./" in members[0] else None
    if data is None:  # cut: no trailer follows
        head = rpm().partition(b"\x1f\x8b")[0]
        data = head + gzip.compress(members[0])
    with pytest.raises(BadInput, match=said) as caught:
        read(tmp_path, data)
    assert "app.rpm" in caught.value.message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut"),
        (b"\xed\xab\xee\xdb" + bytes(92), "cut"),
        (b"!<arch>\n" + bytes(200), "does not begin"),
        (b"\xed\xab\xee\xdb" + bytes(92) + b"\x8e\xad\xe8\x01" + bytes(4) + b"\xff" * 8, "too long"),
        (b"\xed\xab\xee\xdb" + bytes(92) + b"\x00\xad\xe8\x01" + bytes(200), "not version 1"),
        (rpm(tags={1124: [b"drpm"]}), "not cpio"),
        (rpm(squeeze=lambda data: b"BZh" + data), "bzip2"),
        (rpm(*GOOD)[:-40], "app.rpm"),
    ],
    ids=["empty", "lead alone", "ar", "huge header", "old header", "delta", "bzip2", "cut"],
)
def test_what_is_no_rpm_is_one_clear_error(tmp_path, data, said):
    with pytest.raises(BadInput, match=said):
        read(tmp_path, data)


def test_a_bomb_is_refused(tmp_path):
    with pytest.raises(BadInput, match="times its size"):
        read(tmp_path, rpm(member("./zeros", bytes(300 << 20))))


def test_a_tag_that_leads_outside_is_refused(tmp_path):
    good = rpm()
    place = good.index(struct.pack(">II", 1124, 8))
    bad = good[: place + 8] + struct.pack(">I", 1 << 20) + good[place + 12 :]
    with pytest.raises(BadInput, match="outside its header"):
        read(tmp_path, bad)


def test_a_declaration_takes_it_and_reduces_it(tmp_path):
    extra = (member("./usr/share/doc/app/README", b"read me"), member("./bin/sh", b"a shell", FILE | 0o755))
    (tmp_path / "app.rpm").write_bytes(rpm(*GOOD, *extra))
    built = build_text("files: [{rpm: app.rpm}]\nentrypoint: [/usr/bin/app]\n", base=tmp_path, cache=tmp_path / "cache")
    paths = {one.path for one in built.report.manifest.entries}
    assert "usr/bin/app" in paths
    assert not {one for one in paths if re.search("README|/sh$", one)}
    assert [(one.kind, one.name) for one in built.sources] == [("rpm", "app.rpm")]


@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_rpmbuild_makes_is_read(tmp_path):
    """rpmbuild itself runs in a declared build: nothing is installed here."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    (tmp_path / "app.spec").write_text(
        "Name: app\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n%description\nx\n"
        "%install\nmkdir -p %{buildroot}/opt/app\necho hello > %{buildroot}/opt/app/one\n"
        "ln %{buildroot}/opt/app/one %{buildroot}/opt/app/two\nln -s one %{buildroot}/opt/app/three\n"
        "%post\ntouch /ran\n%files\n/opt/app\n"
    )
    text = """
build:
  packages: [rpm, bash]
  files: [{from: app.spec, to: /src/app.spec}]
  env: {HOME: /tmp}
  run:
    - "mkdir -p /out /tmp/top"
    - "rpmbuild -bb --define '_topdir /tmp/top' --define '_rpmdir /out' --define '_rpmfilename app.rpm' /src/app.spec"
  outputs: [{from: /out/app.rpm, to: /app.rpm}]
reduce: none
"""
    made = build_text(text, base=tmp_path, cache=tmp_path / "cache")
    entry = next(one for one in made.report.manifest.entries if one.path == "app.rpm")
    data = b"".join(ImageCache(tmp_path / "cache").objects.read(entry.sha256))
    (tmp_path / "second").mkdir()
    layer = read(tmp_path / "second", data)
    found = {one.path: one for one in layer.entries if one.path.startswith("opt/app/")}
    assert sorted(found) == ["opt/app/one", "opt/app/three", "opt/app/two"]
    assert found["opt/app/one"].sha256 == found["opt/app/two"].sha256
    assert found["opt/app/three"].target == "one"
