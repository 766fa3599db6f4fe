"""One cloud for all attacks: `nebh up`, a tiny service at release 1, and everything an attacker could hold."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.model.errors import NotFound
from nebh.testing.attacks import Attacker
from nebh.testing.cloud import Cloud
from nebh.testing.container_rig import busybox
from nebh.testing.node import Forks, Node
from nebh.testing.tiny_service import write_service


@pytest.fixture(scope="session")
def attacker() -> Iterator[Attacker]:
    """Whoever attacks a cloud on which release 1 of `web` answers."""
    if os.geteuid() != 0:
        pytest.skip("needs root: starts whole clouds")
    for program in ("crun", "conmon", "haproxy", "dnsmasq", "nft", "ip", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    try:
        busybox()
    except NotFound as error:
        pytest.skip(str(error))
    with Cloud(Path(f"/var/tmp/nt-{secrets.token_hex(3)}"), http_port=8080) as cloud:
        cloud.up()
        cloud.nebh("deploy", str(write_service(cloud.folder / "spec")))
        yield Attacker(cloud)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A real executor without a controller, whose keys are all here; release 1 of `web` answers."""
    if os.geteuid() != 0:
        pytest.skip("needs root: starts an executor")
    for program in ("crun", "conmon", "haproxy", "dnsmasq", "nft", "ip", "busybox", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    forks = Forks()
    found = Node(Path(f"/var/tmp/nt-{secrets.token_hex(3)}"), forks)
    try:
        found.begin()
        found.assign(found.publish_release())
        found.settle()
        yield found
    finally:
        found.destroy()
        forks.close()
