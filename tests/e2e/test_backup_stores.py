"""Backups over SFTP to a real sshd, and to an S3 store. That one is moto's server: a double of Amazon's, no store that
anybody would keep data in; what it shows is that restic, its key and its network get there from the confined program."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from nebh.host.run import Command, run, start
from nebh.model.errors import NotFound
from nebh.testing.row_service import HOST, Rows, write_rows

pytestmark = [
    pytest.mark.root,
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which("restic") is None, reason="restic is not installed (packaging/packages.sh runtime)"
    ),
]
ANY = tuple(range(256))
SECRETS = "secrets: [{name: backup-password, generate: 40 alnum}"


@pytest.fixture
def running():
    """Programs to end."""
    made = []
    yield made
    for one in made:
        one.send_signal(signal.SIGTERM)
        one.wait(20)


def deploy(cloud, folder: Path, version: str, rule: str) -> None:
    try:
        spec = write_rows(folder, Rows(version=version, backup=rule))
    except NotFound as error:
        pytest.skip(str(error))
    spec.write_text(spec.read_text().replace(SECRETS, f"{SECRETS}, {{name: backup-key}}"))
    cloud.nebh("deploy", "--yes-widen", "--json", str(spec))


def round_trip(cloud, eventually) -> None:
    """Rows go into the store and come back."""
    known = len(listed(cloud))
    assert cloud.get("/row", host=HOST, method="POST")[0] == 200
    cloud.nebh("backup", "run", "rows")
    eventually(lambda: len(listed(cloud)) == known + 1)
    before = cloud.get("/rows", host=HOST)[1]
    assert cloud.get("/row", host=HOST, method="POST")[0] == 200
    cloud.nebh("backup", "verify", "rows", "--percent", "50")
    cloud.nebh("backup", "restore", "rows", "--yes")
    assert cloud.get("/rows", host=HOST)[1] == before


def listed(cloud) -> list[dict]:
    return json.loads(cloud.nebh("backup", "list", "rows", "--json").stdout)["backups"]


def said(done) -> str:
    return (done.stdout + done.stderr).decode()


def test_over_sftp(cloud, disk_folder, running, eventually):
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if sshd is None:
        pytest.skip("sshd is not installed (apt-get install openssh-server)")
    place = disk_folder / "sftp"
    place.mkdir(mode=0o700)
    for name in ("host", "user"):
        run(Command(argv=("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(place / name))))
    settings = (
        f"Port 2222\nListenAddress 127.0.0.1\nHostKey {place}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {place}/user.pub\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        "Subsystem sftp internal-sftp\n"
    )
    (place / "config").write_text(settings)
    made = not Path("/run/sshd").exists()
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    try:
        log = (place / "log").open("wb")
        running.append(start(Command(argv=cloud.inside(sshd, "-D", "-e", "-f", str(place / "config"))), stderr=log))
        key = (place / "host.pub").read_text().strip()
        rule = f"to: 'sftp:root@127.0.0.1:{place}/store', ssh_key: backup-key, host_key: {key}, port: 2222, every: 300d"
        cloud.nebh("secret", "set", "rows/backup-key", "--file", str(place / "user"))
        deploy(cloud, disk_folder, "v1", rule)
        round_trip(cloud, eventually)
        other = (place / "user.pub").read_text().strip()
        deploy(cloud, disk_folder, "v2", rule.replace(key, other))
        done = cloud.nebh("backup", "run", "rows", accept=ANY)
        assert done.status != 0, "another server's key must not do"
        assert "one of the two keys is wrong" in said(done) or "another host key" in said(done), said(done)
    finally:
        if made:
            shutil.rmtree("/run/sshd", ignore_errors=True)


def test_to_an_s3_double(cloud, disk_folder, running, eventually):
    moto = shutil.which("moto_server")
    if moto is None:
        pytest.skip("moto_server is not installed (pip install 'moto[server]'), and no S3-compatible server is")
    log = (disk_folder / "moto.log").open("wb")
    env = {"PATH": f"{Path(moto).parent}:/usr/bin:/bin"}
    running.append(
        start(Command(argv=cloud.inside(moto, "-H", "127.0.0.1", "-p", "5555"), env=env), stderr=log, stdout=log)
    )
    key = disk_folder / "s3-key"
    key.write_text("S3CR3T-key-of-the-store")
    cloud.nebh("secret", "set", "rows/backup-key", "--file", str(key), accept=ANY)
    rule = "to: 's3:http://127.0.0.1:5555/backups', access_key: AKIDEXAMPLE, secret_key: backup-key, region: us-east-1"
    deploy(cloud, disk_folder, "v3", f"{rule}, every: 300d")
    time.sleep(3)
    round_trip(cloud, eventually)
    running[0].send_signal(signal.SIGTERM)
    time.sleep(1)
    done = cloud.nebh("backup", "run", "rows", accept=ANY, timeout=900.0)
    assert done.status != 0
    assert "the store does not answer" in said(done), said(done)
