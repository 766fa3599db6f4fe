"""The CI example deploys with a kit and without any operator's key; it exits by the nodes' receipts, and reaches nothing
but its own service. A release of an edited file moves as a patch, and what was pushed to the registry door runs once it
is signed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import stat
import tarfile
from pathlib import Path

import pytest

from nebh.client.http import HttpConnection
from nebh.client.transport import UnixTransport
from nebh.testing.middlemen import HostileController
from nebh.testing.tiny_service import HOST, write_service

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "ci" / "deploy.sh"


@pytest.fixture(scope="module")
def ci(cloud, disk_folder):
    """The folder of a CI job: web is deployed once by the operator, the kit lies here, the operator's folder does not."""
    folder = disk_folder / "ci"
    folder.mkdir()
    cloud.nebh("deploy", str(write_service(folder, page="by the operator")))
    cloud.nebh("key", "add", "--new", str(folder / "ci.key"), "--as", "ci:web", "--yes-widen")
    cloud.nebh("key", "ci-kit", str(folder / "ci.key"), "--out", str(folder / "web.kit"))
    return folder


def run_job(cloud, folder: Path, spec: Path, accept: tuple[int, ...] = (0,), build: str = ""):
    """Run the example as a CI system does: its own home, a `nebh` on PATH, the kit, no key of the operator's."""
    shim = folder / "bin" / "nebh"
    shim.parent.mkdir(exist_ok=True)
    python = " ".join(cloud._python("nebh"))
    shim.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    shim.chmod(0o755)
    env = {
        "PYTHONPATH": cloud.env["PYTHONPATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PATH": f"{shim.parent}:{os.environ['PATH']}",
        "NEBH_CI_KIT": str(folder / "web.kit"),
        "SPEC": str(spec),
        **({"BUILD": build} if build else {}),
    }
    from nebh.host.run import Command, run

    return run(Command(argv=cloud.inside("sh", str(EXAMPLE)), env=env, accept=accept, timeout=400.0))


def test_1_without_ci_mode_an_operator_must_seal(cloud, ci):
    done = run_job(cloud, ci, ci / "web.yaml", accept=(3,))
    assert "ci-mode on" in done.stderr.decode()
    assert "by the operator" in cloud.get(host=HOST)[1]


def test_2_the_example_deploys_and_exits_by_receipts(cloud, ci):
    cloud.nebh("key", "ci-mode", "on", "--words-file", str(cloud.folder / "words"), "--yes-widen")
    page = ci / "web" / "www" / "index.html"
    done = run_job(cloud, ci, ci / "web.yaml", build=f"echo by CI > {page}")
    assert "by CI" in cloud.get(host=HOST)[1]
    assert "committed" in done.text.lower()
    assert stat.S_IMODE((ci / "web.kit").stat().st_mode) == 0o600
    assert not list(ci.glob("tmp.*")), "nothing of the key is left on the runner"


@pytest.mark.long
def test_3_a_release_that_fails_its_checks_fails_the_job(cloud, ci):
    spec = ci / "web.yaml"
    good = spec.read_text()
    spec.write_text(good.replace("path: /}", "path: /nothing}").replace("startup_timeout: 20s", "startup_timeout: 3s"))
    done = run_job(cloud, ci, spec, accept=(3, 4, 8))
    assert done.status != 0
    assert "by CI" in cloud.get(host=HOST)[1]
    spec.write_text(good)


def test_4_a_kit_reaches_its_own_service_and_no_policy(cloud, ci):
    assert run_job(cloud, ci, write_service(ci, name="other"), accept=(2, 3, 7)).status
    spec = ci / "web.yaml"
    good = spec.read_text()
    spec.write_text(good.replace("memory: 32M", "memory: 64M"))
    done = run_job(cloud, ci, spec, accept=(2,))
    assert "an operator deploys this once" in done.stderr.decode()
    spec.write_text(good)
    env = {"NEBH_CI_KIT": str(ci / "web.kit"), "NEBH_CONFIG": str(ci / "config"), "HOME": str(ci)}
    for words in (("stop", "web"), ("status",), ("image", "door-token", "web"), ("key", "list", "--json")):
        status = cloud.nebh(*words, accept=(0, 2, 3, 7), env=env).status
        assert status == (0 if words[0] == "key" else 3), words


@pytest.mark.long
def test_5_an_edited_file_moves_as_a_patch_to_the_controller_and_to_the_node(cloud, ci, eventually):
    big = ci / "web" / "www" / "big"
    data = os.urandom(2 << 20)
    big.write_bytes(data)
    run_job(cloud, ci, ci / "web.yaml")
    big.write_bytes(data[: 1 << 20] + b"edited" + data[1 << 20 :])
    with HostileController(cloud.layout.controller_socket, lambda _: None) as between:
        old = cloud.kill("agent")  # the connections that it has lead past the one between
        eventually(lambda: cloud.pid_of("agent") not in (0, old), what="another agent")
        done = run_job(cloud, ci, ci / "web.yaml")
    line = next(line for line in done.stderr.decode().splitlines() + done.text.splitlines() if "as a change" in line)
    print(line)
    assert "(2 of them as a change" in line
    deltas = list((cloud.layout.controller / "deltas").glob("*/*"))
    assert len(deltas) >= 2
    assert "POST /v1/objects/patches" in between.asked
    assert "POST /v1/objects/batch" not in between.asked, "the node patched what it holds"
    assert cloud.get("/big", host=HOST)[0] == 200


def push_through_the_door(cloud, repository: str, tag: str, folder: Path) -> str:
    """Push a folder as an image of one layer, with a fresh token; return its digest."""
    secret = cloud.nebh_json("image", "door-token", repository)["secret"]
    head = {"Authorization": "Basic " + base64.b64encode(f"me:{secret}".encode()).decode()}

    def ask(method: str, target: str, body: bytes, **more: str) -> dict[str, str]:
        channel = UnixTransport(path=cloud.layout.controller_socket).connect()
        with contextlib.closing(HttpConnection(channel, host="controller")) as connection:
            answer = connection.request(method, target, headers={**head, **more}, body=body, timeout=60.0)
            assert answer.status in (201, 202), answer.read(limit=1 << 20)
            return answer.headers

    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        tar.add(folder, arcname=".")
    layer, named = held.getvalue(), []
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha(layer)]}}
    ).encode()
    for kind, data in (("config.v1+json", config), ("layer.v1.tar", layer)):
        place = ask("POST", f"/v2/{repository}/blobs/uploads/", b"")["location"]
        ask("PUT", f"{place}?digest={sha(data)}", data)
        media_type = f"application/vnd.oci.image.{kind}"
        named.append({"mediaType": media_type, "digest": sha(data), "size": len(data)})
    oci = "application/vnd.oci.image.manifest.v1+json"
    body = json.dumps({"schemaVersion": 2, "mediaType": oci, "config": named[0], "layers": named[1:]}).encode()
    ask("PUT", f"/v2/{repository}/manifests/{tag}", body, **{"Content-Type": oci})
    return sha(body)


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_6_what_was_pushed_runs_once_it_is_signed(cloud, ci):
    (ci / "web" / "www" / "index.html").write_text("through the door")
    digest = push_through_the_door(cloud, "web", "1.2", ci / "web")
    (image,) = cloud.nebh_json("image", "door")["images"]
    assert (image["tag"], image["digest"]) == ("1.2", digest)
    assert "by CI" in cloud.get(host=HOST)[1]
    spec = ci / "web.yaml"
    spec.write_text(spec.read_text().replace("image: {dir: ./web}", f'image: {{door: "web@{digest}"}}'))
    run_job(cloud, ci, spec)  # a CI key may pull what has its service's name
    assert "through the door" in cloud.get(host=HOST)[1]
