"""The registry door of a real controller: real skopeo and podman push through it, and nothing bad gets in."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tarfile
from pathlib import Path

import pytest

from nebh.api.door import ROUTES
from nebh.model.api import DoorTokenRequest
from nebh.model.errors import BadInput, Refused

pytestmark = pytest.mark.e2e
OCI = "application/vnd.oci.image.manifest.v1+json"


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_layer(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return held.getvalue()


def make_image(layer: bytes) -> tuple[dict[str, bytes], bytes]:
    """Return (blobs by digest, manifest) of an image of one layer."""
    packed = gzip.compress(layer, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/app"]},
            "rootfs": {"type": "layers", "diff_ids": [sha(layer)]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": sha(config),
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": sha(packed),
                "size": len(packed),
            }
        ],
    }
    return {sha(config): config, sha(packed): packed}, json.dumps(manifest).encode()


def write_layout(folder: Path, layer: bytes) -> None:
    blobs, manifest = make_image(layer)
    (folder / "blobs" / "sha256").mkdir(parents=True)
    for digest, data in {**blobs, sha(manifest): manifest}.items():
        (folder / "blobs" / "sha256" / digest.removeprefix("sha256:")).write_bytes(data)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    named = {"mediaType": OCI, "digest": sha(manifest), "size": len(manifest)}
    named["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))


class Caller:
    """Speaks HTTP to the door."""

    def __init__(self, port: int, password: str = "") -> None:
        self.port = port
        self.head = {"Authorization": "Basic " + base64.b64encode(f"ci:{password}".encode()).decode()}
        if not password:
            self.head = {}

    def __call__(self, method: str, path: str, body: bytes = b"", **headers: str):
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=60)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body)), **self.head, **fields}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, data

    def push_blob(self, repository: str, data: bytes) -> None:
        status, headers, _ = self("POST", f"/v2/{repository}/blobs/uploads/")
        assert status == 202
        assert self("PUT", f"{headers['location']}?digest={sha(data)}", data)[0] == 201


@pytest.fixture(scope="module")
def door(cloud):
    """The cloud with a TLS door; `caller(scope)` speaks to it with a token of that scope."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        cloud.port = found.getsockname()[1]
    cloud.stop()
    cloud.start("--listen", f"127.0.0.1:{cloud.port}")
    return cloud


def caller(door, repository: str = "*", *, push: bool = True) -> Caller:
    made = door.as_operator().make_door_token(DoorTokenRequest(repository=repository, push=push))
    return Caller(door.port, made.secret)


