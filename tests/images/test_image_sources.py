"""Other images as sources of a declaration: pinned by their tree, reduced as packages are."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from nebh.images.cache import ImageCache
from nebh.images.declared.lock import read_lock, write_lock
from nebh.images.export import ExportSettings, export_layout
from nebh.images.importing import import_image
from nebh.model.errors import BadInput, NotFound
from nebh.model.image import EntryType
from nebh.model.service import ImageSource, SourceKind
from nebh.spec.image import parse_image
from nebh.testing.built_images import build_text, builder_of, lock_of

NAMES = {"oci": "layout:base", "docker-archive": "saved.tar"}


def make_base(folder: Path, *, word: bytes = b"one") -> str:
    """Make an image with a program, a shell and a page of a manual as an OCI layout; return its tree's digest."""
    cache = ImageCache(folder / "made")
    with tarfile.open(folder / "base.tar", "w") as tar:
        for name, data, mode in (
            ("usr/bin/app", b"\x7fELF not really", 0o755),
            ("bin/sh", b"a shell", 0o755),
            ("usr/share/man/man1/app.1", b"man", 0o644),
            ("usr/share/app/word", word, 0o644),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    report = import_image(ImageSource(kind=SourceKind.TAR, location=str(folder / "base.tar")), cache=cache)
    shutil.rmtree(folder / "layout", ignore_errors=True)
    settings = ExportSettings(architecture="amd64", entrypoint=("/usr/bin/app",), user="", name="base", labels={})
    export_layout(report.manifest, cache.objects, folder / "layout", settings=settings)
    return report.digest


def text(kind: str, folder: Path) -> str:
    if kind == "docker-archive":
        if shutil.which("skopeo") is None:
            pytest.skip("skopeo is not installed")
        (folder / "saved.tar").unlink(missing_ok=True)
        argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "oci:layout:base", "docker-archive:saved.tar:base:1"]
        subprocess.run(argv, cwd=folder, check=True, capture_output=True, timeout=60)
    return f"files: [{{{kind}: {NAMES[kind]}}}, {{from: own, to: /srv/own}}]\nentrypoint: [/usr/bin/app]\n"


def paths(built) -> set[str]:
    return {one.path for one in built.report.manifest.entries if one.type is EntryType.FILE}


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "own").write_bytes(b"own")
    make_base(folder)
    return folder


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
def test_an_image_is_laid_in_and_reduced(project, tmp_path, kind):
    built = build_text(text(kind, project), base=project, cache=tmp_path / "c")
    assert {one for one in paths(built) if not one.startswith("etc/")} == {
        *("usr/bin/app", "usr/share/app/word", "srv/own"),
    }
    whole = build_text(text(kind, project) + "reduce: none\n", base=project, cache=tmp_path / "c")
    assert {"usr/bin/sh", "usr/share/man/man1/app.1"} <= paths(whole)
    closed = build_text(text(kind, project) + "reduce: closure\n", base=project, cache=tmp_path / "c")
    assert "usr/share/app/word" not in paths(closed)


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
def test_the_lock_pins_its_tree(project, tmp_path, kind):
    declared = parse_image(text(kind, project), file="image.yaml", base=str(project))
    lock = lock_of(declared, builder_of(tmp_path / "one"))
    write_lock(project / "image.lock", lock)
    wanted = builder_of(tmp_path / "one").build(declared, lock).report.digest
    assert builder_of(tmp_path / "two").build(declared, read_lock(project / "image.lock")).report.digest == wanted
    make_base(project, word=b"two")
    text(kind, project)
    with pytest.raises(BadInput, match=f"{kind}:.*has changed since the lock"):
        builder_of(tmp_path / "one").build(declared, lock)


def test_another_image_of_this_computer_is_a_source(project, tmp_path):
    first = build_text(text("oci", project), base=project, cache=tmp_path / "c").report.digest
    (project / "more").write_bytes(b"more")
    on_top = f"files: [{{image: {first}}}, {{from: more, to: /srv/more}}]\nentrypoint: [/usr/bin/app]\n"
    built = build_text(on_top, base=project, cache=tmp_path / "c")
    assert {"usr/bin/app", "srv/own", "srv/more"} <= paths(built)
    assert ("image", f"image:{first}", first) in {(one.kind, one.name, one.sha256) for one in built.sources}
    with pytest.raises(NotFound, match="not imported on this machine"):
        build_text(on_top, base=project, cache=tmp_path / "other")


