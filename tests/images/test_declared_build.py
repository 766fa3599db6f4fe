"""Declared builds without any network: packages and archives made here."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from nebh.images.cache import ImageCache
from nebh.images.declared.layer import LayerCache
from nebh.images.declared.lock import make_lock, read_lock, write_lock
from nebh.images.declared.readers import read_wheel
from nebh.model.errors import BadInput, Conflict, NotFound
from nebh.model.image import EntryType
from nebh.spec.image import parse_image
from nebh.testing.built_images import build_text, builder_of, lock_of

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
TEXT = """
files:
  - {deb: app.deb}
  - {tar: data.tar.gz, to: /srv, strip: 1}
  - {from: conf, to: /etc/app}
entrypoint: [/usr/bin/app]
"""


def make_package(folder: Path, files: dict[str, tuple[bytes, int]], *, script: str = "") -> Path:
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: app\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    if script:
        for name in ("preinst", "postinst"):
            (root / "DEBIAN" / name).write_text(script)
            (root / "DEBIAN" / name).chmod(0o755)
    for path, (data, mode) in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(mode)
    target = folder / "app.deb"
    argv = ["dpkg-deb", "--root-owner-group", "--nocheck", "--build", str(root), str(target)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    shutil.rmtree(root)
    return target


def make_project(folder: Path, *, script: str = "") -> Path:
    folder.mkdir(parents=True)
    make_package(
        folder,
        {
            "usr/bin/app": (b"\x7fELF not really", 0o4755),
            "bin/sh": (b"a shell", 0o755),
            "usr/share/doc/app/copyright": (b"free", 0o644),
            "usr/share/man/man1/app.1": (b"man", 0o644),
            "etc/app/private": (b"x", 0o600),
        },
        script=script,
    )
    (folder / "app.deb").chmod(0o600)  # readers are ordinary users: they get an open file, no path
    with tarfile.open(folder / "data.tar.gz", "w:gz") as tar:
        for name in ("top/page", "top/sub/page"):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 4, os.getpid()
            tar.addfile(info, io.BytesIO(b"page"))
    (folder / "conf" / "__pycache__").mkdir(parents=True)
    (folder / "conf" / "__pycache__" / "x.pyc").write_bytes(os.urandom(8))
    (folder / "conf" / "app.conf").write_text("a = 1\n")
    return folder


def paths(built) -> set[str]:
    return {one.path for one in built.report.manifest.entries if one.type is not EntryType.DIRECTORY}


@needs_dpkg
def test_packages_archives_and_folders_become_one_reduced_tree(tmp_path):
    mark = tmp_path / "ran"
    built = build_text(
        TEXT, base=make_project(tmp_path / "p", script=f"#!/bin/sh\ntouch {mark}\n"), cache=tmp_path / "c"
    )
    assert paths(built) == {
        *("usr/bin/app", "etc/app/private", "etc/app/app.conf", "srv/page", "srv/sub/page"),
        *("bin", "etc/group", "etc/hostname", "etc/hosts", "etc/nsswitch.conf", "etc/passwd", "etc/resolv.conf"),
    }
    modes = {one.path: one.mode for one in built.report.manifest.entries}
    assert (modes["usr/bin/app"], modes["etc/app/private"]) == (0o755, 0o644)
    assert [one.rule.value for one in built.report.findings] == ["setuid"]
    assert not mark.exists(), "a maintainer script ran"


@needs_dpkg
def test_the_same_declaration_and_lock_give_the_same_tree_in_another_place_at_another_time(tmp_path):
    first = make_project(tmp_path / "one")
    declared = parse_image(TEXT, file="image.yaml", base=str(first))
    builder = builder_of(tmp_path / "cache-one")
    lock = lock_of(declared, builder)
    wanted = builder.build(declared, lock).report.digest
    second = tmp_path / "deep" / "er" / "two"
    shutil.copytree(first, second, copy_function=shutil.copyfile)
    (second / "conf" / "app.conf").chmod(0o640)
    os.utime(second / "conf" / "app.conf", (1, 1))
    shutil.rmtree(second / "conf" / "__pycache__")
    write_lock(second / "image.lock", lock)
    again = parse_image(TEXT, file="image.yaml", base=str(second))
    found = builder_of(tmp_path / "cache-two").build(again, read_lock(second / "image.lock"))
    assert found.report.digest == wanted


@needs_dpkg
def test_what_is_not_what_was_locked_is_refused(tmp_path):
    folder = make_project(tmp_path / "p")
    declared = parse_image(TEXT, file="image.yaml", base=str(folder))
    builder = builder_of(tmp_path / "c")
    lock = lock_of(declared, builder)
    (folder / "conf" / "app.conf").write_text("a = 2\n")
    with pytest.raises(BadInput, match="conf: it has changed since the lock") as caught:
        builder.build(declared, lock)
    assert "--refresh" in caught.value.hint
    other = parse_image(TEXT + "python: {requirements: [flask]}\n", file="image.yaml", base=str(folder))
    with pytest.raises(Conflict, match="other sources"):
        builder.build(other, lock)
    with pytest.raises(BadInput, match="the image has no Python"):
        lock_of(other, builder)
    (folder / "app.deb").unlink()
    with pytest.raises(NotFound, match=r"app\.deb"):
        lock_of(declared, builder)
    with pytest.raises(NotFound, match="no lock yet"):
        read_lock(folder / "image.lock")


@needs_dpkg
@pytest.mark.parametrize(
    "name", ["../../escape", "/absolute/../../x", "a/../../b"], ids=["climbs", "absolute", "climbs later"]
)
def test_a_package_whose_paths_leave_it_is_refused_and_leaves_nothing(tmp_path, name):
    """dpkg-deb makes no such package: its data is put in by hand, as an attacker would."""
    make_package(tmp_path, {"usr/x": (b"x", 0o644)})
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    (tmp_path / "data.tar").write_bytes(data.getvalue())
    subprocess.run(["ar", "x", "app.deb", "control.tar.xz"], cwd=tmp_path, check=True, timeout=20)
    (tmp_path / "debian-binary").write_text("2.0\n")
    (tmp_path / "app.deb").unlink()
    argv = ["ar", "rc", "app.deb", "debian-binary", "control.tar.xz", "data.tar"]
    subprocess.run(argv, cwd=tmp_path, check=True, timeout=20)
    with pytest.raises(BadInput, match="path"):
        build_text("files: [{deb: app.deb}]\nentrypoint: [/x]\n", base=tmp_path, cache=tmp_path / "c")
    assert not (tmp_path.parent / "escape").exists()
    assert not list((tmp_path / "c" / "manifests").iterdir())


@needs_dpkg
def test_a_damaged_package_is_one_clear_error(tmp_path):
    (tmp_path / "app.deb").write_bytes(b"!<arch>\nnonsense")
    with pytest.raises(BadInput, match=r"app\.deb"):
        build_text("files: [{deb: app.deb}]\n", base=tmp_path, cache=tmp_path / "c")


def test_an_entrypoint_that_is_nowhere_names_what_is_like_it(tmp_path):
    (tmp_path / "app").write_bytes(b"x")
    with pytest.raises(BadInput, match="is in none of its sources") as caught:
        build_text(
            "files: [{from: app, to: /opt/app}]\nentrypoint: [/usr/bin/app]\n", base=tmp_path, cache=tmp_path / "c"
        )
    assert "/opt/app" in caught.value.hint


def wheel_layer(tmp_path: Path, members: dict[str, bytes]):
    place = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in members.items():
            wheel.writestr(name, data)
    layers = LayerCache(ImageCache(tmp_path))
    descriptor = os.open(place, os.O_RDONLY)
    try:
        return layers.read(lambda intake: read_wheel(descriptor, intake, site="site"), what="x.whl")
    finally:
        os.close(descriptor)


def test_a_wheel_is_laid_out_as_pip_would(tmp_path):
    layer = wheel_layer(
        tmp_path,
        {
            "x/__init__.py": b"import json\n",
            "x-1.data/scripts/run": b"#!python\nprint(1)\n",
            "x-1.data/headers/x.h": b"",
            "x-1.dist-info/entry_points.txt": b"[console_scripts]\nx-serve = x.app:main [extra]\nbad = a b:c\n",
        },
    )
    found = {one.path for one in layer.entries if one.type is EntryType.FILE}
    assert found == {
        "site/x/__init__.py",
        "site/x-1.dist-info/entry_points.txt",
        "usr/local/bin/run",
        "usr/local/bin/x-serve",
    }
    assert ("json",) in {one.imports for one in layer.facts.values()}
    assert {one.script for one in layer.facts.values() if one.script} == {("/usr/bin/python3",)}


@pytest.mark.parametrize("name", ["../x.py", "/x.py", "a/../../x.py", "x-1.data/scripts/../../../x"])
def test_a_wheel_with_hostile_names_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match=r"x\.whl"):
        wheel_layer(tmp_path, {name: b"x"})


def test_a_wheel_that_is_a_bomb_is_refused(tmp_path):
    with pytest.raises(BadInput, match="unpacks to too much"):
        wheel_layer(tmp_path, {"x.py": bytes(200 << 20)})


def test_locks_are_made_of_nothing_but_the_declaration(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    declared = parse_image("files: [{from: x, to: /x}]\n", file="i", base=str(tmp_path))
    builder = builder_of(tmp_path / "c")
    one, two = (make_lock(declared, layers=builder.layers, downloads=builder.downloads, progress=print) for _ in "ab")
    assert one == two
