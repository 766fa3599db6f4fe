"""What a service's CI key may do at the controller: publish and deploy releases of that service, and nothing else."""

from __future__ import annotations

import secrets
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.model import api
from nebh.model.errors import BadInput, NebhError, Refused
from nebh.model.statement import Phase
from nebh.signing import key_life
from nebh.signing.repository import read_state
from nebh.signing.statements import Seed
from nebh.signing.trust_store import TrustStore
from nebh.signing.wish import Wish

pytestmark = pytest.mark.e2e


def set_mode(cloud, *, on: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        store = TrustStore(Path(scratch), cloud.nobody().fetch, cloud.genesis.root, cloud.genesis.cluster_id)
        state = read_state(store)
    signed = key_life.set_controllers(
        state,
        recovery_words=cloud.genesis.words,
        publics=(cloud.controller_key,),
        key=cloud.operator,
        now=int(time.time()),
        ci_mode=on,
    )
    cloud.publish(signed.publication)


def test_1_without_ci_mode_its_release_waits_for_an_operator(cloud):
    before = cloud.nobody().health().snapshot
    with pytest.raises(Refused) as refused:
        cloud.publish(cloud.sign(Wish(releases=(cloud.release(3),)), key=cloud.ci), cloud.as_ci())
    assert "ci-mode on" in refused.value.hint
    assert cloud.nobody().health().snapshot == before


def test_2_in_ci_mode_it_publishes_and_deploys_its_own_service(cloud):
    set_mode(cloud, on=True)
    before = cloud.nobody().health().snapshot
    cloud.publish(cloud.sign(Wish(releases=(cloud.release(3),)), key=cloud.ci), cloud.as_ci())
    assert cloud.nobody().health().snapshot == before + 1
    assert 3 in cloud.as_ci().service("web").releases
    nonce = secrets.token_hex(16)
    request = api.DeploymentRequest(counter=3, epoch=1, replicas=1, phase=Phase.RUN, nonce=nonce, supersede=True)
    assert cloud.as_ci().deploy("web", request).by == f"ci:{cloud.ci.public[:16]}"
    assert {one.service for one in cloud.as_ci().events(after=0).events} <= {"web"}


def test_3_it_publishes_nothing_else(cloud):
    other = cloud.policy("other")
    by_operator = cloud.sign(Wish(policies=(other,)))
    for publication in (
        by_operator,
        replace(by_operator, metadata={}),
        cloud.sign(Wish(releases=(replace(cloud.release(4), service="web"),))),
    ):
        with pytest.raises(Refused):
            cloud.publish(publication, cloud.as_ci())
    forged = cloud.sign(Wish(releases=(cloud.release(4),)), key=cloud.ci)
    name = next(iter(forged.metadata))
    broken = forged.metadata[name].replace(b'"sig":"', b'"sig":"00', 1)
    with pytest.raises(NebhError):
        cloud.publish(replace(forged, metadata={name: broken}), cloud.as_ci())
    assert 4 not in cloud.as_ci().service("web").releases


def test_4_it_reaches_no_other_service_and_gives_no_orders(cloud):
    cloud.publish(cloud.sign(Wish(policies=(cloud.policy("other"),))))
    client = cloud.as_ci()
    request = api.DeploymentRequest(counter=1, epoch=1, replicas=1, phase=Phase.RUN, nonce="ab" * 16)
    for forbidden in (
        lambda: client.service("other"),
        lambda: client.deploy("other", request),
        client.status,
        client.nodes,
        client.hint,
        lambda: client.order(cloud.order()),
        lambda: client.logs("web"),
        lambda: client.make_door_token(api.DoorTokenRequest(repository="web")),
        lambda: client.poll(api.PollRequest(snapshot=0, seq=0, order=0, wait=0)),
    ):
        with pytest.raises(Refused):
            forbidden()


def test_5_a_stranger_and_a_revoked_key_get_no_token(cloud):
    with pytest.raises(Refused):
        cloud.as_ci(Seed(secrets.token_bytes(32))).service("web")
    client = cloud.as_ci()
    assert client.service("web")
    cloud.publish(cloud.sign(Wish(ci_keys={"web": ()})))
    with pytest.raises(Refused):
        client.service("web")
    with pytest.raises((Refused, BadInput)):
        cloud.publish(cloud.sign(Wish(releases=(cloud.release(9),)), key=cloud.ci), cloud.as_ci())


def test_6_off_is_off(cloud):
    set_mode(cloud, on=False)
    cloud.publish(cloud.sign(Wish(ci_keys={"web": (cloud.ci.public,)})))
    with pytest.raises(Refused):
        cloud.publish(cloud.sign(Wish(releases=(cloud.release(10),)), key=cloud.ci), cloud.as_ci())
