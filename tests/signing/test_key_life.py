"""Keys over time: lost, stolen, replaced, run ahead - and services that never notice."""

from __future__ import annotations

import dataclasses
import time

import pytest

from nebh.model.errors import BadInput, NotFound, Refused
from nebh.model.image import ImageRef
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.service import Limits, Placement, Replicas
from nebh.signing import key_life, roles, words
from nebh.signing.floors import Floors, check_floors, raise_floors, raise_floors_by
from nebh.signing.keys import save_key
from nebh.signing.operator import Cluster, create_folder, list_clusters, load_cluster
from nebh.signing.repository import Draft
from nebh.signing.statements import Seed
from nebh.signing.trusted_set import read_trusted_set
from nebh.signing.wish import Wish, apply_wish, listed_counters

NEW, CI = Seed(b"n" * 32), Seed(b"i" * 32)
DAY = 86_400


def release(cloud, counter):
    return Release(
        cluster_id=cloud.genesis.cluster_id,
        service="web",
        epoch=1,
        counter=counter,
        signed_at=cloud.now + counter,
        images={"main": ImageRef(manifest="a" * 64, bytes=1, entries=1)},
        argv=("/bin/web",),
    )


def deploy(cloud, counter, *, key=None):
    wish = Wish(releases=(release(cloud, counter),))
    if counter == 1:
        wish = dataclasses.replace(
            wish,
            policies=(
                Policy(
                    cluster_id=cloud.genesis.cluster_id,
                    service="web",
                    version=1,
                    epoch=1,
                    signed_at=cloud.now,
                    state=ServiceState.RUNNING,
                    placement=Placement(),
                    replicas=Replicas(),
                    limits=Limits(memory=1),
                    net=NetPolicy(),
                ),
            ),
        )
    cloud.publish(apply_wish(cloud.state(), wish, key=key or cloud.operator, now=cloud.now).publication)


@pytest.fixture
def cloud(new_cloud):
    made = new_cloud()
    deploy(made, 1)
    return made


def test_words_make_a_new_operator_key_and_the_old_one_is_refused(cloud):
    cloud.store("node").refresh()
    signed = key_life.recover(cloud.state(), recovery_words=cloud.genesis.words, key=NEW, now=cloud.now)
    assert "2.root.json" in signed.publication.metadata
    assert {change.what for change in signed.difference.widening} >= {
        "key of targets",
        "key of snapshot",
        "key of timestamp",
    }
    cloud.publish(signed.publication)
    found = read_trusted_set(cloud.store("node"), source="c", wanted=None)
    assert found.operator_keys == (NEW.public,)
    assert found.releases.keys() == {"release/web/1.json"}  # services untouched
    with pytest.raises(Refused) as refusal:
        deploy(cloud, 2)
    assert refusal.value.rule == "O2"
    deploy(cloud, 2, key=NEW)
    assert listed_counters(cloud.state(), "web") == (1, 2)


def test_a_snapshot_by_the_old_key_no_longer_verifies(cloud):
    before = cloud.state()
    cloud.publish(key_life.recover(before, recovery_words=cloud.genesis.words, key=NEW, now=cloud.now).publication)
    forged = apply_wish(before, Wish(releases=(release(cloud, 2),)), key=cloud.operator, now=cloud.now).publication
    cloud.publish(forged)
    with pytest.raises(Refused):
        cloud.store().refresh()


def test_other_words_are_refused(cloud):
    with pytest.raises(Refused):
        key_life.recover(cloud.state(), recovery_words=words.to_words(bytes(16)), key=NEW, now=cloud.now)
    with pytest.raises(BadInput):
        key_life.recover(cloud.state(), recovery_words="one two", key=NEW, now=cloud.now)


