"""A registry that wants the operator's computer to ask somebody else: what it names elsewhere is not fetched."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.model.errors import NebhError
from nebh.model.service import ImageSource, SourceKind

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
Answer = tuple[int, dict[str, str], bytes]
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
PLAIN = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER, OCI = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json"


def serve(answer: Callable[[str], Answer]) -> tuple[ThreadingHTTPServer, list[str]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, asked


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_layer() -> tuple[bytes, str]:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        info = tarfile.TarInfo("app")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"app"))
    return gzip.compress(held.getvalue()), sha(held.getvalue())


@pytest.fixture
def internal() -> Iterator[tuple[str, list[str]]]:
    """What only this computer can reach. It has the layer: it would be taken, were it asked."""
    layer, _ = make_layer()
    server, asked = serve(lambda _: (200, {}, layer))
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def pull(tmp_path, internal) -> Iterator[Callable[..., str]]:
    """Return a function that imports an image whose layer is described so; it returns what the import said."""
    servers = []

    def run(media: str, *, manifest_type: str, urls: list[str] | None = None) -> str:
        layer, diff = make_layer()
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff]}})
        named = {"mediaType": media, "digest": sha(layer), "size": len(layer), **({"urls": urls} if urls else {})}
        kind = manifest_type.replace("distribution.manifest.v2", "container.image.v1").replace("manifest", "config")
        manifest = {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": {"mediaType": kind, "digest": sha(config.encode()), "size": len(config)},
            "layers": [named],
        }
        body = json.dumps(manifest).encode()

        def answer(path: str) -> Answer:
            if path.endswith("/v2/"):
                return 200, {}, b"{}"
            if "/manifests/" in path:
                return 200, {"Content-Type": manifest_type, "Docker-Content-Digest": sha(body)}, body
            if path.endswith(sha(config.encode())):
                return 200, {}, config.encode()
            return (200, {}, layer) if not urls else (404, {}, b"")

        server, _ = serve(answer)
        servers.append(server)
        source = ImageSource(kind=SourceKind.REGISTRY, location=f"127.0.0.1:{server.server_port}/web:1")
        try:
            return import_image(source, cache=ImageCache(tmp_path / "cache")).digest
        except NebhError as error:
            return error.message

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_registry_itself_is_asked(pull):
    """The positive control."""
    assert len(pull(PLAIN, manifest_type=OCI)) == 64


@pytest.mark.parametrize(
    ("media", "manifest_type"),
    [(FOREIGN, DOCKER), (NONDISTRIBUTABLE, OCI), (PLAIN, OCI)],
    ids=["docker", "oci", "plain"],
)
def test_a_layer_that_lies_elsewhere_is_not_fetched(pull, internal, tmp_path, media, manifest_type):
    url, asked = internal
    said = pull(media, manifest_type=manifest_type, urls=[f"{url}/latest/meta-data/"])
    assert said.startswith("cannot "), said
    assert asked == []
    assert not list((tmp_path / "cache" / "manifests").iterdir())
