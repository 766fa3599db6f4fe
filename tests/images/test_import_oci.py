"""OCI layouts, docker-archives and a registry, made by skopeo and by hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.images.report import ImportLimits, ImportReport
from nebh.model.errors import BadInput, Failed, NotFound
from nebh.model.service import ImageSource, SourceKind

skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
registry_program = shutil.which("docker-registry") or shutil.which("registry")


def layer(*members: tuple[str, bytes | str | None]) -> bytes:
    """A layer tar: bytes = file, None = directory, text = link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def put_blob(root: Path, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (root / "blobs" / "sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def layout(root: Path, *layers: bytes, squeeze: str = "gzip", **changes: Any) -> Path:
    """An OCI layout with one image named `one`."""
    pack = {"gzip": gzip.compress, "zstd": zstandard.compress, "": lambda data: data}[squeeze]
    kind = "application/vnd.oci.image.layer.v1.tar" + (f"+{squeeze}" if squeeze else "")
    config: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/web"], "Cmd": None, "Env": ["A=b"], "User": "1000"},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers],
        },
    }
    config.update(changes.get("config", {}))
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            **put_blob(root, json.dumps(config).encode()),
        },
        "layers": [{"mediaType": changes.get("media", kind), **put_blob(root, pack(one))} for one in layers],
    }
    described = {
        "mediaType": manifest["mediaType"],
        **put_blob(root, json.dumps(manifest).encode()),
        "annotations": {"org.opencontainers.image.ref.name": "one"},
    }
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


def load(tmp_path: Path, kind: SourceKind, location: object, **more: Any) -> ImportReport:
    return import_image(ImageSource(kind=kind, location=str(location)), cache=ImageCache(tmp_path / "cache"), **more)


def paths(report: ImportReport) -> set[str]:
    own = {"dev", "etc", "etc/hostname", "etc/hosts", "etc/resolv.conf", "proc", "tmp"}
    return {entry.path for entry in report.manifest.entries} - own


@pytest.mark.parametrize("squeeze", ["gzip", "zstd", ""])
def test_layers_and_whiteouts(tmp_path: Path, squeeze: str) -> None:
    root = layout(
        tmp_path / "layout",
        layer(
            ("bin", None), ("bin/web", b"v1"), ("bin/old", b"x"), ("data/a", b"1"), ("data/sub/b", b"2"), ("l", "bin")
        ),
        layer(("bin/web", b"v2"), ("bin/.wh.old", b""), ("data/new", b"3"), ("data/.wh..wh..opq", b"")),
        layer((".wh.l", b""), ("l/", None), ("l/file", b"now a directory"), (".wh.nothing", b"")),
        squeeze=squeeze,
    )
    report = load(tmp_path, SourceKind.OCI_LAYOUT, root)
    assert paths(report) == {"bin", "bin/web", "data", "data/new", "l", "l/file"}
    found = {entry.path: entry for entry in report.manifest.entries}
    assert found["bin/web"].sha256 == hashlib.sha256(b"v2").hexdigest()
    assert report.defaults.entrypoint == ("/bin/web",)
    assert report.defaults.user == "1000"
    assert "@sha256:" in report.origin
    assert load(tmp_path, SourceKind.OCI_LAYOUT, f"{root}:one").digest == report.digest
    with pytest.raises(BadInput, match="0 images are meant"):
        load(tmp_path, SourceKind.OCI_LAYOUT, f"{root}:two")


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([[(".wh..", b"")]], "no whiteout"),
        ([[(".wh...", b"")]], "no whiteout"),
        ([[(".wh.", b"")]], "no whiteout"),
        ([[(".wh..wh.plnk", b"")]], "no whiteout"),
        ([[("l", "etc"), ("etc/x", b"1")], [("l/.wh.x", b"")]], "whiteout lies below the link"),
        ([[("l", "/etc")], [("l/passwd", b"x")]], "below /l, which is a link"),
        ([[("a/.wh.x/y", b"x")]], "canonical|whiteout|"),
    ],
)
def test_hostile_layers(tmp_path: Path, layers: list[Any], reason: str) -> None:
    root = layout(tmp_path / "layout", *(layer(*one) for one in layers))
    if reason.endswith("|"):
        # A directory that is named like a whiteout hides nothing: its file is an entry like any other.
        assert "a/.wh.x/y" in paths(load(tmp_path, SourceKind.OCI_LAYOUT, root))
        return
    with pytest.raises(BadInput, match=reason):
        load(tmp_path, SourceKind.OCI_LAYOUT, root)