def test_keys_are_added_listed_rotated_and_revoked(cloud):
    text = cloud.genesis.words
    args = {"recovery_words": text, "now": cloud.now}
    cloud.publish(key_life.add_operator(cloud.state(), public=NEW.public, key=cloud.operator, **args).publication)
    lines = key_life.list_keys(cloud.state())
    assert sorted(line.kind for line in lines) == ["controller", "operator", "operator", "recovery"]
    deploy(cloud, 2, key=NEW)
    cloud.publish(key_life.revoke_operator(cloud.state(), public=cloud.operator.public, key=NEW, **args).publication)
    assert cloud.state().trusted.operator_keys == (NEW.public,)
    with pytest.raises(BadInput):
        key_life.revoke_operator(cloud.state(), public=NEW.public, key=NEW, **args)
    with pytest.raises(NotFound):
        key_life.revoke_operator(cloud.state(), public=CI.public, key=NEW, **args)
    third = Seed(b"3" * 32)
    cloud.publish(key_life.rotate_operator(cloud.state(), old=NEW.public, key=third, **args).publication)
    deploy(cloud, 3, key=third)
    assert cloud.state().trusted.operator_keys == (third.public,)


def test_a_new_recovery_key_replaces_the_words(cloud):
    signed = key_life.set_recovery(
        cloud.state(), recovery_words=cloud.genesis.words, entropy=b"z" * 16, key=cloud.operator, now=cloud.now
    )
    cloud.publish(signed.publication)
    with pytest.raises(Refused):
        key_life.recover(cloud.state(), recovery_words=cloud.genesis.words, key=NEW, now=cloud.now)
    cloud.publish(
        key_life.recover(cloud.state(), recovery_words=words.to_words(b"z" * 16), key=NEW, now=cloud.now).publication
    )
    cloud.store().refresh()


def test_a_revoked_ci_key_loses_its_releases_and_its_role(cloud):
    cloud.publish(
        apply_wish(cloud.state(), Wish(ci_keys={"web": (CI.public,)}), key=cloud.operator, now=cloud.now).publication
    )
    assert [line.kind for line in key_life.list_keys(cloud.state())].count("ci") == 1
    deploy(cloud, 2)
    signed = key_life.revoke_ci(
        cloud.state(),
        service="web",
        public=CI.public,
        key=cloud.operator,
        now=cloud.now,
        signed_since=cloud.now + 2,
        signed_at_of=lambda counter: cloud.now + counter,
    )
    cloud.publish(signed.publication)
    state = cloud.state()
    assert [one.role for one in state.trusted.delegations] == ["rel-web.2"]
    assert listed_counters(state, "web") == (1,)
    with pytest.raises(Refused):
        apply_wish(state, Wish(releases=(release(cloud, 3),)), key=CI, now=cloud.now)
    with pytest.raises(NotFound):
        key_life.revoke_ci(state, service="web", public=CI.public, key=cloud.operator, now=cloud.now)


def test_expired_metadata_is_renewed_by_one_command(new_cloud):
    cloud = new_cloud(now=int(time.time()) - 400 * DAY)
    with pytest.raises(Refused):
        cloud.state()
    signed = key_life.renew(cloud.state(accept_expired=True), key=cloud.operator, now=int(time.time()))
    assert signed.difference.changes == ()
    cloud.publish(signed.publication)
    assert {line.role: line.version for line in key_life.show_trust(cloud.state())} == {
        "root": 1,
        "timestamp": 3,
        "snapshot": 2,
        "targets": 2,
    }
    with pytest.raises(Refused):
        key_life.renew(cloud.state(), key=CI, now=cloud.now)


def test_an_expired_root_is_renewed_with_the_words(new_cloud):
    cloud = new_cloud(now=int(time.time()) - 6 * 365 * DAY)
    state = cloud.state(accept_expired=True)
    cloud.publish(
        key_life.renew(state, key=cloud.operator, now=int(time.time()), recovery_words=cloud.genesis.words).publication
    )
    assert cloud.state().trusted.versions["root"] == 2


def test_a_timestamp_that_ran_ahead_is_brought_back_by_another_controller_key(cloud):
    """A hacked controller signs version 2**53; nodes took it; a new key lets honest versions count again."""
    draft = Draft.of(cloud.state(), now=cloud.now)
    snapshot = cloud.files[f"metadata/{draft._versions['snapshot']}.snapshot.json"]
    from tuf.api._payload import Timestamp

    cloud.files["metadata/timestamp.json"] = roles.seal_role(
        Timestamp(snapshot_meta=roles.meta_file(snapshot, draft._versions["snapshot"])),
        signers=(cloud.controller,),
        cluster_id=cloud.genesis.cluster_id,
        version=2**53,
        now=cloud.now,
        life=DAY,
    )
    cloud.store("node").refresh()
    fresh = Seed(b"f" * 32)
    signed = key_life.set_controllers(
        cloud.state(), recovery_words=cloud.genesis.words, publics=(fresh.public,), key=cloud.operator, now=cloud.now
    )
    cloud.publish(signed.publication)
    found = read_trusted_set(cloud.store("node"), source="c")
    assert found.versions["timestamp"] == cloud.now + 2
    assert found.settings.controller_keys == (fresh.public,)
    cloud.store("never-saw-it").refresh()