def program(*words: str, folder: Path, accept: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in accept, done.stderr
    return done


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_pushes_and_pulls(door, tmp_path):
    write_layout(tmp_path / "in", make_layer({"app": b"hello"}))
    secret = door.as_operator().make_door_token(DoorTokenRequest(repository="team/*")).secret
    place = f"docker://127.0.0.1:{door.port}/team/web:v1"
    words = ("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false")
    program(*words, "--dest-creds", f"me:{secret}", f"oci:{tmp_path}/in:v1", place, folder=tmp_path)
    (image,) = [one for one in door.as_operator().door_images() if one.repository == "team/web"]
    assert (image.tag, image.by) == ("v1", secret.partition(".")[0])
    words = ("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false")
    program(*words, "--src-creds", f"me:{secret}", place, f"oci:{tmp_path}/out:v1", folder=tmp_path)
    same = (tmp_path / "out" / "blobs" / "sha256" / image.digest.removeprefix("sha256:")).read_bytes()
    assert sha(same) == image.digest
    wrong = program(
        *("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-creds", f"me:{secret}"),
        f"oci:{tmp_path}/in:v1",
        f"docker://127.0.0.1:{door.port}/other:v1",
        folder=tmp_path,
        accept=(1,),
    )
    assert "403" in wrong.stderr


@pytest.mark.root
@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_podman_pushes(door):
    folder = Path(f"/tmp/nt-{secrets.token_hex(3)}")  # podman takes short paths only
    folder.mkdir()
    try:
        podman_pushes(door, folder)
    finally:
        shutil.rmtree(folder)


def podman_pushes(door, tmp_path: Path) -> None:
    write_layout(tmp_path / "in", make_layer({"app": b"from podman"}))
    secret = door.as_operator().make_door_token(DoorTokenRequest(repository="podweb")).secret
    store = ("--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs")
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    policy = ("--signature-policy", str(tmp_path / "policy.json"))
    number = program("podman", *store, "pull", *policy, f"oci:{tmp_path}/in:v1", folder=tmp_path).stdout.strip()
    registry = f"127.0.0.1:{door.port}"
    login = ("login", "--tls-verify=false", "--authfile", str(tmp_path / "auth.json"), "-u", "me", "-p", secret)
    program("podman", *store, *login, registry, folder=tmp_path)
    push = ("push", "--tls-verify=false", "--authfile", str(tmp_path / "auth.json"), *policy)
    program("podman", *store, *push, number, f"{registry}/podweb:v2", folder=tmp_path)
    assert [one.tag for one in door.as_operator().door_images() if one.repository == "podweb"] == ["v2"]


def test_nothing_that_is_pushed_runs(door):
    before = door.as_operator().status()
    blobs, manifest = make_image(make_layer({"app": b"x"}))
    push = caller(door, "web")
    for data in blobs.values():
        push.push_blob("web", data)
    assert push("PUT", "/v2/web/manifests/v9", manifest, Content_Type=OCI)[0] == 201
    after = door.as_operator().status()
    assert (after.snapshot, after.services) == (before.snapshot, before.services)
    missing = door.as_operator().missing_objects(tuple(one.removeprefix("sha256:") for one in blobs))
    assert len(missing) == len(blobs), "what is pushed is no object that nodes could fetch"


def test_a_token_is_for_its_repositories_its_time_and_its_use(door):
    assert Caller(door.port)("GET", "/v2/")[0] == 401
    assert Caller(door.port)("GET", "/v2/")[1]["www-authenticate"].startswith("Basic")
    assert Caller(door.port, "wrong")("GET", "/v2/")[0] == 401
    assert caller(door)("GET", "/v2/")[0] == 200
    mine = caller(door, "mine")
    mine.push_blob("mine", b"data")
    for repository, status in (("mine", 200), ("other", 403), ("mine/below", 403), ("min", 403)):
        assert mine("GET", f"/v2/{repository}/blobs/{sha(b'data')}")[0] == status
    assert caller(door, "other")("GET", f"/v2/mine/blobs/{sha(b'data')}")[0] == 403
    reader = caller(door, "mine", push=False)
    assert reader("GET", f"/v2/mine/blobs/{sha(b'data')}")[2] == b"data"
    assert reader("POST", "/v2/mine/blobs/uploads/")[0] == 403
    operator = door.as_operator()
    made = operator.make_door_token(DoorTokenRequest(repository="mine"))
    assert Caller(door.port, made.secret)("GET", "/v2/")[0] == 200
    assert made.token.id not in [one.id for one in operator.drop_door_token(made.token.id)]
    assert Caller(door.port, made.secret)("GET", "/v2/")[0] == 401
    for bad in (DoorTokenRequest(repository="../x"), DoorTokenRequest(repository="x", days=0)):
        with pytest.raises(BadInput):
            operator.make_door_token(bad)
    with pytest.raises(Refused):
        door.as_node().pull("mine", "blobs", sha(b"data"))
    assert operator.pull("mine", "blobs", sha(b"data")).read(limit=99) == b"data"
    caller(door, "web").push_blob("web", b"for CI")
    assert door.as_ci().pull("web", "blobs", sha(b"for CI")).read(limit=99) == b"for CI"
    with pytest.raises(Refused):
        door.as_ci().pull("mine", "blobs", sha(b"data"))


def test_a_blob_comes_in_parts_and_goes_in_ranges(door):
    push = caller(door, "parts")
    _, headers, _ = push("POST", "/v2/parts/blobs/uploads/")
    place = headers["location"]
    assert push("PATCH", place, b"hello ", Content_Range="0-5")[1]["range"] == "0-5"
    assert push("PATCH", place, b"again ", Content_Range="0-5")[0] == 416
    assert push("GET", place)[1]["range"] == "0-5"
    assert push("PATCH", place, b"world", Content_Range="6-10")[0] == 202
    assert push("PUT", f"{place}?digest={sha(b'hello world')}")[0] == 201
    path = f"/v2/parts/blobs/{sha(b'hello world')}"
    assert push("GET", path, Range="bytes=6-")[::2] == (206, b"world")
    assert push("GET", path, Range="bytes=0-4")[::2] == (206, b"hello")
    assert push("GET", path, Range="bytes=11-")[0] == 416
    assert push("HEAD", path)[1]["content-length"] == "11"
    assert push("POST", f"/v2/parts/blobs/uploads/?mount={sha(b'hello world')}&from=parts")[0] == 201
    assert push("POST", f"/v2/parts/blobs/uploads/?digest={sha(b'one')}", b"one")[0] == 201
    _, headers, _ = push("POST", "/v2/parts/blobs/uploads/")
    assert push("DELETE", headers["location"])[0] == 204
    assert push("PATCH", headers["location"], b"x")[0] == 404


def test_a_foreign_blob_is_not_taken_over(door):
    caller(door, "secret").push_blob("secret", b"secret layer")
    thief = caller(door, "thief")
    status, _, _ = thief("POST", f"/v2/thief/blobs/uploads/?mount={sha(b'secret layer')}&from=secret")
    assert status == 202, "a mount from where the token may not pull is an ordinary upload"
    assert thief("GET", f"/v2/thief/blobs/{sha(b'secret layer')}")[0] == 404


def test_tags_are_listed_and_taken_away(door):
    blobs, manifest = make_image(make_layer({"a": b"1"}))
    push = caller(door, "tagged")
    for data in blobs.values():
        push.push_blob("tagged", data)
    for tag in ("v2", "v1", "latest"):
        assert push("PUT", f"/v2/tagged/manifests/{tag}", manifest, Content_Type=OCI)[0] == 201
    assert json.loads(push("GET", "/v2/tagged/tags/list")[2])["tags"] == ["latest", "v1", "v2"]
    assert json.loads(push("GET", "/v2/tagged/tags/list?n=1&last=latest")[2])["tags"] == ["v1"]
    assert push("GET", f"/v2/tagged/manifests/{sha(manifest)}")[2] == manifest
    assert push("DELETE", "/v2/tagged/manifests/v1")[0] == 202
    assert push("GET", "/v2/tagged/manifests/v1")[0] == 404
    assert push("DELETE", "/v2/tagged/manifests/v1")[0] == 404
    assert push("GET", "/v2/nothing/tags/list")[0] == 403


BAD_PATHS = (
    "/v2/..%2f..%2fetc/manifests/v1",
    "/v2/../../etc/passwd/blobs/" + "sha256:" + "0" * 64,
    "/v2/UPPER/manifests/v1",
    "/v2/a//b/manifests/v1",
    "/v2/-a/manifests/v1",
    "/v2/" + "a/" * 20 + "b/manifests/v1",
    "/v2/" + "a" * 300 + "/manifests/v1",
    "/v2/bad/manifests/..",
    "/v2/bad/manifests/" + "t" * 129,
    "/v2/bad/blobs/sha256:" + "0" * 63,
    "/v2/bad/blobs/sha256:" + "../" * 21 + "x",
    "/v2/bad/blobs/md5:" + "0" * 32,
    "/v2/bad/blobs/uploads/..%2f..%2fkeys",
    "/v2/bad%00/manifests/v1",
    "/v2/_catalog",
    "/v2/bad",
)


@pytest.mark.parametrize("path", BAD_PATHS, ids=range(len(BAD_PATHS)))
def test_no_path_leads_anywhere_else(door, path):
    push = caller(door)
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "POST"):
        assert push(method, path)[0] in (400, 404, 405), method


