"""The operator's key is lost: the words make a new one on another computer, the old one is void, nothing is touched."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nebh.host.run import Result
from nebh.testing.cloud import Cloud
from nebh.testing.tiny_service import HOST, write_service

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(600)]
NEEDED = ("crun", "conmon", "haproxy", "dnsmasq", "nft", "ip", "nsenter", "curl", "busybox")
REFUSED = 3


class Computer:
    """An operator's computer: a folder of keys and a cache of its own."""

    def __init__(self, cloud: Cloud, name: str) -> None:
        self.cloud = cloud
        self.config = cloud.folder / name
        self.env = {"NEBH_CONFIG": str(self.config), "NEBH_CACHE": str(cloud.folder / f"{name}-cache")}

    def nebh(self, *words: str, accept: tuple[int, ...] = (0,)) -> Result:
        return self.cloud.nebh(*words, accept=accept, env=self.env)

    def keys(self) -> dict[str, str]:
        found: list[dict[str, Any]] = json.loads(self.nebh("key", "list", "--json").stdout)["keys"]
        return {one["key"]: one["kind"] for one in found}

    def losses(self, what: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.nebh("trust", "blast-radius", what, "--json").stdout)["losses"]
        return found


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with Cloud(Path("/var/tmp") / f"nt-{secrets.token_hex(3)}") as made:
        made.up()
        yield made


def life(cloud: Cloud) -> list[tuple[str, int, int]]:
    """What must stay the same: the instance, its process, and when that was started."""
    return [(one["id"], one["pid"], one["started"]) for one in cloud.serving("web")]


def test_a_lost_key_is_replaced_by_the_words_and_no_service_notices(cloud: Cloud) -> None:
    old, new = Computer(cloud, "config"), Computer(cloud, "other")
    specs = cloud.folder / "specs"
    specs.mkdir()
    spec = str(write_service(specs, page="tiny 1"))
    old.nebh("deploy", spec)
    before = life(cloud)
    assert len(before) == 1
    assert before[0][1] > 0

    # what its thief could do is known before
    (laptop,) = old.losses("laptop")
    assert (laptop["code_on"], laptop["policies"]) == (["web"], ["web"])
    assert laptop["recover"][0].startswith("nebh key recover --name ")
    stolen = next(key for key, kind in old.keys().items() if kind == "operator")

    # the other computer knows nothing but the words and where the controller is
    assert new.nebh("status", accept=(7,)).status == 7
    address = f"unix:{cloud.layout.controller_socket}"
    words = str(cloud.folder / "words")
    where = ("--name", "again", "--controller", address)
    wrong = cloud.folder / "wrong"
    wrong.write_text("abandon " * 11 + "about")
    new.nebh("key", "recover", *where, "--words-file", str(wrong), "--yes-widen", accept=(REFUSED,))
    assert not list(new.config.glob("*/*.key"))
    done = new.nebh("key", "recover", *where, "--words-file", words, "--yes-widen")
    assert "is the one operator key now" in done.text
    assert life(cloud) == before
    assert cloud.get(host=HOST) == (200, "tiny 1\n")

    # the old key is refused, by controller and by the tool; nothing happens
    spec = str(write_service(specs, page="tiny 2"))
    for words_of in (("deploy", spec), ("stop", "web"), ("restart", "web")):
        said = old.nebh(*words_of, accept=(REFUSED,))
        assert b"hint:" in said.stderr
    assert life(cloud) == before
    assert cloud.get(host=HOST) == (200, "tiny 1\n")

    # the new key is accepted by controller and node
    assert sorted(new.keys().values()) == ["controller", "operator", "recovery"]
    (now,) = new.losses(stolen)
    assert (now["code_on"], now["policies"], now["kind"]) == ([], [], "key")
    new.nebh("deploy", spec)
    assert cloud.get(host=HOST) == (200, "tiny 2\n")
    new.nebh("rollback", "web")
    assert cloud.get(host=HOST) == (200, "tiny 1\n")
