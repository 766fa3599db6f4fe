"""Locking and fetching Debian packages from an archive made here: signed, in a private root, by digest."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.images.declared.apt import render_sources
from nebh.model.build import DebianSource
from nebh.model.errors import BadInput, Failed, Unreachable
from nebh.spec.image import parse_image
from nebh.testing.built_images import builder_of, lock_of

NEEDED = ("apt-get", "dpkg-deb", "gpg")
pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in NEEDED), reason=f"one of {', '.join(NEEDED)} is not installed"
)


def command(*argv: str, cwd: Path, home: Path) -> bytes:
    env = {"PATH": os.environ["PATH"], "GNUPGHOME": str(home), "HOME": str(home), "LANG": "C.UTF-8"}
    return subprocess.run(argv, cwd=cwd, env=env, check=True, capture_output=True, timeout=120).stdout


class Archive:
    """A signed archive in a folder: dists/stable and a pool."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "archive", folder / "gnupg"
        self.home.mkdir(mode=0o700)
        (self.folder / "pool").mkdir(parents=True)
        self.key = folder / "key.asc"
        self.rows: list[str] = []
        name = "Archive <archive@example.org>"
        options = ("--batch", "--passphrase", "", "--quick-gen-key", name, "ed25519", "sign", "never")
        command("gpg", *options, cwd=folder, home=self.home)
        self.key.write_bytes(command("gpg", "--armor", "--export", cwd=folder, home=self.home))

    def add(self, name: str, version: str, *, depends: str = "", content: bytes = b"x") -> Path:
        root = self.folder.parent / "root"
        (root / "DEBIAN").mkdir(parents=True)
        (root / f"usr/lib/{name}").mkdir(parents=True)
        (root / f"usr/lib/{name}/file").write_bytes(content)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: x <x@example.org>\n"
        control += (f"Depends: {depends}\n" if depends else "") + "Description: x\n"
        (root / "DEBIAN" / "control").write_text(control)
        place = self.folder / "pool" / f"{name}_{version}_amd64.deb"
        command("dpkg-deb", "--root-owner-group", "--build", str(root), str(place), cwd=root, home=self.home)
        shutil.rmtree(root)
        data = place.read_bytes()
        self.rows.append(
            control.replace(
                "Description",
                f"Filename: pool/{place.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\nDescription",
            )
        )
        return place

    def publish(self) -> None:
        dist = self.folder / "dists" / "stable"
        lists = dist / "main" / "binary-amd64"
        lists.mkdir(parents=True, exist_ok=True)
        text = "\n".join(self.rows).encode()
        (lists / "Packages").write_bytes(text)
        (lists / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))
        lines = ["Origin: x", "Suite: stable", "Codename: stable", "Architectures: amd64", "Components: main"]
        lines += ["Date: Sat, 01 Jan 2022 00:00:00 UTC", "SHA256:"]
        for name in ("Packages", "Packages.gz"):
            data = (lists / name).read_bytes()
            lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/{name}")
        (dist / "Release").write_text("\n".join(lines) + "\n")
        (dist / "InRelease").unlink(missing_ok=True)
        options = ("--batch", "--yes", "--clearsign", "-o", "InRelease", "Release")
        command("gpg", *options, cwd=dist, home=self.home)

    def text(self, packages: str) -> str:
        place = f"suite: stable, mirror: 'file://{self.folder}', security: '', keyring: '{self.key}'"
        return f"packages: [{packages}]\ndebian: {{{place}}}\nreduce: none\n"


@pytest.fixture
def archive(short_folder):
    """In a folder that apt's own user may look into."""
    short_folder.chmod(0o755)
    made = Archive(short_folder)
    made.add("app", "1.0-1", depends="lib1 (>= 2)")
    made.add("lib1", "2:2.0+x~1", content=b"library")
    made.add("other", "1")
    made.publish()
    return made


def test_packages_are_pinned_with_what_they_need_and_fetched_by_digest(archive, tmp_path):
    declared = parse_image(archive.text("app"), file="image.yaml")
    builder = builder_of(tmp_path)
    lock = lock_of(declared, builder)
    assert [(one.name, one.version, one.path) for one in lock.packages] == [
        ("app", "1.0-1", "pool/app_1.0-1_amd64.deb"),
        ("lib1", "2:2.0+x~1", "pool/lib1_2:2.0+x~1_amd64.deb"),
    ]
    assert lock == lock_of(declared, builder)
    built = builder.build(declared, lock)
    assert {"usr/lib/app/file", "usr/lib/lib1/file"} <= {one.path for one in built.report.manifest.entries}
    assert [(one.name, one.files) for one in built.sources] == [("app", 1), ("lib1", 1)]


def test_a_package_that_is_not_there_is_named(archive, tmp_path):
    with pytest.raises(BadInput, match="nowhere-at-all"):
        lock_of(parse_image(archive.text("app, nowhere-at-all"), file="i"), builder_of(tmp_path))


def test_lists_without_a_known_signature_are_refused(archive, tmp_path):
    (archive.folder / "dists/stable/InRelease").write_text((archive.folder / "dists/stable/Release").read_text())
    with pytest.raises(Unreachable, match="cannot read the lists"):
        lock_of(parse_image(archive.text("app"), file="i"), builder_of(tmp_path))


def test_other_bytes_than_the_locked_ones_and_a_package_that_vanished_are_one_clear_error_each(archive, tmp_path):
    declared = parse_image(archive.text("app"), file="i")
    builder = builder_of(tmp_path)
    lock = lock_of(declared, builder)
    wrong = replace(lock, packages=(replace(lock.packages[0], sha256="0" * 64), *lock.packages[1:]))
    with pytest.raises((Failed, BadInput), match=r"package app 1\.0-1"):
        builder.build(declared, wrong)
    (archive.folder / lock.packages[1].path).unlink()
    with pytest.raises(Failed, match="cannot fetch package lib1") as caught:
        builder.build(declared, lock)
    assert "nebh image lock" in caught.value.hint
    assert not list((tmp_path / "manifests").iterdir())


def test_sources_name_one_keyring_and_nothing_of_this_machine():
    text = render_sources(DebianSource(), keys="/private/keys.asc")
    assert text.splitlines() == [
        "deb [signed-by=/private/keys.asc] http://deb.debian.org/debian bookworm main",
        "deb [signed-by=/private/keys.asc] http://deb.debian.org/debian bookworm-updates main",
        "deb [signed-by=/private/keys.asc] http://deb.debian.org/debian-security bookworm-security main",
    ]
