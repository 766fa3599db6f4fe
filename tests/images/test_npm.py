"""npm packages of a declaration: the real npm asks a registry made here; what package-lock.json pins decides."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nebh.images.declared.npm import parse_package_lock
from nebh.model.errors import BadInput, Conflict, Failed, NotFound
from nebh.spec.image import parse_image
from nebh.testing.built_images import build_text, builder_of, lock_of

pytestmark = pytest.mark.slow

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
TEXT = """
npm: {lock: package-lock.json, to: /app}
files: [{from: main.js, to: /app/main.js}]
entrypoint: [/app/main.js]
reduce: closure
"""
PIN = "sha512-" + base64.b64encode(bytes(64)).decode()


def archive(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return held.getvalue()


def pin(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


class Registry:
    """A registry on loopback. packages: archives by `name@version`; `asked`: what was asked for."""

    def __init__(self, packages: dict[str, bytes]) -> None:
        self.packages, self.asked = packages, []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                body = registry.answer(self.path.replace("%2f", "/"))
                self.send_response(200 if body else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> bytes:
        name, found, version = path.strip("/").partition("/-/")
        if found:
            return self.packages[f"{name}@{version.removesuffix('.tgz')}"]
        versions = {key.rpartition("@")[2]: data for key, data in self.packages.items() if key.startswith(f"{name}@")}
        described = {
            one: {
                "name": name,
                "version": one,
                "dist": {"tarball": f"{self.url}/{name}/-/{one}.tgz", "integrity": pin(data)},
            }
            for one, data in versions.items()
        }
        latest = {"latest": max(versions)} if versions else {}
        return json.dumps({"name": name, "dist-tags": latest, "versions": described}).encode() if versions else b""


@pytest.fixture
def registry(monkeypatch):
    made = Registry(
        {
            "left@1.0.0": archive({"package/index.js": b"left one", "package/install.sh": b"touch /ran"}),
            "left@2.0.0": archive({"odd-top/index.js": b"left two"}),
            "@scope/right@1.0.0": archive({"package/lib/right.js": b"right"}),
        }
    )
    monkeypatch.setenv("npm_config_registry", made.url)
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "npm_config_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.server.shutdown()
    made.server.server_close()


def entry(registry: Registry, key: str, **more: object) -> dict[str, object]:
    return {"version": key.rpartition("@")[2], "integrity": pin(registry.packages[key]), **more}


def write_project(folder: Path, packages: dict[str, dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "main.js").write_bytes(b"#!/bin/none\n")
    listed = {"": {"name": "x"}, **packages}
    (folder / "package-lock.json").write_text(json.dumps({"lockfileVersion": 3, "packages": listed}))
    return folder


def good(registry: Registry) -> dict[str, dict[str, object]]:
    return {
        "node_modules/left": entry(registry, "left@2.0.0", hasInstallScript=True),
        "node_modules/@scope/right": entry(registry, "@scope/right@1.0.0"),
        "node_modules/@scope/right/node_modules/left": entry(registry, "left@1.0.0"),
        "node_modules/alias": entry(registry, "left@1.0.0", name="left"),
        "node_modules/test-only": {"version": "1.0.0", "integrity": PIN, "dev": True},
        "node_modules/fsevents": {"version": "1.0.0", "integrity": PIN, "optional": True, "os": ["darwin"]},
    }


@needs_npm
def test_packages_stand_where_the_lock_says_and_the_tree_is_the_same_again(tmp_path, registry):
    folder = write_project(tmp_path / "p", good(registry))
    built = build_text(TEXT, base=folder, cache=tmp_path / "one")
    found = {one.path: one.size for one in built.report.manifest.entries if one.path.startswith("app/") and one.sha256}
    assert found == {
        "app/main.js": 12,
        "app/node_modules/left/index.js": 8,
        "app/node_modules/@scope/right/lib/right.js": 5,
        "app/node_modules/@scope/right/node_modules/left/index.js": 8,
        "app/node_modules/@scope/right/node_modules/left/install.sh": 10,
        "app/node_modules/alias/index.js": 8,
        "app/node_modules/alias/install.sh": 10,
    }
    names = sorted(f"{one.kind} {one.name} {one.version}".strip() for one in built.sources)
    assert names == ["npm @scope/right 1.0.0", "npm left 1.0.0", "npm left 2.0.0", "path main.js"]
    assert build_text(TEXT, base=folder, cache=tmp_path / "two").report.digest == built.report.digest
    assert not [one for one in registry.asked if "fsevents" in one or "test-only" in one]


@needs_npm
def test_a_build_by_the_lock_fetches_the_same_bytes_or_says_so(tmp_path, registry):
    folder = write_project(tmp_path / "p", good(registry))
    declared = parse_image(TEXT, file="image.yaml", base=str(folder))
    lock = lock_of(declared, builder_of(tmp_path / "one"))
    wanted = builder_of(tmp_path / "two").build(declared, lock).report.digest
    assert builder_of(tmp_path / "two").build(declared, lock).report.digest == wanted
    registry.packages["left@2.0.0"] = archive({"package/index.js": b"evil two"})
    with pytest.raises(Failed, match=r"left@2\.0\.0: the registry has no archive with the pinned SHA-512"):
        builder_of(tmp_path / "three").build(declared, lock)
    assert not list((tmp_path / "three" / "manifests").iterdir())
    del registry.packages["left@2.0.0"], registry.packages["left@1.0.0"]
    with pytest.raises(Failed, match=r"cannot fetch npm packages: .*left"):
        builder_of(tmp_path / "four").build(declared, lock)


@needs_npm
def test_a_package_lock_that_changed_makes_the_lock_stale(tmp_path, registry):
    folder = write_project(tmp_path / "p", good(registry))
    declared = parse_image(TEXT, file="image.yaml", base=str(folder))
    builder = builder_of(tmp_path / "c")
    lock = lock_of(declared, builder)
    write_project(folder, {"node_modules/left": entry(registry, "left@1.0.0")})
    with pytest.raises(BadInput, match=r"package-lock\.json: it has changed"):
        builder.build(declared, lock)
    other = parse_image(TEXT.replace("package-lock.json", "other.json"), file="image.yaml", base=str(folder))
    with pytest.raises(Conflict, match="other sources"):
        builder.build(other, lock)
    with pytest.raises(NotFound, match=r"other\.json"):
        lock_of(other, builder)


@needs_npm
def test_an_archive_whose_names_leave_it_is_refused(tmp_path, registry):
    registry.packages["left@1.0.0"] = archive({"package/../../../escape": b"x"})
    folder = write_project(tmp_path / "p", {"node_modules/left": entry(registry, "left@1.0.0")})
    with pytest.raises(BadInput, match="path"):
        build_text(TEXT, base=folder, cache=tmp_path / "c")


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        ("node_modules/../x", {}, "folder of the project"),
        ("packages/own", {}, "folder of the project"),
        ("node_modules/own", {"link": True}, "folder of the project"),
        ("node_modules/x", {"integrity": "sha1-" + "a" * 27 + "="}, "not pinned"),
        ("node_modules/x", {"integrity": ""}, "not pinned"),
        ("node_modules/x", {"version": "--registry=http://evil"}, "not pinned"),
        ("node_modules/x", {"name": "--ignore-scripts=false"}, "not pinned"),
        ("node_modules/x", {"version": "git+ssh://git@example.org/x.git#abc"}, "not pinned"),
        ("node_modules/x", {"resolved": "git+ssh://git@example.org/x.git#abc"}, "no package of a registry"),
        ("node_modules/x", {"resolved": "http://example.org/x.tgz"}, "no package of a registry"),
        ("node_modules/x", {"resolved": "file:../x.tgz"}, "no package of a registry"),
        ("node_modules/x", {"cpu": ["arm"]}, "another system"),
        ("node_modules/x", {"os": "!linux"}, "another system"),
    ],
)
def test_what_nothing_pins_is_refused(path, more, said):
    plain = {"lockfileVersion": 3, "packages": {path: {"version": "1.0.0", "integrity": PIN, **more}}}
    with pytest.raises(BadInput, match=said):
        parse_package_lock(json.dumps(plain).encode(), what="package-lock.json", architecture="amd64")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"lockfileVersion": 1, "packages": {}}',
        b'{"lockfileVersion": 3, "packages": 7}',
        b"[" * 9999,
    ],
)
def test_what_is_no_package_lock_is_refused(data):
    with pytest.raises(BadInput, match="version"):
        parse_package_lock(data, what="package-lock.json", architecture="amd64")


def test_an_archive_elsewhere_is_asked_for_by_its_address():
    entries = {
        "node_modules/a": {"resolved": "https://registry.npmjs.org/a/-/a-1.0.0.tgz"},
        "node_modules/b": {"resolved": "https://example.org/b.tgz"},
    }
    listed = {path: {"version": "1.0.0", "integrity": PIN, **more} for path, more in entries.items()}
    plain = json.dumps({"lockfileVersion": 2, "packages": listed}).encode()
    found = parse_package_lock(plain, what="package-lock.json", architecture="arm64")
    assert [one.source for one in found] == ["a@1.0.0", "https://example.org/b.tgz"]
