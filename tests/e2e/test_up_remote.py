"""`nebh up root@HOST` against a real sshd; the other machine is this one, with other folders and a network of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.cli.remote import PARTS, find_sources, pack_programs
from nebh.testing.cloud import Cloud
from nebh.testing.container_rig import busybox
from nebh.testing.tiny_service import HOST, write_service

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(240)]
PORT = 2222


class Far:
    """A machine behind sshd: a Cloud's folders and network, a program folder, a server with keys of its own."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.folder = cloud, cloud.folder
        self.prefix = Path("/opt") / self.folder.name  # nobody but root may write on the way to the programs
        self.home = self.folder / "laptop"
        self.home.mkdir(mode=0o700)
        self._write_programs()
        self._write_ssh()
        self.sshd = subprocess.Popen(
            cloud.inside("/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")),
            stderr=(self.folder / "sshd.log").open("wb"),
        )
        self._wait()

    def _write_programs(self) -> None:
        """What install.sh would leave: no need to fetch Python packages for each test."""
        (self.prefix / "bin").mkdir(parents=True)
        # a copy of its own: the installer must find nothing to do, whatever is written in the checkout meanwhile
        sources = self.prefix / "share"
        for part in PARTS:
            shutil.copytree(find_sources() / part, sources / part, ignore=shutil.ignore_patterns("__pycache__"))
        self.path = os.pathsep.join([str(sources / "src"), *self.cloud.env["PYTHONPATH"].split(os.pathsep)])
        for name in ("nebh", "nebh-controller", "nebh-agent", "nebh-executor"):
            file = self.prefix / "bin" / name
            module = f"nebh.programs.{name.removeprefix('nebh-')}"
            file.write_text(f'#!/bin/sh\nPYTHONPATH={self.path} exec {sys.executable} -P -m {module} "$@"\n')
            file.chmod(0o755)
        digest = hashlib.sha256(pack_programs(sources)).hexdigest()
        (self.prefix / "installed").write_text(digest + "\n")

    def _write_ssh(self) -> None:
        for name in ("host", "user"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(argv, check=True, timeout=30)
        Path("/run/sshd").mkdir(exist_ok=True)
        (self.folder / "authorized").write_text((self.folder / "user.pub").read_text())
        (self.folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{PORT}\nHostKey {self.folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"PermitRootLogin prohibit-password\nAuthorizedKeysFile {self.folder}/authorized\n"
            f"SetEnv PATH={self.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin\nMaxStartups 50\nMaxSessions 50\n"
        )
        host_key = (self.folder / "host.pub").read_text().split()[:2]
        (self.folder / "known").write_text(f"[127.0.0.1]:{PORT} {' '.join(host_key)}\n")
        self.ssh = f"ssh -F none -p {PORT} -i {self.folder}/user -o IdentitiesOnly=yes -o UserKnownHostsFile={self.folder}/known"

    def _wait(self) -> None:
        end = time.monotonic() + 10
        while "Server listening" not in (self.folder / "sshd.log").read_text():
            assert time.monotonic() < end, (self.folder / "sshd.log").read_text()
            time.sleep(0.05)

    @property
    def env(self) -> dict[str, str]:
        """The laptop's."""
        own = {"HOME": str(self.home), "NEBH_CONFIG": str(self.home / "config"), "NEBH_CACHE": str(self.home / "cache")}
        path = os.environ.get("PATH", "/usr/bin:/bin")
        return {**self.cloud.env, **own, "NEBH_SSH": self.ssh, "PATH": path, "PYTHONPATH": self.path}

    def nebh(self, *words: str, status: int = 0) -> str:
        argv = self.cloud.inside(sys.executable, "-P", "-m", "nebh.programs.nebh", *words)
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    @property
    def places(self) -> tuple[str, ...]:
        return ("--state", str(self.cloud.layout.state), "--run", str(self.cloud.layout.run))

    def up(self, *more: str, status: int = 0) -> str:
        words = ("--http-port", str(self.cloud.http_port), "--https-port", "8443", "--cgroup-parent", self.cloud.name)
        rest = ("--prefix", str(self.prefix), "--name", "far", "--words-file", str(self.home / "words"), *more)
        return self.nebh("up", "root@127.0.0.1", "--foreground", *self.places, *words, *rest, status=status)

    def close(self) -> None:
        self.sshd.terminate()
        self.sshd.wait(10)
        shutil.rmtree(self.prefix, ignore_errors=True)


@pytest.fixture
def far(tmp_path_factory) -> Iterator[Far]:
    for program in ("/usr/sbin/sshd", "/usr/bin/ssh"):
        if not Path(program).exists():
            pytest.skip(f"{program} is not installed")
    folder = Path("/var/tmp") / f"nt-{os.getpid():x}"
    with Cloud(folder) as cloud:
        machine = Far(cloud)
        try:
            yield machine
        finally:
            subprocess.run(
                cloud.inside(sys.executable, "-P", "-m", "nebh.programs.nebh", "down", *machine.places),
                env=machine.env,
                capture_output=True,
                timeout=60,
                check=False,
            )
            machine.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_founds_a_cloud_behind_ssh_whose_key_stays_here(far):
    if not busybox():
        pytest.skip("busybox (Debian: busybox-static) is not installed")
    said = far.up()
    assert "far is up on root@127.0.0.1" in said, said
    assert "is what this computer runs" in said

    config = far.home / "config" / "far"
    assert (config / "operator.key").exists()
    assert not (config / "founding.json").exists()
    assert json.loads((config / "cluster.json").read_text())["controller"] == "ssh://root@127.0.0.1"
    state = far.cloud.layout.state
    key = (config / "operator.key").read_bytes()
    assert not [path for path in state.rglob("*") if path.is_file() and key[30:60] in path.read_bytes()]

    # again: nothing is founded twice
    words = (far.home / "words").read_text()
    assert "is up" in far.up()
    assert (far.home / "words").read_text() == words

    # and it serves: a deploy from the laptop through the same ssh
    far.nebh("deploy", str(write_service(far.home, page="from afar")))
    assert far.cloud.get("/", host=HOST)[1].strip() == "from afar"


def test_says_what_is_missing_and_changes_nothing(far):
    listener = subprocess.Popen(
        far.cloud.inside(
            sys.executable,
            "-c",
            f"import socket,time; s=socket.create_server(('127.0.0.1', {far.cloud.http_port})); time.sleep(60)",
        )
    )
    try:
        time.sleep(0.5)
        said = far.up(status=2)
    finally:
        listener.kill()
        listener.wait()
    assert f"port {far.cloud.http_port} is taken there" in said
    assert not far.cloud.layout.state.exists()
    assert not (far.home / "config").exists()


def test_names_the_machine_that_ssh_does_not_reach(far):
    far.sshd.terminate()
    far.sshd.wait(10)
    said = far.up(status=5)
    assert "cannot reach root@127.0.0.1" in said
    assert "must work without a question" in said
