"""The CI example deploys with a kit and without any operator's key; it exits by the nodes' receipts, and reaches nothing
but its own service. A release of an edited file moves as a patch, and what was pushed to the registry door runs once it
is signed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

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


def test_5_an_edited_file_moves_as_a_patch_to_the_controller_and_to_the_node(cloud, ci):
    big = ci / "web" / "www" / "big"
    data = os.urandom(2 << 20)
    big.write_bytes(data)
    run_job(cloud, ci, ci / "web.yaml")
    big.write_bytes(data[: 1 << 20] + b"edited" + data[1 << 20 :])
    done = run_job(cloud, ci, ci / "web.yaml")
    line = next(line for line in done.stderr.decode().splitlines() + done.text.splitlines() if "as a change" in line)
    print(line)
    assert "(2 of them as a change" in line
    deltas = list((cloud.layout.controller / "deltas").glob("*/*"))
    assert len(deltas) >= 2
    assert cloud.get("/big", host=HOST)[0] == 200


def test_6_what_was_pushed_runs_once_it_is_signed(cloud, ci):
    assert json.loads(cloud.nebh("image", "door", "--json").stdout)["images"] == []
    made = cloud.nebh_json("image", "door-token", "web")
    assert made["secret"].startswith(made["id"])
