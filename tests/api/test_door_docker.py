"""Docker's own client and daemon push through the registry door, with its certificate checked."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest

from nebh.cli.door import fetched
from nebh.controller.certificate import NAME
from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.model.api import DoorTokenRequest
from nebh.model.errors import NotFound
from nebh.model.service import ImageSource, SourceKind
from nebh.testing.docker import Docker

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(300)]
PORT = 7443
ADDRESS = "192.0.2.1"  # of its own network; at 127.0.0.0/8 docker would check no certificate
DOOR = f"{NAME}:{PORT}"
TUNNEL = f"127.0.0.1:{PORT}"  # where `ssh -L` puts it


@pytest.fixture
def docker(cloud, request):
    """A daemon that knows the controller's name, and its certificate under that name alone; the controller beside it."""
    if shutil.which("ip") is None or shutil.which("nsenter") is None:
        pytest.skip("not installed: iproute2, util-linux")
    try:
        made = Docker(
            Path("/var/tmp") / f"nt-d{secrets.token_hex(3)}",
            fetch=request.config.getoption("--long"),
            hosts={NAME: ADDRESS, "stranger": ADDRESS},
            trusted={DOOR: cloud.state / "keys" / "tls.pem"},
        )
        with made:
            cloud.stop()
            cloud.start("--listen", f"0.0.0.0:{PORT}", inside=made.inside())
            yield made
    except NotFound as error:
        pytest.skip(str(error))


def test_docker_logs_in_pushes_and_pulls_and_what_it_pushed_is_imported(docker, cloud, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "app").write_bytes(b"from docker")
    docker.add_image(f"{DOOR}/web:v1", tmp_path / "tree", 'ENTRYPOINT ["/app"]')
    operator = cloud.as_operator()
    secret = operator.make_door_token(DoorTokenRequest(repository="web")).secret

    def says(*words: str, stdin: bytes | None = None) -> str:
        """What docker says when it refuses."""
        return docker.docker(*words, accept=(1,), stdin=stdin).stderr.decode()

    login = ("login", "--username", "me", "--password-stdin")
    assert "certificate" in says(*login, f"stranger:{PORT}", stdin=secret.encode())
    assert "401" in says(*login, DOOR, stdin=b"wrong")
    assert "auth" in says("push", f"{DOOR}/web:v1")
    docker.docker(*login, DOOR, stdin=secret.encode())
    docker.docker("push", f"{DOOR}/web:v1")
    docker.docker("tag", f"{DOOR}/web:v1", f"{DOOR}/other:v1")
    assert "denied" in says("push", f"{DOOR}/other:v1")

    (pushed,) = [one for one in operator.door_images() if one.repository == "web"]
    assert (pushed.tag, pushed.by) == ("v1", secret.partition(".")[0])
    cache = ImageCache(tmp_path / "cache")
    with fetched(operator, "web:v1", cache) as (folder, digest):
        assert digest == pushed.digest
        layout = ImageSource(kind=SourceKind.OCI_LAYOUT, location=f"{folder}:image")
        report = import_image(layout, cache=cache)
    (app,) = [one for one in report.manifest.entries if one.path == "app"]
    assert b"".join(cache.objects.read(app.sha256)) == b"from docker"

    number = docker.docker("image", "inspect", "--format", "{{.Id}}", f"{DOOR}/web:v1").text
    docker.docker("image", "rm", f"{DOOR}/web:v1", f"{DOOR}/other:v1")
    docker.docker("pull", f"{DOOR}/web@{pushed.digest}")
    assert docker.docker("image", "inspect", "--format", "{{.Id}}", f"{DOOR}/web@{pushed.digest}").text == number

    docker.docker(*login, TUNNEL, stdin=secret.encode())
    docker.docker("tag", f"{DOOR}/web@{pushed.digest}", f"{TUNNEL}/web:v2")
    docker.docker("push", f"{TUNNEL}/web:v2")
    assert {one.tag for one in operator.door_images() if one.repository == "web"} == {"v1", "v2"}
