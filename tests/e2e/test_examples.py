"""Every example is deployed by the command line on a cloud of its own, and does what its comments say."""

from __future__ import annotations

import datetime
import os
import re
import shutil
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples"
# in this order: 03 needs the service of 04
ORDER = (
    "01-static-site",
    "02-python-web-app",
    "04-tcp-service",
    "03-web-with-database",
    "05-worker",
    "06-tls-route",
    "07-exec-checks",
    "08-websockets",
    "09-small-host",
    "10-egress-and-exceptions",
)
# the programs that an image holds besides the one with its own name
PROGRAMS = {"site": ("serve",), "secure": ("serve",), "engine": ("engine-check",)}


@pytest.fixture(scope="module")
def scratch(cloud, disk_folder, shorten):
    """The examples as a reader would copy them, with an image beside them for each; waits shortened."""
    from nebh.testing.example_images import build_image

    tls = disk_folder / "tls"
    make_certificate(tls, "secure.example.org")
    for source in sorted(EXAMPLES.glob("[0-9]*.yaml")):
        text = shorten(source.read_text())
        name = re.search(r"^name: (\S+)", text, re.MULTILINE)[1]
        image = re.search(r"\{dir: \./images/(\S+)\}", text)[1]
        build_image(disk_folder / "images" / image, name, *PROGRAMS.get(name, ()), shell=name == "mailer")
        (disk_folder / source.name).write_text(text.replace("/etc/nebh/tls/", f"{tls}/"))
    return disk_folder


