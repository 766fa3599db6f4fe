"""Power goes at every instant of a publication: the old set or the new one stands, whole, and publishing goes on."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import pytest

from nebh.model.errors import Unreachable
from nebh.signing.trust_store import TrustStore
from nebh.signing.trusted_set import read_trusted_set
from nebh.signing.wish import Wish

pytestmark = pytest.mark.e2e

POINTS = (
    ("controller.publish.files.after", False),
    ("controller.publish.swap.before", False),
    ("controller.publish.swap.after", True),
    ("controller.publish.pointer.before", True),
)


@pytest.mark.parametrize(("point", "new"), POINTS)
def test_a_kill_while_publishing_leaves_one_whole_set(cloud, point, new):
    before = cloud.nobody().health().snapshot
    counter = cloud.as_operator().releases("web")[0].counter + 1
    cloud.stop(signal.SIGKILL)
    cloud.start(env={"NEBH_FAULT": point})
    publication = cloud.sign(Wish(releases=(cloud.release(counter),)))
    with pytest.raises(Unreachable):
        cloud.publish(publication)
    assert cloud.process.wait(20) == -signal.SIGKILL
    cloud.start()
    assert cloud.nobody().health().snapshot == before + new
    assert not list(cloud.state.glob("staging-*"))
    with tempfile.TemporaryDirectory() as scratch:
        store = TrustStore(Path(scratch), cloud.nobody().fetch, cloud.genesis.root, "c" * 32)
        found = read_trusted_set(store, source="controller", wanted=None)
    assert (f"release/web/{counter}.json" in found.releases) is new
    on_disk = (cloud.state / "metadata" / "timestamp.json").read_bytes()
    assert on_disk == cloud.nobody().fetch("metadata/timestamp.json", 1 << 20)
    cloud.publish(cloud.sign(Wish(releases=(cloud.release(counter + 1),))))
