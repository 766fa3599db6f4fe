"""One node for many crashes: a test that leaves it broken gets the next one a new node."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.testing.node import Forks, Node

TOOLS = ("crun", "conmon", "haproxy", "dnsmasq", "nft", "ip", "ss", "busybox", "curl")


class Nodes:
    """Hands out the node."""

    def __init__(self, forks: Forks) -> None:
        self._forks = forks
        self._node: Node | None = None
        self._broken = False

    def take(self) -> Node:
        """Return a quiet node whose executor runs unarmed and which serves a release of `web`."""
        if self._broken:
            self.drop()
        self._broken = True
        if self._node is None:
            self._node = Node(Path(f"/var/tmp/nt-{secrets.token_hex(3)}"), self._forks)
            self._node.begin()
        node = self._node
        if not node.executor:
            node.start()
        node.settle()
        if not node.instances("serving"):
            node.assign(node.publish_release())
            node.settle()
        assert node.page() == f"v{node.instances('serving')[0]['counter']}"
        return node

    def good(self) -> None:
        """The test passed: its node may be used again."""
        self._broken = False

    def drop(self) -> None:
        """Take the node away."""
        node, self._node, self._broken = self._node, None, False
        if node is not None:
            node.destroy()


@pytest.fixture(scope="session")
def machine() -> None:
    """Skip, saying what is missing."""
    missing = [
        name for name in TOOLS if shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin") is None
    ]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def nodes(machine: None) -> Iterator[Nodes]:
    forks = Forks()
    found = Nodes(forks)
    try:
        yield found
    finally:
        found.drop()
        forks.close()


@pytest.fixture
def node(nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[Node]:
    yield nodes.take()
    report = request.node.stash.get(PASSED, None)
    if report:
        nodes.good()


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report
