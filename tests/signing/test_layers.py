"""Layers among the signed files: numbered without gaps, the last 20 kept, of this cluster alone."""

from __future__ import annotations

import dataclasses

import pytest

from nebh.model.config_layer import KEPT_VERSIONS, ConfigLayer, Part
from nebh.model.errors import BadInput, Conflict, Refused
from nebh.signing.layers import layer_of, layers_in, newest_layers
from nebh.signing.statements import Seed
from nebh.signing.wish import Wish, apply_wish


def layer(cloud, version: int, name: str = "cluster", **changes) -> ConfigLayer:
    part = Part(layer=name, version=version, values={"k": version})
    return dataclasses.replace(
        ConfigLayer(cluster_id=cloud.genesis.cluster_id, signed_at=cloud.now, part=part), **changes
    )


def sign(cloud, *layers: ConfigLayer, key: Seed | None = None):
    signed = apply_wish(cloud.state(), Wish(layers=layers), key=key or cloud.operator, now=cloud.now)
    cloud.publish(signed.publication)
    return signed.difference


def test_versions_follow_each_other_and_old_ones_go(cloud) -> None:
    for version in range(1, 4):
        difference = sign(cloud, layer(cloud, version))
        assert not difference.widening, "a layer alone changes nothing that runs"
        assert [str(one) for one in difference.changes] == [f"config cluster/{version}.json: (none) -> signed"]
    for version in range(4, KEPT_VERSIONS + 3):
        sign(cloud, layer(cloud, version))
    state = cloud.state()
    assert sorted(layers_in(state.files)["cluster"]) == list(range(3, KEPT_VERSIONS + 3))
    assert newest_layers(state)["cluster"].part.values == {"k": KEPT_VERSIONS + 2}


def test_what_does_not_follow_or_is_not_ours_is_refused(cloud) -> None:
    sign(cloud, layer(cloud, 1), layer(cloud, 1, "service/web/node/n1"))
    for version in (1, 3):
        with pytest.raises(Conflict, match="is the newest"):
            sign(cloud, layer(cloud, version))
    with pytest.raises(BadInput, match="of cluster"):
        sign(cloud, layer(cloud, 2, cluster_id="d" * 32))
    with pytest.raises(BadInput, match="as a layer"):
        sign(cloud, layer(cloud, 1, "group/../x"))
    with pytest.raises(Refused):
        sign(cloud, layer(cloud, 2), key=Seed(b"x" * 32))
    assert set(newest_layers(cloud.state())) == {"cluster", "service/web/node/n1"}


def test_a_path_says_layer_and_version() -> None:
    assert layer_of("config/group/eu/12.json") == ("group/eu", 12)
    for path in ("config/group/eu/0.json", "config/1.json", "policy/web.json", "config/a/x.json"):
        assert layer_of(path) is None
