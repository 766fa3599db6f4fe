"""A cluster on a dict: what a controller would serve, without a controller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nebh.signing.genesis import Genesis, init_cluster
from nebh.signing.repository import Publication, State, read_state
from nebh.signing.statements import Seed
from nebh.signing.trust_store import TrustStore

CLUSTER = "c" * 32
NOW = 1_700_000_000


@dataclass
class Cloud:
    """files: what is served, by name; operator, controller, entropy: the keys."""

    directory: Path
    operator: Seed
    controller: Seed
    entropy: bytes
    genesis: Genesis
    now: int
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    stores: int = 0

    def publish(self, publication: Publication) -> None:
        for name, data in publication.metadata.items():
            self.files["metadata/" + name] = data
        for name, data in publication.targets.items():
            self.files["targets/" + name] = data

    def fetch(self, name: str, limit: int) -> bytes | None:
        self.asked.append(name)
        data = self.files.get(name)
        return None if data is None else data[: limit + 1]

    def store(self, name: str = "", *, cluster_id: str | None = CLUSTER, accept_expired: bool = False) -> TrustStore:
        if not name:
            self.stores += 1
            name = f"trust{self.stores}"
        return TrustStore(
            self.directory / name, self.fetch, self.genesis.root, cluster_id, accept_expired=accept_expired
        )

    def state(self, *, accept_expired: bool = False) -> State:
        return read_state(self.store(accept_expired=accept_expired))


@pytest.fixture
def new_cloud(tmp_path: Path) -> Callable[..., Cloud]:
    def make(*, now: int | None = None, cluster_id: str = CLUSTER, seed: bytes = b"o") -> Cloud:
        import time

        now = int(time.time()) if now is None else now
        operator, controller, entropy = Seed(seed * 32), Seed(b"t" * 32), b"e" * 16
        genesis = init_cluster(
            name="home",
            operator=operator,
            controller=controller.public,
            entropy=entropy,
            cluster_id=cluster_id,
            now=now,
        )
        cloud = Cloud(tmp_path, operator, controller, entropy, genesis, now)
        cloud.publish(genesis.publication)
        return cloud

    return make


@pytest.fixture
def cloud(new_cloud) -> Cloud:
    return new_cloud()
