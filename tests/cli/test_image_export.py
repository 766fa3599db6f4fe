"""What `nebh image export` writes, podman loads and runs: as an OCI layout, and as docker-archive."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.cli.main import main
from nebh.host.cgroups import hybrid_unified
from nebh.model.errors import NotFound
from nebh.testing.container_rig import busybox

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed"),
]
DECLARATION = """files: [{from: program, to: /bin/cat}, {from: word, to: /srv/word}]
entrypoint: [/bin/cat]
user: 4711
"""


@pytest.fixture
def folder(monkeypatch) -> Iterator[Path]:
    """A folder with a short path: podman takes no other. The image `shop` is built there."""
    made = Path("/var/tmp") / f"nt-{secrets.token_hex(3)}"
    project = made / "shop"
    project.mkdir(parents=True)
    monkeypatch.setenv("NEBH_CACHE", str(made / "cache"))
    try:
        shutil.copy(busybox(), project / "program")
    except NotFound as error:
        pytest.skip(error.message)
    (project / "program").chmod(0o755)
    (project / "word").write_text("exported")
    (project / "image.yaml").write_text(DECLARATION)
    for word in ("lock", "build"):
        assert main(["image", word, str(project / "image.yaml"), "--quiet"]) == 0
    yield made
    shutil.rmtree(made)


def podman(folder: Path, *words: str) -> str:
    """Run podman with stores of its own."""
    policy = folder / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    store = ("--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "vfs")
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}
    hidden = hybrid_unified()  # crun alone refuses such a machine; it looks at the mounts
    cover = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {hidden} && exec "$@"', "sh") if hidden else ()
    done = subprocess.run(
        [*cover, "podman", *store, "--cgroup-manager", "cgroupfs", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
def test_an_export_runs_under_podman(folder, capsys, kind):
    target = folder / ("layout" if kind == "oci" else "saved.tar")
    capsys.readouterr()
    assert main(["image", "export", "shop", f"{kind}:{target}", "--json"]) == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    policy = ("--signature-policy", str(folder / "policy.json"))
    source = f"oci:{target}:shop" if kind == "oci" else f"docker-archive:{target}"
    image = podman(folder, "pull", "--quiet", *policy, source)
    config = json.loads(podman(folder, "image", "inspect", image))[0]["Config"]
    assert config["Labels"]["net.nebh.image"] == digest
    assert config["Entrypoint"] == ["/bin/cat"]
    # podman asks for more open files and processes than root may have on some machines
    low = ("--ulimit=nofile=256:256", "--ulimit=nproc=256:256")
    bounds = ("--rm", "--network=none", "--cgroups=disabled", *low, "--read-only")
    assert podman(folder, "run", *bounds, image, "/srv/word") == "exported"
