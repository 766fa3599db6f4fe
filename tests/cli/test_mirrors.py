"""Mirrors are filled as agents read them: a folder behind a plain web server, and an S3-compatible store that checks
every signature by itself."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.agent.sources import parse_mirror
from nebh.cli.mirrors import check_url, fill, fill_with
from nebh.images.cache import ImageCache
from nebh.images.manifest import FORMAT
from nebh.model.errors import BadInput, Failed, Unreachable
from nebh.model.image import EntryType, TreeEntry, TreeManifest

SECRET = "s3cret"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Store(http.server.BaseHTTPRequestHandler):
    """As much of S3 as a mirror needs: GET, HEAD and PUT of signed requests, path style."""

    kept: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def _allowed(self, body: bytes) -> bool:
        head = self.headers.get("Authorization", "")
        if "SignedHeaders=" not in head:
            return False
        fields = dict(part.strip().split("=", 1) for part in head.partition(" ")[2].split(","))
        _, day, region, service, end = fields["Credential"].split("/")
        names = fields["SignedHeaders"].split(";")
        lines = "\n".join(f"{name}:{self.headers[name]}" for name in names)
        digest = self.headers["x-amz-content-sha256"]
        request = "\n".join((self.command, self.path, "", lines, "", ";".join(names), digest))
        scope = f"{day}/{region}/{service}/{end}"
        text = "\n".join(("AWS4-HMAC-SHA256", self.headers["x-amz-date"], scope, sha(request.encode())))
        key = ("AWS4" + SECRET).encode()
        for part in (day, region, service, end):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        good = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        return fields["Signature"] == good and digest == sha(body) and service == "s3"

    def _say(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._allowed(body):
            return self._say(403, b"SignatureDoesNotMatch")
        self.kept[self.path] = body
        return self._say(200)

    def do_GET(self) -> None:
        if not self._allowed(b""):
            return self._say(403)
        body = self.kept.get(self.path)
        if body is None:
            return self._say(404)
        begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
        return self._say(206 if begin else 200, body[begin:])

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        pass


class Folder(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(handler) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def image(tmp_path):
    cache = ImageCache(tmp_path / "cache")
    contents = (b"one", b"two" * 100_000)
    for data in contents:
        cache.objects.put(sha(data), len(data), [data])
    entries = tuple(
        TreeEntry(path=f"f{number}", type=EntryType.FILE, mode=0o644, size=len(data), sha256=sha(data))
        for number, data in enumerate(contents)
    )
    return TreeManifest(format=FORMAT, entries=entries), cache, contents


def fetched(url: str, *contents: bytes) -> None:
    got: list[bytes] = []
    mirror = parse_mirror(url, pins=())
    mirror.objects(tuple((sha(data), len(data)) for data in contents), lambda chunks: got.append(b"".join(chunks)))
    assert got == list(contents)
    assert b"".join(mirror.rest((sha(contents[-1]), len(contents[-1])), 0)) == contents[-1]


def test_a_folder_behind_a_web_server_is_a_mirror(tmp_path: Path, image):
    manifest, cache, contents = image
    assert fill(str(tmp_path / "site"), manifest, cache)[0] == 3
    assert fill(str(tmp_path / "site"), manifest, cache) == (0, 0)
    with serving(lambda *args: Folder(*args, directory=str(tmp_path / "site"))) as port:
        fetched(f"http://127.0.0.1:{port}", *contents)


def test_an_s3_store_is_a_mirror(image, monkeypatch):
    manifest, cache, contents = image
    kept: dict[str, bytes] = {}
    handler = type("OneStore", (Store,), {"kept": kept})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with serving(handler) as port:
        target = f"s3+http://127.0.0.1:{port}/bucket/nebh"
        assert fill(target, manifest, cache)[0] == 3
        assert fill(target, manifest, cache) == (0, 0)
        assert f"/bucket/nebh/objects/{sha(b'one')[:2]}/{sha(b'one')}" in kept
        fetched(target, *contents)
        assert b"".join(parse_mirror(target, pins=()).rest((sha(b"one"), 3), 1)) == b"ne"
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(Unreachable):
            fetched(target, *contents)
        kept.clear()
        with pytest.raises(Failed, match="403"):
            fill(target, manifest, cache)


@pytest.mark.parametrize("url", ["ftp://x/y", "http://", "http://user:word@x/", "https://x/y?z=1", "s3://x", "x"])
def test_an_address_that_is_no_mirror_is_not_signed(url):
    with pytest.raises(BadInput):
        check_url(url)


def test_what_is_no_image_goes_into_a_mirror_too(tmp_path: Path) -> None:
    """The bundle of a service's configs: one object beside those of its image."""
    data = b'{"format":1}'
    digest = hashlib.sha256(data).hexdigest()
    target = str(tmp_path / "site")
    assert fill_with(target, [(digest, len(data))], lambda _: (data,)) == (1, len(data))
    assert fill_with(target, [(digest, len(data))], lambda _: (data,)) == (0, 0)
    assert [path.read_bytes() for path in (tmp_path / "site" / "objects").rglob("*") if path.is_file()] == [data]
