"""Whatever is wished, in whatever order: what is published verifies, and the difference tells all of it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from nebh.model.errors import NebhError
from nebh.model.image import ImageRef
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.service import Limits, Placement, Replicas
from nebh.signing.floors import Floors, check_floors, raise_floors, raise_floors_by
from nebh.signing.genesis import init_cluster
from nebh.signing.repository import read_state
from nebh.signing.statements import Seed
from nebh.signing.trust_store import TrustStore
from nebh.signing.wish import Wish, apply_wish, listed_counters

KEY, CONTROLLER = Seed(b"o" * 32), Seed(b"c" * 32)
CLUSTER, NOW = "c" * 32, int(time.time())
SERVICES = ("web", "db")
steps = st.lists(
    st.tuples(st.sampled_from(("policy", "release", "delist", "remove", "epoch", "ci")), st.sampled_from(SERVICES)),
    max_size=10,
)


def policy(service):
    return Policy(
        cluster_id=CLUSTER,
        service=service,
        version=1,
        epoch=1,
        signed_at=NOW,
        state=ServiceState.RUNNING,
        placement=Placement(),
        replicas=Replicas(),
        limits=Limits(memory=1),
        net=NetPolicy(),
    )


def wish_of(state, kind, service):
    old = state.trusted.policies.get(service)
    counters = listed_counters(state, service)
    match kind:
        case "policy":
            return Wish(
                policies=(dataclasses.replace(old, version=old.version + 1, signed_at=NOW) if old else policy(service),)
            )
        case "epoch" if old:
            return Wish(policies=(dataclasses.replace(old, version=old.version + 1, epoch=old.epoch + 1),))
        case "release":
            made = Release(
                cluster_id=CLUSTER,
                service=service,
                epoch=old.epoch if old else 1,
                counter=max(counters, default=0) + 1,
                signed_at=NOW,
                images={"main": ImageRef(manifest="a" * 64, bytes=1, entries=1)},
                argv=("/x",),
            )
            return Wish(releases=(made,))
        case "delist":
            return Wish(delist=((service, min(counters, default=1)),))
        case "ci":
            return Wish(ci_keys={service: ("1" * 64,)}, fresh_roles=(service,))
    return Wish(remove=(service,))


@settings(max_examples=25, deadline=None)
@given(steps)
def test_every_publication_verifies_for_old_and_new_clients(todo):
    genesis = init_cluster(
        name="h", operator=KEY, controller=CONTROLLER.public, entropy=bytes(16), cluster_id=CLUSTER, now=NOW
    )
    files: dict[str, bytes] = {}

    def publish(publication):
        files.update({"metadata/" + name: data for name, data in publication.metadata.items()})
        files.update({"targets/" + name: data for name, data in publication.targets.items()})

    def fetch(name, limit):
        return files.get(name)

    publish(genesis.publication)
    floors = Floors(cluster_id=CLUSTER)
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, service) in enumerate(todo):
            state = read_state(TrustStore(Path(folder) / "same", fetch, genesis.root, CLUSTER), wanted=None)
            check_floors(state.trusted, floors)
            floors = raise_floors(floors, state.trusted)
            try:
                signed = apply_wish(state, wish_of(state, kind, service), key=KEY, now=NOW + number)
            except NebhError:
                continue
            assert signed.difference.changes or signed.difference.policies or kind == "ci"
            publish(signed.publication)
            floors = raise_floors_by(floors, signed.publication)
        last = [
            read_state(TrustStore(Path(folder) / name, fetch, genesis.root, CLUSTER), wanted=None)
            for name in ("same", "new")
        ]
        assert last[0].trusted == last[1].trusted
        for one in last[0].trusted.delegations:
            assert one.terminating
            assert one.own_delegations == 0
            assert all(path.startswith(one.paths[0].removesuffix("*")) for path in one.listed)
        assert sorted(last[0].trusted.policies) == sorted(
            {one.paths[0].split("/")[1] for one in last[0].trusted.delegations}
        )


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_hostile_role_files_raise_our_errors_only(data):
    genesis = init_cluster(
        name="h", operator=KEY, controller=CONTROLLER.public, entropy=bytes(16), cluster_id=CLUSTER, now=NOW
    )
    files = {"metadata/" + name: body for name, body in genesis.publication.metadata.items()}
    files.update({"targets/" + name: body for name, body in genesis.publication.targets.items()})
    name = data.draw(st.sampled_from([*sorted(set(files) - {"metadata/1.root.json"}), "metadata/2.root.json"]))
    if data.draw(st.booleans()) or name not in files or name.startswith("targets/"):
        files[name] = data.draw(st.binary(max_size=60) | _json.map(lambda value: json.dumps(value).encode()))
    else:
        plain = json.loads(files[name])
        place = data.draw(st.sampled_from((plain, plain["signed"])))
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(_json)
        changed = json.dumps(plain).encode()
        if json.loads(changed) == json.loads(files[name]):
            return
        files[name] = changed
    with tempfile.TemporaryDirectory() as folder:
        store = TrustStore(Path(folder) / "t", lambda path, limit: files.get(path), genesis.root, CLUSTER)
        try:
            found = read_state(store)
        except NebhError:
            return
        assert found.trusted.operator_keys == (KEY.public,)
        assert found.trusted.settings.name == "h"
