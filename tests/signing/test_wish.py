"""Wishes on a verified state: what is signed, what is refused, what the difference says."""

from __future__ import annotations

import dataclasses
import json

import pytest

from nebh.model.errors import BadInput, Conflict, NotFound, Refused
from nebh.model.image import ImageRef
from nebh.model.node import Baseline, NodeRecord, NodeStatus
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.service import Limits, Placement, Replicas
from nebh.planning.operate import may_publish
from nebh.signing.controller_tools import ControllerTools
from nebh.signing.repository import overlay, read_state
from nebh.signing.statements import Seed
from nebh.signing.trust_store import TrustStore
from nebh.signing.trusted_set import read_trusted_set
from nebh.signing.wish import Wish, apply_wish, complete, listed_counters

CI = Seed(b"i" * 32)
DAY = 86_400


def policy(cloud, service="web", **changes) -> Policy:
    made = Policy(
        cluster_id=cloud.genesis.cluster_id,
        service=service,
        version=1,
        epoch=1,
        signed_at=cloud.now,
        state=ServiceState.RUNNING,
        placement=Placement(),
        replicas=Replicas(),
        limits=Limits(memory=64 << 20),
        net=NetPolicy(),
    )
    return dataclasses.replace(made, **changes)


def release(cloud, counter, service="web", **changes) -> Release:
    made = Release(
        cluster_id=cloud.genesis.cluster_id,
        service=service,
        epoch=1,
        counter=counter,
        signed_at=cloud.now,
        images={"main": ImageRef(manifest="a" * 64, bytes=1, entries=1)},
        argv=("/bin/web",),
    )
    return dataclasses.replace(made, **changes)


def node(name, number, **changes) -> NodeRecord:
    made = NodeRecord(
        node_id=f"{number:032x}",
        name=name,
        groups=(),
        sign_pk=f"{number:064x}",
        seal_pk=f"{number + 1000:064x}",
        wg_pk="",
        subnets=(f"10.7.{number * 16}.0/20",),
        enrolled_at=1,
        baseline=Baseline(snapshot=1),
    )
    return dataclasses.replace(made, **changes)


def sign(cloud, wish, *, key=None, now=None):
    signed = apply_wish(cloud.state(), wish, key=key or cloud.operator, now=now or cloud.now + 60)
    cloud.publish(signed.publication)
    return signed


@pytest.fixture
def deployed(cloud):
    sign(cloud, Wish(policies=(policy(cloud),), releases=(release(cloud, 1),)))
    return cloud


def test_a_first_deploy_signs_policy_release_and_role(cloud):
    signed = apply_wish(
        cloud.state(), Wish(policies=(policy(cloud),), releases=(release(cloud, 1),)), key=cloud.operator, now=cloud.now
    )
    assert sorted(signed.publication.metadata) == [
        "1.rel-web.json",
        "2.snapshot.json",
        "2.targets.json",
        "timestamp.json",
    ]
    assert signed.publication.base == {"root": 1, "targets": 1, "snapshot": 1, "timestamp": 1}
    assert [str(one) for one in signed.difference.changes] == [
        f"key of releases of web: (none) -> {signed.difference.changes[0].new}",
        "release 1 of web: (none) -> listed",
    ]
    assert signed.difference.policies == ((None, policy(cloud)),)
    assert signed.difference.widening == ()
    cloud.publish(signed.publication)
    found = read_trusted_set(cloud.store(), source="c", wanted=None)
    assert found.policies == {"web": policy(cloud)}
    assert found.releases == {"release/web/1.json": release(cloud, 1)}
    (delegation,) = found.delegations
    assert (delegation.role, delegation.paths, delegation.terminating) == ("rel-web", ("release/web/*",), True)
    assert (delegation.own_delegations, delegation.listed) == (0, ("release/web/1.json",))


def test_the_next_release_touches_its_own_role_only(deployed):
    signed = sign(deployed, Wish(releases=(release(deployed, 2),)))
    assert sorted(signed.publication.metadata) == ["2.rel-web.json", "3.snapshot.json", "timestamp.json"]
    assert len(signed.publication.targets) == 1
    assert listed_counters(deployed.state(), "web") == (1, 2)
    assert read_trusted_set(deployed.store(), source="c", wanted=("release/web/2.json",)).releases.keys() == {
        "release/web/2.json"
    }


def test_a_node_follows_many_publications_from_its_old_folder(deployed):
    node_store = deployed.store("node")
    node_store.refresh()
    for counter in range(2, 6):
        sign(deployed, Wish(releases=(release(deployed, counter),)))
    found = read_trusted_set(deployed.store("node"), source="c")
    assert found.versions["rel-web"] == 5


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"counter": 1, "argv": ("/bin/other",)}, Conflict),
        ({"counter": 0}, BadInput),
        ({"epoch": 2}, BadInput),
        ({"policy_min_version": 9}, BadInput),
        ({"cluster_id": "d" * 32}, BadInput),
        ({"service": "db"}, NotFound),
    ],
)
def test_releases_that_do_not_fit_are_refused(deployed, change, error):
    with pytest.raises(error):
        sign(deployed, Wish(releases=(dataclasses.replace(release(deployed, 2), **change),)))