def test_lying_layouts(tmp_path: Path) -> None:
    one = layer(("a", b"x"))
    good = layout(tmp_path / "good", one)
    blobs = sorted((good / "blobs" / "sha256").iterdir())
    for blob in blobs:
        data = blob.read_bytes()
        blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(BadInput):
            load(tmp_path, SourceKind.OCI_LAYOUT, good)
        blob.unlink()
        with pytest.raises(BadInput, match="missing"):
            load(tmp_path, SourceKind.OCI_LAYOUT, good)
        blob.write_bytes(data)
    assert paths(load(tmp_path, SourceKind.OCI_LAYOUT, good)) == {"a"}
    wrong = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}
    cases = [
        (layout(tmp_path / "d", one, config=wrong), "has, unpacked"),
        (layout(tmp_path / "n", one, config={"rootfs": {"diff_ids": []}}), "1 layers, its config names 0"),
        (layout(tmp_path / "m", one, media="application/vnd.oci.image.layer.v1.tar+encrypted"), "is not read"),
        (layout(tmp_path / "p", one, config={"architecture": "arm64"}), "'arm64'"),
        (layout(tmp_path / "o", one, config={"os": "windows"}), "'windows'"),
    ]
    for root, reason in cases:
        with pytest.raises(BadInput, match=reason):
            load(tmp_path, SourceKind.OCI_LAYOUT, root)
    with pytest.raises(NotFound):
        load(tmp_path, SourceKind.OCI_LAYOUT, tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"index\.json"):
        load(tmp_path, SourceKind.OCI_LAYOUT, tmp_path)
    bomb = layout(tmp_path / "bomb", layer(("zeros", bytes(40 << 20))))
    with pytest.raises(BadInput, match="times its size"):
        load(tmp_path, SourceKind.OCI_LAYOUT, bomb, limits=ImportLimits(free=1 << 20))


def test_blob_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    root = layout(tmp_path / "layout", layer(("a", b"x")))
    (tmp_path / "secret").write_text("{}")
    (root / "blobs" / "sha256" / ("0" * 64)).symlink_to(tmp_path / "secret")
    with pytest.raises(BadInput, match="symbolic"):
        load(tmp_path, SourceKind.OCI_LAYOUT, root)


def copy(source: str, target: str, *options: str) -> None:
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", *options, source, target]
    subprocess.run(command, check=True, timeout=60)


@skopeo
def test_skopeo_docker_archive_and_layout(tmp_path: Path) -> None:
    root = layout(
        tmp_path / "layout", layer(("bin/web", b"v1"), ("l", "bin")), layer(("bin/.wh.web", b""), ("b", b"2"))
    )
    wanted = load(tmp_path, SourceKind.OCI_LAYOUT, root)
    assert paths(wanted) == {"bin", "l", "b"}
    archive = tmp_path / "image.tar"
    copy(f"oci:{root}:one", f"docker-archive:{archive}:web:1")
    copy(f"oci:{root}:one", f"oci:{tmp_path / 'again'}:x", "--dest-compress-format", "zstd")
    report = load(tmp_path, SourceKind.DOCKER_ARCHIVE, archive)
    assert report.digest == wanted.digest
    assert report.defaults.entrypoint == ("/bin/web",)
    assert load(tmp_path, SourceKind.OCI_LAYOUT, tmp_path / "again").digest == wanted.digest
    packed = tmp_path / "image.tar.gz"
    packed.write_bytes(gzip.compress(archive.read_bytes()))
    assert load(tmp_path, SourceKind.DOCKER_ARCHIVE, packed).digest == wanted.digest
    assert load(tmp_path, SourceKind.DOCKER_ARCHIVE, f"{archive}:docker.io/library/web:1").digest == wanted.digest
    with pytest.raises(BadInput, match=r"docker\.io/library/web:1"):
        load(tmp_path, SourceKind.DOCKER_ARCHIVE, f"{archive}:other")
    plain = tmp_path / "plain.tar"
    plain.write_bytes(layer(("a", b"x")))
    with pytest.raises(BadInput, match="no docker-archive"):
        load(tmp_path, SourceKind.DOCKER_ARCHIVE, plain)


def test_docker_archive_that_leads_out(tmp_path: Path) -> None:
    image = [{"Config": "../../etc/passwd", "Layers": ["l"], "RepoTags": None}]
    path = tmp_path / "bad.tar"
    path.write_bytes(layer(("manifest.json", json.dumps(image).encode()), ("l", "/etc/passwd")))
    with pytest.raises(BadInput, match="the archive has no"):
        load(tmp_path, SourceKind.DOCKER_ARCHIVE, path)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[int]:
    if registry_program is None:
        pytest.skip("docker-registry is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'registry'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    process = subprocess.Popen(
        [registry_program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


@skopeo
def test_registry(tmp_path: Path, registry: int) -> None:
    root = layout(tmp_path / "layout", layer(("bin/web", b"v1")))
    copy(f"oci:{root}:one", f"docker://127.0.0.1:{registry}/web:1", "--dest-tls-verify=false")
    report = load(tmp_path, SourceKind.REGISTRY, f"127.0.0.1:{registry}/web:1")
    assert report.digest == load(tmp_path, SourceKind.OCI_LAYOUT, root).digest
    assert report.origin.startswith(f"docker://127.0.0.1:{registry}/web:1@sha256:")
    digest = report.origin.rpartition("@")[2]
    again = load(tmp_path, SourceKind.REGISTRY, f"docker://127.0.0.1:{registry}/web@{digest}")
    assert again.digest == report.digest
    assert not list((tmp_path / "cache").glob(".new-*"))
    with pytest.raises(Failed, match="cannot fetch the image"):
        load(tmp_path, SourceKind.REGISTRY, f"127.0.0.1:{registry}/nope:1")
    for bad in ("--help", "a b", "x\ny", ""):
        with pytest.raises(BadInput, match="no reference"):
            load(tmp_path, SourceKind.REGISTRY, bad)