def manifest_of(**changes: object) -> bytes:
    return json.dumps({**json.loads(make_image(b"")[1]), **changes}).encode()


BAD_MANIFESTS = {
    "no JSON": b"{",
    "deep": b"[" * 100_000,
    "schema 1": manifest_of(schemaVersion=1),
    "another kind inside": manifest_of(mediaType="application/vnd.docker.distribution.manifest.v2+json"),
    "no layers": manifest_of(layers=[]),
    "not pushed": manifest_of(),
    "foreign layer": manifest_of(layers=[{"digest": sha(b"1"), "size": 1, "urls": ["http://169.254.169.254/"]}]),
    "bad digest": manifest_of(layers=[{"digest": "sha256:../../x", "size": 1}]),
    "negative size": manifest_of(layers=[{"digest": sha(b"1"), "size": -1}]),
    "wrong size": manifest_of(config={"digest": sha(b"1"), "size": 2}, layers=[{"digest": sha(b"1"), "size": 1}]),
    "text for a number": manifest_of(layers=[{"digest": sha(b"1"), "size": "1"}]),
    "image and index": manifest_of(manifests=[{"digest": sha(b"1"), "size": 1}]),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_bad_manifest_is_refused(door, name):
    push = caller(door, "badm")
    push.push_blob("badm", b"1")
    status, _, body = push("PUT", "/v2/badm/manifests/v1", BAD_MANIFESTS[name], Content_Type=OCI)
    assert status == 400
    assert json.loads(body)["errors"][0]["message"]
    assert push("GET", "/v2/badm/manifests/v1")[0] == 404


def test_other_bad_input_is_refused(door):
    push = caller(door, "bad")
    _, headers, _ = push("POST", "/v2/bad/blobs/uploads/")
    place = headers["location"]
    for told in ("x", "5-1", "0-99999999999999999999", "bytes"):
        assert push("PATCH", place, b"x", Content_Range=told)[0] == 400
    assert push("PUT", f"{place}?digest={sha(b'other')}", b"data")[0] == 400
    assert push("GET", place)[0] == 404, "a blob with another hash is gone"
    assert push("POST", "/v2/bad/blobs/uploads/?digest=nonsense", b"data")[0] == 400
    huge = b" " * ((4 << 20) + 1)
    assert push("PUT", "/v2/bad/manifests/v1", huge, Content_Type=OCI)[0] == 413
    assert push("PUT", "/v2/bad/manifests/v1", manifest_of(), Content_Type="text/html")[0] == 400
    assert push("PUT", f"/v2/bad/manifests/{sha(b'x')}", manifest_of(), Content_Type=OCI)[0] == 400
    assert push("TRACE", "/v2/bad/manifests/v1")[0] == 405
    for head in ("Basic !!!", "Basic " + base64.b64encode(b"\xff:\xff").decode(), "Bearer x~y", "Digest x", "Bearer"):
        broken = Caller(door.port)
        broken.head = {"Authorization": head}
        assert broken("GET", "/v2/")[0] == 401
    assert door.nobody().health().cluster_id


def test_uploads_are_bounded(door):
    push = caller(door, "many")
    statuses = [push("POST", "/v2/many/blobs/uploads/") for _ in range(70)]
    assert {one[0] for one in statuses} == {202, 429}
    for status, headers, _ in statuses:
        if status == 202:
            assert push("DELETE", headers["location"])[0] == 204


def test_every_route_wants_a_token(door):
    for method, path, _, push, _ in ROUTES:
        filled = path.format(name="web", upload="0" * 32, digest=sha(b"1"), reference="v1")
        assert Caller(door.port)(method, filled)[0] == 401
        if push:
            assert caller(door, "web", push=False)(method, filled)[0] == 403
