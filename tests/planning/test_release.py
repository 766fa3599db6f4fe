"""A spec becomes policy and release; versions rise only for a reason; widening is seen."""

import dataclasses

import pytest

from nebh.model.image import EntryType, ImageRef, TreeEntry, TreeManifest
from nebh.model.policy import Policy, ServiceState
from nebh.model.service import Replicas, ServiceSpec
from nebh.planning.admission import Disk, admit
from nebh.planning.claims import claims_conflict
from nebh.planning.plan_diff import WIDENS, compare_images, compare_policies, compare_releases, fields_of
from nebh.planning.release import is_same_release, make_policy, make_release, next_counter, revise_policy
from nebh.spec.parse import parse_spec
from nebh.spec.schema import example_text
from nebh.wire import codec

SPEC = parse_spec(example_text(), file="example.yaml", base="/srv")
IMAGE = ImageRef(manifest="a" * 64, bytes=1000, entries=3, manifest_bytes=200)


def policy_of(spec: ServiceSpec = SPEC, previous: Policy | None = None, now: int = 100) -> Policy:
    return make_policy(spec, previous=previous, cluster_id="c1", now=now)


def release_of(spec: ServiceSpec = SPEC, counter: int = 1, now: int = 100):
    return make_release(spec, policy=policy_of(), image=IMAGE, counter=counter, now=now)


def test_a_spec_splits_into_policy_and_release_that_survive_the_wire() -> None:
    policy, release = policy_of(), release_of()
    assert policy.version == 1
    assert policy.net.ports == {"http": 8080, "metrics": 9100}
    assert release.policy_min_version == 1
    assert release.images == {"main": IMAGE}
    assert codec.decode(codec.encode(policy), Policy, what="policy") == policy
    assert codec.decode(codec.encode(release), type(release), what="release") == release


def test_the_version_rises_only_when_something_changed() -> None:
    first = policy_of()
    assert policy_of(previous=first, now=200) is first
    changed = dataclasses.replace(SPEC, limits=dataclasses.replace(SPEC.limits, memory=2**27))
    second = policy_of(changed, previous=first, now=200)
    assert (second.version, second.signed_at) == (2, 200)


def test_what_commands_set_outlives_the_next_deploy() -> None:
    first = policy_of()
    assert revise_policy(first, now=200, state=ServiceState.RUNNING) is first
    stopped = revise_policy(first, now=200, state=ServiceState.STOPPED, pins=(9, 4), min_release=3)
    again = policy_of(previous=stopped, now=300)
    assert again is stopped
    assert again.pins == (4, 9)
    fresh = revise_policy(stopped, now=400, epoch=2)
    assert (fresh.epoch, fresh.pins, fresh.min_release) == (2, (), 0)
    assert make_policy(SPEC, previous=stopped, cluster_id="c1", now=5, state=ServiceState.RUNNING).version == 3


def test_counters_and_sameness() -> None:
    one, two = release_of(counter=1), release_of(counter=7, now=999)
    assert next_counter((one, two), service="web", epoch=1) == 8
    assert next_counter((one, two), service="web", epoch=2) == 1
    assert is_same_release(one, two)
    assert not is_same_release(one, dataclasses.replace(two, argv=("/other",)))


def test_every_policy_field_has_a_widening_rule() -> None:
    places = {"placement.groups", "placement.nodes"}
    assert set(fields_of(policy_of())) - places == set(WIDENS)


