"""Lists of sealed boxes among what is signed: what is listed, what is refused, what the difference says."""

from dataclasses import replace

import pytest

from nebh.model.errors import BadInput, Conflict, NotFound, Refused
from nebh.model.node import Baseline, NodeRecord, NodeStatus
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.secret import Box, SecretList
from nebh.model.service import Limits, Placement, Replicas
from nebh.signing.repository import read_state
from nebh.signing.trusted_set import secret_path
from nebh.signing.wish import Wish, apply_wish
from nebh.wire import codec

BOX, OTHER = Box(digest="a" * 64, bytes=60), Box(digest="b" * 64, bytes=60)


def node(name, number, **changes):
    made = NodeRecord(
        node_id=f"{number:064x}",
        name=name,
        groups=(),
        sign_pk=f"{number:064x}",
        seal_pk=f"{number + 9:064x}",
        wg_pk="",
        subnets=(f"10.7.{number * 16}.0/20",),
        enrolled_at=1,
        baseline=Baseline(snapshot=1),
    )
    return replace(made, **changes)


ONE, TWO = node("one", 1), node("two", 2)


@pytest.fixture
def made(cloud):
    policy = Policy(
        cluster_id=cloud.genesis.cluster_id,
        service="web",
        version=1,
        epoch=1,
        signed_at=cloud.now,
        state=ServiceState.RUNNING,
        placement=Placement(),
        replicas=Replicas(),
        limits=Limits(memory=64 << 20),
        net=NetPolicy(),
        secrets=("db",),
    )
    sign(cloud, Wish(policies=(policy,), nodes=(ONE, TWO)))
    cloud.policy = policy
    return cloud


def sign(cloud, wish):
    signed = apply_wish(cloud.state(), wish, key=cloud.operator, now=cloud.now + 60)
    cloud.publish(signed.publication)
    return signed


def listed(cloud, version=1, boxes=None, **changes):
    found = SecretList(
        cluster_id=cloud.genesis.cluster_id,
        service="web",
        name="db",
        version=version,
        signed_at=cloud.now,
        boxes=boxes if boxes is not None else {ONE.node_id: BOX},
    )
    return replace(found, **changes)


def test_a_list_is_signed_read_back_and_shown_by_nodes_not_boxes(made):
    signed = sign(made, Wish(secrets=(listed(made),)))
    (change,) = signed.difference.changes
    assert (change.what, change.old, change.new, change.widens) == ("secret web/db", "", "version 1 for one", False)
    assert made.state().trusted.secrets == {"web/db": listed(made)}
    again = apply_wish(made.state(), Wish(secrets=(listed(made),)), key=made.operator, now=made.now + 70)
    assert [name for name in again.publication.metadata if "targets" in name] == []


def test_one_more_reader_of_what_there_is_widens(made):
    sign(made, Wish(secrets=(listed(made),)))
    signed = sign(made, Wish(secrets=(listed(made, boxes={ONE.node_id: BOX, TWO.node_id: OTHER}),)))
    assert [(one.new, one.widens) for one in signed.difference.changes] == [("version 1 for one, two", True)]
    signed = sign(made, Wish(secrets=(listed(made, 2, {ONE.node_id: OTHER}),)))
    assert [(one.new, one.widens) for one in signed.difference.changes] == [("version 2 for one", False)]


def test_what_is_refused(made):
    sign(made, Wish(secrets=(listed(made, 2),)))
    for wrong, kind, text in (
        (listed(made, 1), Conflict, "behind the signed 2"),
        (listed(made, 2, {ONE.node_id: OTHER}), Conflict, "another box"),
        (listed(made, 3, {"9" * 64: BOX}), BadInput, "no active node"),
        (listed(made, 3, name="key"), BadInput, "does not name it"),
        (listed(made, 3, service="shop"), NotFound, "no policy"),
        (listed(made, 3, cluster_id="d" * 32), BadInput, "is of cluster"),
        (listed(made, 3, name="../db"), BadInput, "name of a secret"),
    ):
        with pytest.raises(kind, match=text):
            sign(made, Wish(secrets=(wrong,)))
    gone = replace(ONE, status=NodeStatus.REVOKED)
    with pytest.raises(BadInput, match="no active node"):
        sign(made, Wish(nodes=(gone,), secrets=(listed(made, 3),)))


def test_what_the_policy_no_longer_names_is_taken_away_and_with_the_service_all(made):
    sign(made, Wish(secrets=(listed(made),)))
    sign(made, Wish(policies=(replace(made.policy, version=2, secrets=()),)))
    assert made.state().trusted.secrets == {}
    sign(made, Wish(policies=(replace(made.policy, version=3),), secrets=(listed(made, 5),)))
    assert made.state().trusted.secrets["web/db"].version == 5
    sign(made, Wish(remove=("web",)))
    assert made.state().trusted.secrets == {}


def test_the_schema_is_closed_and_the_cluster_counts(made):
    sign(made, Wish(secrets=(listed(made),)))
    path = next(name for name in made.files if name.endswith(".db.json"))
    assert path.startswith("targets/secrets/web/")
    for change in (b'{"more":1,', b" {"):
        data = made.files[path].replace(b"{", change, 1)
        with pytest.raises(BadInput):
            codec.decode(data, SecretList, what="list")
    foreign = codec.encode(listed(made, cluster_id="d" * 32))
    assert "d" * 32 not in made.state().trusted.cluster_ids
    made.files[path] = foreign
    with pytest.raises(Refused):  # other bytes than targets lists
        read_state(made.store())
    assert secret_path("web", "db") == "secrets/web/db.json"
