"""From inside real containers: what a service reaches, and what else on the machine works on. The rules themselves are
tested in tests/drivers/networks."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading

import pytest

from nebh.host.run import Command, run

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

PEER = (
    "import socket\n"
    "server = socket.create_server(('0.0.0.0', 2222))\n"
    "print('listens', flush=True)\n"
    "while True:\n"
    "    other, _ = server.accept()\n"
    "    other.sendall(b'peer\\n')\n"
    "    other.close()\n"
)


@pytest.fixture(scope="module")
def neighbours(cloud):
    """What somebody else runs on this machine: a table, and a bridge with a container that listens, as Docker has."""
    peer = f"{cloud.name}p"
    run(Command(argv=("ip", "netns", "add", peer)))
    lines = (
        "nft add table inet other",
        "nft add chain inet other input { type filter hook input priority 0 ; policy accept ; }",
        "nft add rule inet other input tcp dport 2222 counter accept",
        "ip link add br-other type bridge",
        "ip addr add 172.30.0.1/24 dev br-other",
        "ip link set br-other up",
        f"ip link add vother type veth peer name eth0 netns {peer}",
        "ip link set vother master br-other up",
    )
    inside = ("addr add 172.30.0.2/24 dev eth0", "link set eth0 up", "route add default via 172.30.0.1")
    for line in (*lines, *(f"ip -n {peer} {one}" for one in inside)):
        run(Command(argv=cloud.inside(*line.split())))
    argv = ("ip", "netns", "exec", peer, sys.executable, "-c", PEER)
    server = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert server.stdout.readline() == b"listens\n"
        yield table_of(cloud)
    finally:
        server.kill()
        server.wait()
        run(Command(argv=("ip", "netns", "del", peer), accept=(0, 1)))


def table_of(cloud):
    """Return the other one's table, without its counters."""
    text = run(Command(argv=cloud.inside("nft", "list", "table", "inet", "other"))).text
    return re.sub(r"packets \d+ bytes \d+", "", text)


@pytest.fixture(scope="module")
def session(cloud, neighbours, dial):
    """A connection like that of SSH: from before the deploys, over all of them. Returns a function that uses it."""
    from nebh.host.namespaces import CLONE_NEWNET, setns

    made = []

    def listen():
        with open(f"/run/netns/{cloud.name}") as namespace:
            setns(namespace.fileno(), CLONE_NEWNET)
        made.append(socket.create_server(("172.30.0.1", 2222)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    client = dial(2222, address="172.30.0.1")
    server, _ = made[0].accept()

    def use(word):
        client.sendall(word)
        return server.recv(100)

    yield use
    for one in (client, server, made[0]):
        one.close()


@pytest.fixture(scope="module")
def people(cloud, session, services):
    """A database; `friend` declares a connection to it, `stranger` does not, `traveller` may leave."""
    services.image("db")
    (services.folder / "db.yaml").write_text(
        "name: db\nimage: {dir: ./images/db}\nargv: [/usr/bin/db, --port, '5432']\nports: {pg: 5432}\n"
        "limits: {memory: 64M}\nupdate: {bake: 1s, drain: 1s}\n"
    )
    cloud.nebh("deploy", str(services.folder / "db.yaml"))
    services.deploy("friend", more='connects: ["db:5432"]\n')
    services.deploy("stranger")
    services.deploy("traveller", more='egress: [dns, "172.30.0.0/24:2222"]\n')
    return lambda who, path: cloud.get(path, host=f"{who}.example", timeout=60)[1]


def addresses_of(cloud, service):
    """Return (IPv4, IPv6) of the instance of a service."""
    (one,) = cloud.serving(service)
    found = []
    for family, pattern in (("-4", r"\d+\.\d+\.\d+\.\d+"), ("-6", r"fd[0-9a-f:]+")):
        words = ("ip", family, "route", "show", "dev", f"nebh{one['address']:04x}")
        match = re.search(pattern, run(Command(argv=cloud.inside(*words))).text)
        found.append(match[0] if match else "")
    return found


def test_declared_connections_pass_and_others_do_not(cloud, people):
    assert people("friend", "/reach/db.nebh.internal/5432") == "connected v1\n"
    assert people("stranger", "/reach/db.nebh.internal/5432").startswith("failed")
    assert people("friend", "/reach/stranger.nebh.internal/8080").startswith("failed")
    for address in filter(None, addresses_of(cloud, "db")):  # past the name and the endpoint
        assert people("stranger", f"/reach/{address}/5432").startswith("failed")


def test_names_of_services_resolve_and_public_ones_do_not(people):
    assert people("stranger", "/resolve/db.nebh.internal").startswith("addresses")
    assert ":" in people("stranger", "/resolve/db.nebh.internal")
    assert people("stranger", "/resolve/deb.debian.org").startswith("failed")
    assert people("stranger", "/resolve/nobody.nebh.internal").startswith("failed")


def test_nobody_leaves_undeclared(cloud, people):
    gateway = addresses_of(cloud, "db")[0].rsplit(".", 2)[0] + ".0.1"
    for who in ("stranger", "traveller"):
        for address, port in (
            ("169.254.169.254", 80),  # the metadata service of a cloud provider
            ("fd00:ec2::254", 80),
            ("172.30.0.1", 2223),
            (gateway, 22),
            (gateway, cloud.http_port),
            ("198.51.100.7", 443),
            ("2001:db8::7", 443),
        ):
            assert people(who, f"/reach/{address}/{port}").startswith("failed"), (who, address, port)
    assert people("traveller", "/reach/172.30.0.2/2222") == "connected peer\n"  # what is declared, and nothing beside
    assert people("traveller", "/reach/172.30.0.2/2223").startswith("failed")
    assert people("stranger", "/reach/172.30.0.2/2222").startswith("failed")


def test_everybody_else_works_on(cloud, people, neighbours, session, ask):
    def works(word):
        assert session(word) == word
        assert table_of(cloud) == neighbours
        assert ask(2222, address="172.30.0.2") == "peer"

    works(b"still there")
    cloud.stop()  # containers and rules stay
    works(b"and now")
    cloud.up()
    assert people("friend", "/reach/db.nebh.internal/5432") == "connected v1\n"
    works(b"again")
