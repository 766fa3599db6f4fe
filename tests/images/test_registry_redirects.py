"""A registry that leads skopeo to an internal address: refused, with an error that says where to, and how to allow it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nebh.host.namespaces import MS_BIND, mount, private_mounts
from nebh.host.reach import Place, Reach
from nebh.host.relay import Denied, Relay
from nebh.host.run import run
from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.images.sources.registry import copy_command, registry_places
from nebh.model.errors import BadInput, NebhError
from nebh.model.service import ImageSource, SourceKind

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PARTS = ["manifest", "config", "layer", "token"]
LOGIN = "Basic " + base64.b64encode(b"me:secret").decode()


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_image() -> dict[str, bytes]:
    """The parts of an image: manifest, config, layer."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        info = tarfile.TarInfo("app")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"app"))
    layer = gzip.compress(held.getvalue(), mtime=0)
    rootfs = {"type": "layers", "diff_ids": [sha(held.getvalue())]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    named = "application/vnd.oci.image."
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": f"{named}config.v1+json", "digest": sha(config), "size": len(config)},
        "layers": [{"mediaType": f"{named}layer.v1.tar+gzip", "digest": sha(layer), "size": len(layer)}],
    }
    return {"manifest": json.dumps(manifest).encode(), "config": config, "layer": layer}