def test_the_same_release_again_is_no_change(deployed):
    signed = sign(deployed, Wish(releases=(release(deployed, 1),)))
    assert signed.difference.changes == ()
    assert "2.rel-web.json" not in signed.publication.metadata


def test_a_policy_follows_its_predecessor(deployed):
    with pytest.raises(Conflict):
        sign(deployed, Wish(policies=(policy(deployed, version=5),)))
    signed = sign(deployed, Wish(policies=(policy(deployed, version=2, state=ServiceState.STOPPED),)))
    (pair,) = signed.difference.policies
    assert (pair[0].state, pair[1].state) == (ServiceState.RUNNING, ServiceState.STOPPED)


def test_a_raised_epoch_delists_what_went_before(deployed):
    sign(deployed, Wish(releases=(release(deployed, 2),)))
    signed = sign(
        deployed,
        Wish(
            policies=(policy(deployed, version=2, epoch=2),),
            releases=(release(deployed, 1, epoch=2, policy_min_version=2),),
        ),
    )
    assert listed_counters(deployed.state(), "web") == (1,)
    assert any("release 2 of web: listed" in str(change) for change in signed.difference.changes)
    with pytest.raises(BadInput):
        sign(deployed, Wish(policies=(policy(deployed, version=3, epoch=1),)))


def test_a_delisted_release_listed_again_widens(deployed):
    sign(deployed, Wish(releases=(release(deployed, 2),)))
    sign(deployed, Wish(delist=(("web", 1),)))
    assert listed_counters(deployed.state(), "web") == (2,)
    with pytest.raises(Conflict):
        sign(deployed, Wish(releases=(release(deployed, 1),)))
    signed = sign(deployed, Wish(releases=(release(deployed, 1),), relist=(("web", 1),)))
    assert [change.what for change in signed.difference.widening] == ["release 1 of web"]
    with pytest.raises(NotFound):
        sign(deployed, Wish(delist=(("web", 77),)))


def test_a_service_can_go_and_come_back(deployed):
    sign(deployed, Wish(remove=("web",)))
    deployed.store("n").refresh()
    assert deployed.state().trusted.policies == {}
    signed = sign(deployed, Wish(policies=(policy(deployed),), releases=(release(deployed, 1),)))
    # Its old role name keeps its version floor in every snapshot, so the new one has a new name.
    assert "1.rel-web.2.json" in signed.publication.metadata
    assert read_trusted_set(deployed.store("n"), source="c", wanted=None).releases.keys() == {"release/web/1.json"}


def test_nodes_come_change_and_clash(cloud):
    signed = sign(cloud, Wish(nodes=(node("one", 1), node("two", 2))))
    assert [change.what for change in signed.difference.widening] == ["node one", "node two"]
    for clash in (
        node("one", 3),
        node("three", 3, sign_pk=node("x", 1).sign_pk),
        node("three", 3, subnets=node("x", 2).subnets),
    ):
        with pytest.raises(Conflict):
            sign(cloud, Wish(nodes=(clash,)))
    signed = sign(cloud, Wish(nodes=(node("two", 2, status=NodeStatus.REVOKED),)))
    assert [(str(change), change.widens) for change in signed.difference.changes] == [
        ("node two: status: active -> revoked", False)
    ]
    signed = sign(cloud, Wish(nodes=(node("two", 2, groups=("edge",)),)))
    assert {change.what for change in signed.difference.widening} == {"node two: groups", "node two: status"}


def test_settings_show_what_widens(cloud):
    settings = cloud.state().trusted.settings
    signed = sign(
        cloud,
        Wish(settings=dataclasses.replace(settings, poll=5, controller_keys=("1" * 64, *settings.controller_keys))),
    )
    assert [change.what for change in signed.difference.widening] == ["settings: controller_keys"]
    with pytest.raises(BadInput):
        sign(cloud, Wish(settings=dataclasses.replace(settings, controller_keys=())))


def test_a_stranger_signs_nothing(deployed):
    with pytest.raises(Refused) as refusal:
        sign(deployed, Wish(releases=(release(deployed, 2),)), key=Seed(b"?" * 32))
    assert refusal.value.rule == "O2"


def test_a_ci_key_signs_releases_of_its_service_only(deployed):
    sign(deployed, Wish(policies=(policy(deployed, "db"),)))
    signed = sign(deployed, Wish(ci_keys={"web": (CI.public,)}))
    assert [change.what for change in signed.difference.widening] == ["key of releases of web"]
    state = deployed.state()
    ci = apply_wish(state, Wish(releases=(release(deployed, 2),)), key=CI, now=deployed.now)
    assert list(ci.publication.metadata) == ["3.rel-web.json"]
    with pytest.raises(Refused):
        apply_wish(state, Wish(policies=(policy(deployed, version=2),)), key=CI, now=deployed.now)
    with pytest.raises(Refused):
        apply_wish(state, Wish(releases=(release(deployed, 1, "db"),)), key=CI, now=deployed.now)
    with pytest.raises(Refused):
        complete(ci.publication, state, key=deployed.controller, now=deployed.now)  # not in CI mode
    whole = complete(ci.publication, state, key=deployed.operator, now=deployed.now)
    deployed.publish(whole)
    assert listed_counters(deployed.state(), "web") == (1, 2)