def test_ci_mode_lets_the_controller_complete_a_publication(cloud):
    from nebh.signing.wish import complete

    signed = key_life.set_controllers(
        cloud.state(),
        recovery_words=cloud.genesis.words,
        publics=(cloud.controller.public,),
        key=cloud.operator,
        now=cloud.now,
        ci_mode=True,
    )
    cloud.publish(signed.publication)
    cloud.publish(
        apply_wish(cloud.state(), Wish(ci_keys={"web": (CI.public,)}), key=cloud.operator, now=cloud.now).publication
    )
    state = cloud.state()
    ci = apply_wish(state, Wish(releases=(release(cloud, 2),)), key=CI, now=cloud.now)
    cloud.publish(complete(ci.publication, state, key=cloud.controller, now=cloud.now))
    assert listed_counters(cloud.state(), "web") == (1, 2)


def test_floors_refuse_what_is_older_or_other(cloud):
    floors = raise_floors(Floors(cluster_id=cloud.genesis.cluster_id), cloud.state().trusted)
    old = dict(cloud.files)
    deploy(cloud, 2)
    newer = cloud.state().trusted
    check_floors(newer, floors)
    raised = raise_floors(floors, newer)
    cloud.files = old
    with pytest.raises(Refused) as refusal:
        check_floors(cloud.state().trusted, raised)
    assert refusal.value.rule == "O1"
    other = dataclasses.replace(newer, digests={**newer.digests, "targets": "0" * 64})
    with pytest.raises(Refused) as refusal:
        check_floors(other, raised)
    assert "equivocation" in refusal.value.hint
    with pytest.raises(Refused) as refusal:
        check_floors(newer, Floors(cluster_id="d" * 32))
    assert refusal.value.rule == "N0"


def test_what_was_signed_is_a_floor_too(cloud):
    state = cloud.state()
    floors = raise_floors(Floors(cluster_id=state.cluster_id), state.trusted)
    signed = apply_wish(state, Wish(releases=(release(cloud, 2),)), key=cloud.operator, now=cloud.now)
    raised = raise_floors_by(floors, signed.publication)
    with pytest.raises(Refused):
        check_floors(state.trusted, raised)
    cloud.publish(signed.publication)
    check_floors(cloud.state().trusted, raised)


def test_the_operators_folder(cloud, tmp_path):
    base = tmp_path / "config"
    made = create_folder(
        base,
        cluster=Cluster(cluster_id=cloud.genesis.cluster_id, name="home", controller="/run/x.sock"),
        root=cloud.genesis.root,
    )
    save_key(made.path / "operator.key", cloud.operator)
    folder = load_cluster(base)
    assert (folder.cluster, folder.root, list_clusters(base)) == (made.cluster, cloud.genesis.root, ("home",))
    assert made.path.stat().st_mode & 0o777 == 0o700
    old = dict(cloud.files)
    state = folder.read(cloud.fetch)
    signed = apply_wish(state, Wish(releases=(release(cloud, 2),)), key=cloud.operator, now=cloud.now)
    cloud.publish(signed.publication)
    folder.published(signed.publication)
    folder.read(cloud.fetch)
    cloud.files = old
    with pytest.raises(Refused):
        folder.read(cloud.fetch)  # an older targets file fed to the CLI
    import shutil

    shutil.rmtree(folder.path / "trust")  # even with python-tuf's memory gone, the floors hold
    with pytest.raises(Refused) as refusal:
        folder.read(cloud.fetch)
    assert refusal.value.rule == "O1"
    with pytest.raises(BadInput):
        create_folder(base, cluster=made.cluster, root=b"")
    with pytest.raises(NotFound):
        load_cluster(base, "away")
    with pytest.raises(NotFound):
        load_cluster(tmp_path / "nothing")