def test_a_damaged_layout_is_one_clear_error(project, tmp_path):
    for blob in (project / "layout" / "blobs" / "sha256").iterdir():
        blob.chmod(0o644)
        blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(BadInput, match="layout"):
        build_text(text("oci", project), base=project, cache=tmp_path / "c")


def test_a_layout_that_is_not_there_is_named(project, tmp_path):
    with pytest.raises(NotFound, match="nothing"):
        build_text("files: [{oci: nothing}]\n", base=project, cache=tmp_path / "c")


def make_privileged(folder: Path) -> None:
    """Write an OCI layout whose programs have setuid and setgid bits and a file capability."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode, headers in (
            ("bin/su", 0o4755, {}),
            ("usr/bin/wall", 0o2755, {}),
            ("usr/bin/ping", 0o755, {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02 net_raw"}),
            ("usr/share/man/man1/su.1", 0o4644, {}),
            ("usr/bin/app", 0o755, {}),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.pax_headers = len(name), mode, headers
            tar.addfile(info, io.BytesIO(name.encode()))
    blobs = folder / "layout" / "blobs" / "sha256"
    shutil.rmtree(folder / "layout", ignore_errors=True)
    blobs.mkdir(parents=True)

    def keep(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layer = keep(held.getvalue(), "layer.v1.tar")
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs})
    manifest = {"schemaVersion": 2, "config": keep(config.encode(), "config.v1+json"), "layers": [layer]}
    named = keep(json.dumps(manifest).encode(), "manifest.v1+json")
    named["annotations"] = {"org.opencontainers.image.ref.name": "base"}
    (folder / "layout" / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (folder / "layout" / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


DROPPED = {("setuid", "usr/bin/su"), ("setuid", "usr/bin/wall"), ("file-capability", "usr/bin/ping")}


def dropped(built) -> set[tuple[str, str]]:
    return {(one.rule.value, one.path) for one in built.report.findings}


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
def test_privileges_that_an_image_loses_are_reported(project, tmp_path, kind):
    make_privileged(project)
    # `standard` leaves some of these programs away: what is not in the image is not reported.
    written = text(kind, project) + "keep: [/usr/bin/*]\n"
    for _ in range(2):  # the second reads nothing again
        built = build_text(written, base=project, cache=tmp_path / "c")
        assert dropped(built) == DROPPED
    assert {one.mode for one in built.report.manifest.entries if one.type is EntryType.FILE} == {0o755, 0o644}
    whole = build_text(text(kind, project) + "reduce: none\n", base=project, cache=tmp_path / "c")
    assert dropped(whole) == DROPPED | {("setuid", "usr/share/man/man1/su.1")}


def test_privileges_that_an_image_lost_are_reported_where_it_is_a_source_by_its_digest(project, tmp_path):
    make_privileged(project)
    cache = ImageCache(tmp_path / "c")
    report = import_image(ImageSource(kind=SourceKind.OCI_LAYOUT, location=str(project / "layout")), cache=cache)
    written = f"files: [{{image: {report.digest}}}]\nentrypoint: [/usr/bin/app]\nkeep: [/usr/bin/*]\n"
    built = build_text(written, base=project, cache=tmp_path / "c")
    assert dropped(built) == DROPPED
    again = import_image(ImageSource(kind=SourceKind.MANIFEST, location=built.report.digest), cache=cache)
    assert set(again.findings) == set(built.report.findings)


def test_a_setuid_file_of_the_project_is_reported_where_it_stands(project, tmp_path):
    (project / "own").chmod(0o4755)
    built = build_text(
        "files: [{from: own, to: /bin/own}]\nentrypoint: [/bin/own]\n", base=project, cache=tmp_path / "c"
    )
    assert dropped(built) == {("setuid", "usr/bin/own")}
