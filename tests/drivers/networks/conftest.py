"""A host of its own for each test: a network namespace with an "internet" beside it, and people to talk in them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from nebh.drivers.networks.routed import RoutedNetwork
from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.host.networker import fork_networker
from nebh.host.worker import Worker
from nebh.model.network import link_plan

SUBNETS = ("10.77.0.0/20", "fd00:77::/64")


def sh(*argv, check=True, stdin=None):
    done = subprocess.run(argv, input=stdin, text=True, capture_output=True, timeout=30, check=False)
    if check and done.returncode:
        raise AssertionError(f"{argv}: {done.stdout}{done.stderr}")
    return done.stdout


def enter(path):
    descriptor = os.open(path, os.O_RDONLY)
    setns(descriptor, CLONE_NEWNET)
    os.close(descriptor)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Person:
    """Talks TCP (and UDP) in one network namespace, from a process of its own."""

    def __init__(self, path):
        self.sockets, self.kept, self.peers = {}, [], []
        self.path = path
        handlers = {n: getattr(self, "_" + n) for n in ("serve", "open", "say", "datagram", "served")}
        self.worker = Worker.fork("person", handlers, setup=lambda: enter(path))

    def serve(self, address, port, name):
        self.worker.call("serve", {"address": address, "port": port, "name": name})

    def open(self, address, port, source="", timeout=1.0):
        """Returns the greeting, `refused` or `silent`; the connection stays open under the address."""
        args = {"address": address, "port": port, "source": source, "timeout": timeout}
        return self.worker.call("open", args)[0]

    def say(self, address, text="x"):
        return self.worker.call("say", {"address": address, "text": text})[0]

    def datagram(self, address, port, timeout=0.6):
        return self.worker.call("datagram", {"address": address, "port": port, "timeout": timeout})[0]

    def served(self, *, clear=False):
        """Addresses of those who opened connections here."""
        return self.worker.call("served", {"clear": clear})[0]

    def _served(self, args, fds):
        peers = list(self.peers)
        if args["clear"]:
            self.peers.clear()
        return peers

    def _serve(self, args, fds):
        tcp, udp = (socket.socket(family(args["address"]), kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for channel in (tcp, udp):
            channel.bind((args["address"], args["port"]))
        tcp.listen(64)
        threading.Thread(target=self._greet, args=(tcp, args["name"]), daemon=True).start()
        threading.Thread(target=self._reply, args=(udp, args["name"]), daemon=True).start()

    def _greet(self, listener, name):
        while True:
            channel, peer = listener.accept()
            self.peers.append(peer[0])
            channel.sendall(name.encode())
            threading.Thread(target=self._echo, args=(channel, name), daemon=True).start()

    def _echo(self, channel, name):
        with contextlib.suppress(OSError):
            while data := channel.recv(1000):
                channel.sendall(name.encode() + b":" + data)

    def _reply(self, channel, name):
        while True:
            _, peer = channel.recvfrom(1000)
            channel.sendto(name.encode(), peer)

    def _open(self, args, fds):
        channel = socket.socket(family(args["address"]), socket.SOCK_STREAM)
        channel.settimeout(args["timeout"])
        try:
            if args["source"]:
                channel.bind((args["source"], 0))
            channel.connect((args["address"], args["port"]))
            self.sockets[args["address"]] = channel
            self.kept.append(channel)
            return channel.recv(100).decode()
        except TimeoutError:
            return "silent"
        except OSError:
            return "refused"

    def _say(self, args, fds):
        try:
            self.sockets[args["address"]].sendall(args["text"].encode())
            return self.sockets[args["address"]].recv(100).decode()
        except TimeoutError:
            return "silent"
        except OSError:
            return "refused"

    def _datagram(self, args, fds):
        channel = socket.socket(family(args["address"]), socket.SOCK_DGRAM)
        channel.settimeout(args["timeout"])
        try:
            channel.connect((args["address"], args["port"]))
            channel.send(b"hello")
            return channel.recv(100).decode()
        except TimeoutError:
            return "silent"
        except OSError:
            return "refused"


class Host:
    """A machine: network namespace NAME, joined by `uplink` to namespace NAME-net, which plays the internet."""

    net4, net6 = "203.0.113.9", "2001:db8:9::9"
    own4, own6 = "203.0.113.1", "2001:db8:9::1"
    metadata = ("169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254")
    private = ("10.1.2.3", "192.168.7.7", "fd99::7")

    def __init__(self, stack):
        self.stack = stack
        self.name = "nt-" + secrets.token_hex(3)
        self.namespace()
        self.namespace("-net")
        more = "".join(f"addr add {a}/{128 if ':' in a else 32} dev lo\n" for a in (*self.metadata, *self.private))
        self.ip(
            f"link set lo up\nlink add uplink type veth peer name eth0 netns {self.name}-net\n"
            f"addr add {self.own4}/24 dev uplink\naddr add {self.own6}/64 dev uplink nodad\n"
            "link set uplink up\n"
        )
        self.ip(
            f"link set lo up\naddr add {self.net4}/24 dev eth0\naddr add {self.net6}/64 dev eth0 nodad\n"
            f"link set eth0 up\n{more}",
            "-net",
        )
        self.ip(f"route add default via {self.net4}\nroute add default via {self.net6}\n")
        self.internet, self.root = self.person(self.path("-net")), self.person(self.path())
        self.internet.serve(self.net6, 1, "up")
        while self.root.open(self.net6, 1, timeout=0.1) != "up":
            pass  # the kernel says that a link is up when it finds time to
        self.internet.served(clear=True)
        self.worker = fork_networker(setup=lambda: enter(self.path()))
        stack.callback(self.worker.close)
        self.driver = RoutedNetwork(self.worker)

    def namespace(self, suffix=""):
        sh("ip", "netns", "add", self.name + suffix)
        self.stack.callback(sh, "ip", "netns", "del", self.name + suffix, check=False)
        sh("ip", "netns", "exec", self.name + suffix, "sysctl", "-qw", "net.ipv6.conf.default.dad_transmits=0")

    def path(self, suffix=""):
        return f"/run/netns/{self.name}{suffix}"

    def ip(self, lines, suffix=""):
        sh("ip", "-n", self.name + suffix, "-batch", "-", stdin=lines)

    def run(self, *argv, stdin=None, check=True):
        return sh("ip", "netns", "exec", self.name, *argv, stdin=stdin, check=check)

    def person(self, path):
        person = Person(path)
        self.stack.callback(person.worker.close)
        return person

    def attach(self, index):
        return self.person(self.driver.attach(link_plan(SUBNETS, index)))


@pytest.fixture
def host() -> Iterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    if not (shutil.which("nft") and shutil.which("ip")):
        pytest.skip("needs nft and ip")
    with contextlib.ExitStack() as stack:
        yield Host(stack)