def make_certificate(folder: Path, name: str) -> None:
    """Write a key and a certificate that signs itself, readable by root alone."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir(mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for suffix, data in ((".pem", certificate.public_bytes(serialization.Encoding.PEM)), (".key", private)):
        (folder / f"{name}{suffix}").write_bytes(data)
        (folder / f"{name}{suffix}").chmod(0o600)


@pytest.fixture(scope="module")
def deployed(cloud, scratch):
    """Return a function that deploys an example, planned before and after; remembers what is deployed."""
    done: set[str] = set()

    def deploy(example: str) -> None:
        if example in done:
            return
        path = str(scratch / f"{example}.yaml")
        before = cloud.node_status()
        plan = cloud.nebh_json("plan", path)
        after = cloud.node_status()
        assert plan["release"] == 1
        assert (after["snapshot"], after["running"]) == (before["snapshot"], before["running"])
        document = cloud.nebh_json("deploy", path)
        assert [one["outcome"] for one in document["receipts"]] == ["committed"], document
        plan = cloud.nebh_json("plan", path)
        assert (plan["changes"], plan["policy"]) == ([], []), plan
        assert plan["image"].startswith("the same files"), plan
        done.add(example)

    return deploy


def test_each_example_of_the_folder_is_tested_here():
    assert sorted(ORDER) == sorted(path.stem for path in EXAMPLES.glob("[0-9]*.yaml"))


def test_01_a_static_site_answers_under_its_name_alone(cloud, deployed):
    deployed("01-static-site")
    assert cloud.get("/index.html", host="www.example.org")[0] == 200
    assert cloud.get("/index.html", host="somebody.else")[0] in (404, 503)


def test_02_a_python_application_answers_and_knows_its_limits(cloud, deployed):
    deployed("02-python-web-app")
    status, body = cloud.get("/order?dry=1", host="shop.example.org")
    assert (status, "total" in body) == (200, True)
    assert cloud.get("/env/NEBH_MEMORY_BYTES", host="shop.example.org")[1].strip() == str(128 << 20)
    assert cloud.get("/env/NEBH_CPUS", host="shop.example.org")[1].strip() == "1"
    assert cloud.get("/env/SHOP_LANGUAGE", host="shop.example.org")[1].strip() == "no"


def test_03_and_04_a_web_application_reaches_its_database_and_others_do_not(cloud, deployed, ask):
    deployed("04-tcp-service")
    assert ask(15432) == "v1"
    deployed("03-web-with-database")
    assert cloud.get("/database", host="blog.example.org") == (200, "connected v1\n")
    deployed("01-static-site")  # declares no connection
    status, body = cloud.get("/reach/db.nebh.internal/5432", host="www.example.org")
    assert (status, body.split()[0]) == (200, "failed")


def test_05_a_worker_is_replaced_without_ever_being_two(cloud, deployed, scratch, eventually):
    deployed("05-worker")
    (first,) = cloud.serving("cleaner")
    path = scratch / "05-worker.yaml"
    path.write_text(path.read_text().replace("1h]", "2h]"))
    cloud.nebh("deploy", str(path))
    (second,) = cloud.serving("cleaner")
    assert second["counter"] == 2
    lines = cloud.nebh("logs", "cleaner", "--instance", first["id"]).text
    assert "ending" in lines  # it was asked to end, and did, before ...
    ended = lines.strip().splitlines()[-1].split()[0]
    began = eventually(lambda: cloud.nebh("logs", "cleaner", "--instance", second["id"]).text).split()[0]
    assert ended < began  # ... the new one began


def test_06_a_tls_route_answers_with_the_certificate_of_the_node(cloud, deployed, scratch):
    from nebh.host.run import Command, run

    deployed("06-tls-route")
    name = "secure.example.org"
    words = ("curl", "-s", "-m", "10", "--noproxy", "*", "--resolve", f"{name}:8443:127.0.0.1", "--cacert")
    done = run(Command(argv=cloud.inside(*words, f"{scratch}/tls/{name}.pem", f"https://{name}:8443/")))
    assert '"version": "v1"' in done.text
    challenge = cloud.get("/.well-known/acme-challenge/token", host=name)
    assert challenge[0] == 200
    assert cloud.get("/", host=name)[0] != 200  # plain HTTP is for renewal alone
    key = (scratch / "tls" / f"{name}.key").read_bytes()
    held = [path for path in cloud.layout.state.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20]
    with_key = [path for path in held if key.split(b"\n")[1] in path.read_bytes()]
    assert all(path.stat().st_mode & 0o007 == 0 for path in with_key), with_key


def test_07_checks_by_programs_of_the_image_run_inside_the_instance(cloud, deployed):
    deployed("07-exec-checks")
    (one,) = cloud.serving("engine")
    assert one["status"] == "running"


def test_08_replicas_share_the_traffic_and_long_connections_are_ended_by_the_drain(cloud, deployed, dial, scratch):
    deployed("08-websockets")
    assert len({one["slot"] for one in cloud.serving("chat")}) == 2
    hosts = {re.search(r'"host": "([^"]+)"', cloud.get("/", host="chat.example.org")[1])[1] for _ in range(12)}
    assert hosts == {"chat-0", "chat-1"}
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    with dial(cloud.http_port, timeout=60) as socket, dial(cloud.http_port, timeout=60) as events:
        socket.sendall(f"GET /ws HTTP/1.1\r\nHost: chat.example.org\r\n{upgrade}\r\n".encode())
        events.sendall(b"GET /events HTTP/1.1\r\nHost: chat.example.org\r\n\r\n")
        upgraded, listened = socket.makefile("rb"), events.makefile("rb")
        assert b"101" in upgraded.readline()
        while upgraded.readline().strip():
            pass
        socket.sendall(b"hello\n")
        assert upgraded.readline() == b"v1 hello\n"
        path = scratch / "08-websockets.yaml"
        path.write_text(path.read_text().replace("argv: [/usr/bin/chat,", "argv: [/usr/bin/chat, --again,"))
        cloud.nebh("deploy", str(path))
        socket.sendall(b"still there\n")
        said = upgraded.readline()
        assert said in (b"v1 still there\n", b"")  # it lives on until the drain is over ...
        assert upgraded.read() == b""  # ... and no longer
        assert b"data: v1" in listened.read()  # so does the stream of events
    document = cloud.nebh_json("scale", "chat", "3")
    assert [one["outcome"] for one in document["receipts"]] == ["committed"]
    assert len(cloud.serving("chat")) == 3


def test_09_a_small_host_never_runs_two_instances_at_once(cloud, deployed, scratch):
    deployed("09-small-host")
    assert cloud.get("/", host="wiki.example.org")[0] == 200
    path = scratch / "09-small-host.yaml"
    path.write_text(path.read_text().replace("/usr/bin/wiki,", "/usr/bin/wiki, --again,"))
    cloud.nebh("deploy", str(path))
    assert cloud.get("/", host="wiki.example.org")[0] == 200
    (one,) = cloud.serving("wiki")
    assert one["counter"] == 2


def test_10_exceptions_are_named_and_egress_is_bounded(cloud, deployed, scratch):
    path = scratch / "10-egress-and-exceptions.yaml"
    text = path.read_text()
    path.write_text(re.sub(r"    - shell:/bin/sh.*\n", "", text))
    refused = cloud.nebh("plan", str(path), accept=tuple(range(1, 10)))
    assert "/bin/sh" in refused.stderr.decode()
    path.write_text(text)
    deployed("10-egress-and-exceptions")
    (one,) = cloud.serving("mailer")
    assert one["status"] == "running"
    assert os.access(shutil.which("nft") or "", os.X_OK)
    from nebh.host.run import Command, run

    rules = run(Command(argv=cloud.inside("nft", "list", "ruleset"))).text
    assert "198.51.100.0/24" in rules
    assert "2001:db8:25::/48" in rules