def test_roles_past_half_of_their_life_are_renewed_along(deployed):
    signed = sign(deployed, Wish(releases=(release(deployed, 2),)), now=deployed.now + 100 * DAY)
    assert "3.targets.json" not in signed.publication.metadata
    cloud = deployed
    cloud_state = cloud.state(accept_expired=True)
    later = apply_wish(cloud_state, Wish(), key=cloud.operator, now=cloud.now + 200 * DAY)
    assert {"3.targets.json", "3.rel-web.json"} <= set(later.publication.metadata)
    assert later.difference.changes == ()


def test_compare_and_swap(deployed):
    state = deployed.state()
    one = apply_wish(state, Wish(releases=(release(deployed, 2),)), key=deployed.operator, now=deployed.now)
    other = apply_wish(
        state, Wish(releases=(release(deployed, 2, argv=("/x",)),)), key=deployed.operator, now=deployed.now
    )
    assert may_publish(base=one.publication.base, current=state.trusted.versions).ok
    deployed.publish(one.publication)
    assert not may_publish(base=other.publication.base, current=deployed.state().trusted.versions).ok


def test_a_publication_is_verified_on_top_of_what_is_published(deployed, tmp_path):
    state = deployed.state()
    signed = apply_wish(state, Wish(releases=(release(deployed, 2),)), key=deployed.operator, now=deployed.now)
    store = TrustStore(
        tmp_path / "check", overlay(signed.publication, deployed.fetch), deployed.genesis.root, state.cluster_id
    )
    assert read_state(store).trusted.versions["rel-web"] == 2
    bad = dataclasses.replace(
        signed.publication, targets={name: data + b" " for name, data in signed.publication.targets.items()}
    )
    store = TrustStore(tmp_path / "bad", overlay(bad, deployed.fetch), deployed.genesis.root, state.cluster_id)
    with pytest.raises(Refused):
        read_state(store, wanted=None)


def test_the_controllers_tools_verify_and_renew(deployed, tmp_path):
    for name, data in deployed.files.items():
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / name).write_bytes(data)
    tools = ControllerTools(key=deployed.controller, cluster_id="", now=lambda: deployed.now + 5)
    folders = (tmp_path / "repo",)
    trusted = tools.verify(folders, root=deployed.genesis.root)
    assert trusted.releases.keys() == {"release/web/1.json"}
    data = tools.timestamp(snapshot=deployed.files["metadata/2.snapshot.json"], version=9)
    assert json.loads(data)["signed"]["signed_at"] == deployed.now + 5
    (tmp_path / "repo/metadata/timestamp.json").write_bytes(data)
    assert tools.verify(folders, root=deployed.genesis.root).versions["timestamp"] == 9
    assert tools.may_sign_timestamp(deployed.genesis.root)
    other = ControllerTools(key=CI, cluster_id="", now=lambda: deployed.now)
    (tmp_path / "repo/metadata/timestamp.json").write_bytes(
        other.timestamp(snapshot=deployed.files["metadata/2.snapshot.json"], version=10)
    )
    with pytest.raises(Refused):
        tools.verify(folders, root=deployed.genesis.root)


def test_one_idle_ci_does_not_stop_the_others(new_cloud):
    import time

    cloud = new_cloud(now=int(time.time()) - 200 * DAY)
    signed = apply_wish(
        cloud.state(accept_expired=True),
        Wish(policies=(policy(cloud), policy(cloud, "db"))),
        key=cloud.operator,
        now=cloud.now,
    )
    cloud.publish(signed.publication)
    now = int(time.time())
    signed = apply_wish(
        cloud.state(accept_expired=True),
        Wish(releases=(release(cloud, 1, "db"),)),
        key=cloud.operator,
        now=now,
        renew=False,
    )
    cloud.publish(signed.publication)
    found = read_trusted_set(cloud.store(), source="c", wanted=("release/db/1.json",))
    assert found.releases.keys() == {"release/db/1.json"}
    assert found.expires["rel-web"] == 0
    assert "rel-web" not in found.versions
    with pytest.raises(Refused):
        sign(cloud, Wish(releases=(release(cloud, 1),)), now=now)


def test_a_timestamp_renewed_meanwhile_does_not_hide_a_publication(deployed):
    state = deployed.state()
    signed = apply_wish(state, Wish(releases=(release(deployed, 2),)), key=deployed.operator, now=deployed.now)
    tools = ControllerTools(key=deployed.controller, cluster_id="", now=lambda: deployed.now)
    deployed.files["metadata/timestamp.json"] = tools.timestamp(
        snapshot=deployed.files["metadata/2.snapshot.json"], version=state.trusted.versions["timestamp"] + 1
    )
    deployed.store("node").refresh()
    deployed.publish(signed.publication)
    assert read_trusted_set(deployed.store("node"), source="c").versions["snapshot"] == 3