class Server:
    """Has the image's parts at /manifest, /config, /layer and a token at /token, and the image `web:1` as a registry
    does; `away`: the part that it says to be below another URL. login: what it wants to hear."""

    def __init__(self, *, away: str = "", url: str = "", login: str = "") -> None:
        self.image, self.asked, self.away, self.url, self.login = make_image(), [], away, url, login
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                status, headers, body = server.answer(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 - the library's name

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, str], bytes]:
        if path.startswith("/token"):
            return 200, {}, b'{"token": "t"}'
        if self.away == "token" and authorization != "Bearer t":
            return 401, {"WWW-Authenticate": f'Bearer realm="{self.url}/token",service="s"'}, b""
        if self.login and authorization != self.login:
            return 401, {"WWW-Authenticate": 'Basic realm="here"'}, b""
        if path.endswith("/v2/"):
            return 200, {}, b"{}"
        for part, data in self.image.items():
            if path == f"/{part}" or path.endswith(sha(data)) or (part == "manifest" and "/manifests/" in path):
                if part == self.away and path != f"/{part}":
                    return 307, {"Location": f"{self.url}/{part}"}, b""
                headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": sha(data)} if part == "manifest" else {}
                return 200, headers, data
        return 404, {}, b""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def internal() -> Iterator[Server]:
    """What only this computer can reach; it has every part, and would be believed."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def registry() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(**settings: str) -> Server:
        made.append(Server(**settings))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"NEBH_REGISTRY_HOSTS", "REGISTRY_AUTH_FILE"}:
            monkeypatch.delenv(name)


def pull(server: Server, folder: Path) -> NebhError | str:
    """Import the image of a registry; return its digest or the error."""
    source = ImageSource(kind=SourceKind.REGISTRY, location=f"127.0.0.1:{server.port}/web:1")
    try:
        return import_image(source, cache=ImageCache(folder / "cache")).digest
    except NebhError as error:
        return error


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0.0.0.0"])
def test_a_registry_does_not_lead_to_this_computer(registry, internal, tmp_path, part, host):
    server = registry(away=part, url=f"http://{host}:{internal.port}")
    error = pull(server, tmp_path)
    assert internal.asked == []
    assert isinstance(error, NebhError), error
    assert "the registry 127.0.0.1 leads to " in error.message, error.message
    assert f":{internal.port}" in error.message
    assert "an internal address" in error.message
    assert "\n" not in error.message
    assert f":{internal.port}" in error.hint


@pytest.mark.parametrize("part", PARTS)
def test_without_the_fence_it_does(registry, internal, tmp_path, part):
    """The positive control."""
    server = registry(away=part, url=f"http://127.0.0.1:{internal.port}")
    run(copy_command(f"127.0.0.1:{server.port}/web:1", into=tmp_path / "layout", architecture="amd64"))
    assert [path.partition("?")[0] for path in internal.asked][:1] == [f"/{part}"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433"])
def test_a_place_that_its_user_names_is_asked(registry, internal, tmp_path, monkeypatch, part, host):
    monkeypatch.setenv("NEBH_REGISTRY_HOSTS", f"other.example, {host}:{internal.port}")
    said = pull(registry(away=part, url=f"http://{host}:{internal.port}"), tmp_path)
    assert isinstance(said, str), said
    assert [path.partition("?")[0] for path in internal.asked][:1] == [f"/{part}"]


@pytest.mark.parametrize("part", PARTS)
def test_a_registry_leads_to_itself(registry, tmp_path, part):
    server = registry(away=part)
    server.url = f"http://127.0.0.1:{server.port}"
    assert isinstance(pull(server, tmp_path), str)


def test_a_login_is_used(registry, tmp_path, monkeypatch):
    server = registry(login=LOGIN)
    assert isinstance(pull(server, tmp_path), NebhError)
    entry = {f"127.0.0.1:{server.port}": {"auth": LOGIN.removeprefix("Basic ")}}
    (tmp_path / "auth.json").write_text(json.dumps({"auths": entry}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    assert isinstance(pull(server, tmp_path), str)


def test_a_persons_proxy_does_not_open_this_computer(registry, internal, tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{internal.port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,.localhost")
    server = registry(away="layer", url=f"http://127.0.0.1:{internal.port}")
    assert isinstance(pull(server, tmp_path), NebhError)
    assert internal.asked == []


@pytest.mark.root
@pytest.mark.parametrize("address", ["127.0.0.1", "10.213.78.9", "169.254.169.254", "fd12::1", "::ffff:127.0.0.1"])
def test_a_name_that_means_an_internal_address_is_not_asked(registry, internal, tmp_path, address):
    server = registry(away="layer", url=f"http://cdn.registry.example:{internal.port}")
    said = with_hosts(f"{address} cdn.registry.example\n", lambda: str(pull(server, tmp_path)), tmp_path)
    assert internal.asked == []
    assert f"leads to cdn.registry.example:{internal.port} (" in said, said


@pytest.mark.root
def test_a_name_that_means_this_computer_is_asked_without_the_fence(registry, internal, tmp_path):
    """The positive control."""
    server = registry(away="layer", url=f"http://cdn.registry.example:{internal.port}")
    command = copy_command(f"127.0.0.1:{server.port}/web:1", into=tmp_path / "layout", architecture="amd64")
    with_hosts("127.0.0.1 cdn.registry.example\n", lambda: str(run(command).status), tmp_path)
    assert internal.asked[:1] == ["/layer"]


@pytest.mark.root
@pytest.mark.parametrize(
    ("first", "second", "then"),
    [("1.1.1.1", "127.0.0.1", "denied"), ("1.1.1.1", "1.0.0.1", "1.0.0.1"), ("10.9.9.9", "127.0.0.1", "10.9.9.9")],
)
def test_what_the_registrys_name_means_first_decides_what_it_may_mean_later(tmp_path, first, second, then):
    def work() -> str:
        place = Place(host="registry.example", port=443)
        relay = Relay(Reach(named=frozenset({place})), os.open("/dev/null", os.O_WRONLY))
        assert asyncio.run(relay._addresses(place)) == (first,)
        hosts = Path("/etc/hosts")
        hosts.write_text(hosts.read_text().replace(first, second))
        try:
            return str(asyncio.run(relay._addresses(place))[0])
        except Denied:
            return "denied"

    assert with_hosts(f"{first} registry.example\n", work, tmp_path) == then


@pytest.mark.root
def test_of_a_mixed_answer_only_public_addresses_count(tmp_path):
    def work() -> str:
        relay = Relay(Reach(), os.open("/dev/null", os.O_WRONLY))
        return " ".join(asyncio.run(relay._addresses(Place(host="cdn.example", port=443))))

    assert with_hosts("127.0.0.1 cdn.example\n1.1.1.1 cdn.example\n", work, tmp_path) == "1.1.1.1"


def with_hosts(text: str, work: Callable[[], str], folder: Path) -> str:
    """Run `work` in a child whose /etc/hosts says this as well."""
    (folder / "hosts").write_text(text + Path("/etc/hosts").read_text())
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            private_mounts()
            mount(str(folder / "hosts"), Path("/etc/hosts"), flags=MS_BIND)
            os.write(writing, work().encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return answer


def test_a_registry_that_does_not_answer_is_named(registry, tmp_path):
    server = registry()
    server.close()
    error = pull(server, tmp_path)
    assert isinstance(error, NebhError)
    assert f"(cannot connect to 127.0.0.1:{server.port}: Connection refused)" in error.message


@pytest.mark.parametrize(
    ("name", "hosts"),
    [
        ("quay.io/a/b:1", {"quay.io:443", "quay.io:80"}),
        ("localhost:5000/a", {"localhost:5000"}),
        ("busybox:1", {"docker.io:443", "docker.io:80"}),
        ("library/busybox", {"docker.io:443", "docker.io:80"}),
        ("10.0.0.5:5000/a@sha256:" + 64 * "0", {"10.0.0.5:5000"}),
    ],
)
def test_only_the_registry_that_is_written_may_be_internal(name, hosts):
    assert {str(place) for place in registry_places(name)} == hosts


def test_a_wrong_setting_is_an_error(registry, tmp_path, monkeypatch):
    for name, value in (("NEBH_REGISTRY_HOSTS", "http://x/"), ("HTTPS_PROXY", "socks5://127.0.0.1:9")):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            error = pull(registry(), tmp_path)
            assert isinstance(error, BadInput), name
            assert name in error.message
