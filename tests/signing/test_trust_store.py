"""TrustStore on a repository that init_cluster made."""

from __future__ import annotations

import json

import pytest
from tuf.api.metadata import Metadata

from nebh.model.errors import BadInput, NotFound, Refused, Unreachable
from nebh.signing.trust_store import Expired
from nebh.signing.trusted_set import read_trusted_set

DAY = 86_400


def test_a_new_cluster_verifies_from_its_pinned_root(cloud):
    trusted = read_trusted_set(cloud.store(), source="controller")
    assert trusted.versions == {"root": 1, "targets": 1, "snapshot": 1, "timestamp": 1}
    assert trusted.cluster_ids == (cloud.genesis.cluster_id,)
    assert trusted.settings.controller_keys == (cloud.controller.public,)
    assert trusted.operator_keys == (cloud.operator.public,)
    assert trusted.top_level == ("cluster/nodes.json", "cluster/settings.json")
    assert trusted.newest_signed_at == cloud.now


def test_a_second_refresh_fetches_root_and_timestamp_only(cloud):
    read_trusted_set(cloud.store("same"), source="controller")
    cloud.asked.clear()
    read_trusted_set(cloud.store("same"), source="controller")
    assert cloud.asked == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_another_clusters_files_are_refused_and_not_stored(cloud, new_cloud):
    foreign = new_cloud(cluster_id="d" * 32)
    mine = cloud.store()
    cloud.files["metadata/timestamp.json"] = foreign.files["metadata/timestamp.json"]
    with pytest.raises(Refused) as refusal:
        mine.refresh()
    assert refusal.value.rule == "N0"
    assert not (mine.directory / "timestamp.json").exists()


def test_a_changed_byte_is_refused(cloud):
    name = next(name for name in cloud.files if name.startswith("metadata/") and "targets" in name)
    cloud.files[name] = cloud.files[name].replace(b"settings", b"sittings")
    with pytest.raises(Refused) as refusal:
        cloud.store().refresh()
    assert refusal.value.rule == "N1"


def test_a_target_with_other_bytes_is_refused_and_the_right_ones_are_read(cloud):
    name = next(name for name in cloud.files if name.endswith("settings.json"))
    good = cloud.files[name]
    for bad in (good + b" ", good[:-1], good.replace(b"home", b"hole")):
        cloud.files[name] = bad
        with pytest.raises(Refused) as refusal:
            cloud.store("s").read("cluster/settings.json")
        assert refusal.value.rule == "N1"
    cloud.files[name] = good
    assert cloud.store("s").read("cluster/settings.json") == good
    del cloud.files[name]
    assert cloud.store("s").read("cluster/settings.json") == good  # from its own verified copy


def test_nothing_is_read_that_is_not_listed(cloud):
    with pytest.raises(NotFound):
        cloud.store().read("policy/web.json")


def test_an_empty_source_is_unreachable(cloud):
    cloud.files = {}
    with pytest.raises(Unreachable):
        cloud.store().refresh()


@pytest.mark.parametrize(("age", "role"), [(4, "timestamp"), (70, "timestamp"), (6 * 365, "root")])
def test_expired_metadata_is_refused_and_names_the_role(new_cloud, age, role):
    import time

    cloud = new_cloud(now=int(time.time()) - age * DAY)
    with pytest.raises(Expired) as refusal:
        cloud.store().refresh()
    assert (refusal.value.rule, refusal.value.role) == ("N1", role)
    assert "nebh trust renew" in refusal.value.hint
    cloud.store(accept_expired=True).refresh()


def test_garbage_is_refused_without_a_traceback(cloud):
    cloud.files["metadata/timestamp.json"] = b'{"signed": []}'
    with pytest.raises(Refused):
        cloud.store().refresh()
    with pytest.raises((Refused, BadInput)):
        cloud.store(cluster_id=None).refresh()


def test_every_role_file_carries_the_cluster_and_the_time(cloud):
    for name, data in cloud.genesis.publication.metadata.items():
        signed = json.loads(data)["signed"]
        assert (signed["cluster_id"], signed["signed_at"]) == (cloud.genesis.cluster_id, cloud.now), name
        Metadata.from_bytes(data)