@pytest.mark.parametrize(
    ("before", "after", "field", "widens"),
    [
        ("memory: 64M", "memory: 65M", "limits.memory", True),
        ("memory: 64M", "memory: 63M", "limits.memory", False),
        ("cpu: 0.5", "cpu: 2", "limits.cpu", True),
        ("  cpu: 0.5 ", "  # cpu ", "limits.cpu", True),
        ("max: 4}", "max: 3}", "replicas.max", False),
        ("max: 4}", "max: 5}", "replicas.max", True),
        ("[db:5432]", "[db:5432, cache:6379]", "net.connects", True),
        ("[db:5432]", "[]", "net.connects", False),
        ("path: /   ", "path: /api", "net.routes", True),
        ("metrics: 9100", "metrics: 9101", "net.ports", True),
        ("groups: [front]", "groups: [front, back]", "placement.groups", True),
        ("groups: [front]", "groups: []", "placement.groups", False),
        ("checks_required: true", "checks_required: false", "checks_required", True),
        ("rollback_window: 7d", "rollback_window: 1d", "rollback_window", False),
        ('["shell:/bin/sh"]', "[]", "lint_exceptions", False),
    ],
)
def test_widening(before: str, after: str, field: str, widens: bool) -> None:
    assert before in example_text()
    text = example_text().replace(before, after).replace("port: metrics", "port: metrics")
    changed = policy_of(parse_spec(text, file="a", base="/srv"), previous=policy_of(), now=200)
    changes = {one.field: one for one in compare_policies(policy_of(), changed)}
    assert changes[field].widens is widens, changes


def test_admitting_every_node_widens_and_the_way_back_narrows() -> None:
    narrow = policy_of()
    wide = dataclasses.replace(narrow, placement=dataclasses.replace(narrow.placement, groups=(), nodes=()))
    assert all(one.widens for one in compare_policies(narrow, wide))
    assert not any(one.widens for one in compare_policies(wide, narrow))


def test_a_new_service_is_all_new_and_widens_nothing() -> None:
    changes = compare_policies(None, policy_of())
    assert any(one.field == "limits.memory" and one.new == "64 MiB" and not one.old for one in changes)
    assert not any(one.widens for one in changes)
    assert compare_policies(policy_of(), policy_of()) == ()


def test_release_differences_are_named() -> None:
    other = dataclasses.replace(release_of(counter=2), env={"LOG_LEVEL": "debug"}, argv=("/usr/bin/app",))
    changes = {one.field: str(one) for one in compare_releases(release_of(), other)}
    assert changes["env.LOG_LEVEL"] == "env.LOG_LEVEL: info -> debug"
    assert changes["env.GREETING"] == "env.GREETING: yes -> (none)"
    assert set(changes) == {"env.LOG_LEVEL", "env.GREETING", "argv"}


def file(path: str, sha: str, size: int) -> TreeEntry:
    return TreeEntry(path=path, type=EntryType.FILE, mode=0o644, size=size, sha256=sha * 64)


def test_image_difference_counts_only_new_contents() -> None:
    old = TreeManifest(format=1, entries=(file("a", "1", 10), file("b", "2", 20)))
    new = TreeManifest(format=1, entries=(file("b", "3", 30), file("c", "1", 10)))
    diff = compare_images(old, new)
    assert (diff.added, diff.removed, diff.changed) == (("c",), ("a",), ("b",))
    assert (diff.old_bytes, diff.new_bytes, diff.fetch_bytes) == (30, 40, 30)
    assert compare_images(None, new).fetch_bytes == 40
    assert str(diff) == "1 added, 1 removed, 1 changed; 30 B -> 40 B, 30 B new"
    assert str(compare_images(new, new)) == "the same files; 40 B -> 40 B, 0 B new"


def test_two_policies_cannot_claim_one_name() -> None:
    web, other = policy_of(), dataclasses.replace(policy_of(), service="shop")
    found = [str(one) for one in claims_conflict((web, other))]
    assert found == [
        "files.example.org/ is claimed by shop and web",
        "shop.example.org/ is claimed by shop and web",
        "tcp port 9100 is claimed by shop and web",
        "www.example.org/ is claimed by shop and web",
    ]
    assert claims_conflict((web, web)) == ()


def test_disk_admission() -> None:
    assert admit(Disk(free=100, reserve=40), needed=60).ok
    refused = admit(Disk(free=100, reserve=40), needed=61)
    assert not refused.ok
    assert "61 B" in refused.reason
    assert refused.hint


def test_replicas_by_command() -> None:
    scaled = revise_policy(policy_of(), now=3, replicas=Replicas(count=9, min=1, max=9))
    assert scaled.version == 2
