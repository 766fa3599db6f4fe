"""Volumes, data rules and hooks: what is left out means what people expect, and what cannot work is said at its place."""

import pytest

from nebh.model.errors import SpecErrors
from nebh.model.service import PlacementMode, ServiceSpec
from nebh.model.volume import DataRules, HookPoint, OnFailureData, Unavailable, VolumeBound, VolumeClass, VolumeMount
from nebh.spec.parse import parse_spec

SMALL = """\
name: db
image: {dir: ./rootfs}
argv: [/usr/bin/app]
ports: {sql: 5432}
limits: {memory: 64M}
"""
DATA = "volumes:\n  data: {path: /var/lib/app, class: state, size: 1G}\n"


def parse(text: str) -> ServiceSpec:
    return parse_spec(SMALL + text, file="db.yaml", base="/srv/app")


def problems(text: str) -> str:
    with pytest.raises(SpecErrors) as caught:
        parse(text)
    return "\n".join(str(one) for one in caught.value.problems)


def test_a_volume_alone_is_enough() -> None:
    spec = parse(DATA)
    assert spec.volumes == (VolumeBound(name="data", kind=VolumeClass.STATE, size=1 << 30),)
    assert spec.mounts == (VolumeMount(name="data", path="/var/lib/app"),)
    assert spec.data == DataRules(reads=(1,), writes=1)
    assert spec.placement.mode is PlacementMode.PINNED
    assert spec.policy.on_failure_data is OnFailureData.AUTO


def test_a_service_without_data_has_no_version() -> None:
    assert parse("").data == DataRules()
    assert parse("volumes: {tmp: {path: /scratch, class: cache, size: 1G}}\n").data == DataRules()
    assert parse("").placement.mode is PlacementMode.SPREAD


def test_everything_can_be_said() -> None:
    spec = parse(
        "volumes:\n  data: {path: /var/lib/app, class: shared-state, size: 1G, user: 70, unavailable: freeze}\n"
        "data: {reads: [3, 1, 2], writes: 3, keep_discarded: 1d, snapshots: 9, quiesce: {before: [/bin/a], timeout: 5s}}\n"
        "hooks: [{name: convert, at: migrate, argv: [/bin/c, 3], env: {A: b}, timeout: 1m}]\n"
        "policy: {on_failure_data: restore}\n"
    )
    assert (spec.volumes[0].unavailable, spec.mounts[0].user) == (Unavailable.FREEZE, 70)
    assert (spec.data.reads, spec.data.writes, spec.data.snapshots) == ((1, 2, 3), 3, 9)
    assert spec.data.quiesce is not None
    assert (spec.data.quiesce.before, spec.data.quiesce.timeout) == (("/bin/a",), 5000)
    (hook,) = spec.hooks
    assert (hook.at, hook.argv, hook.env, hook.timeout) == (HookPoint.MIGRATE, ("/bin/c", "3"), {"A": "b"}, 60_000)
    assert spec.policy.on_failure_data is OnFailureData.RESTORE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("volumes: {data: {class: state, size: 1G}}\n", "volumes.data.path"),
        ("volumes: {data: {path: /a, size: 1G}}\n", "data that must go back with a release is `class: state`"),
        ("volumes: {data: {path: /a, class: state}}\n", "every volume needs a bound"),
        ("volumes: {data: {path: /a/../b, class: state, size: 1G}}\n", "`/a/../b` is not a plain path"),
        ("volumes: {data: {path: /, class: state, size: 1G}}\n", "`/` is not a plain path"),
        ("volumes: {data: {path: /proc/x, class: state, size: 1G}}\n", "`/proc/x` is the container's own"),
        (DATA + "  more: {path: /var/lib/app/x, class: cache, size: 1G}\n", "lie in each other"),
        ("volumes: {Data: {path: /a, class: state, size: 1G}}\n", "a name (1-32 of a-z"),
        (DATA + "data: {reads: [1], writes: 2}\n", "it writes version 2, and cannot read it"),
        ("data: {writes: 2}\n", "there is no volume whose data this could be"),
        ("hooks: [{name: c, at: migrate, argv: [/bin/c]}]\n", "there is no data that it could convert"),
        (DATA + "hooks: [{name: c, at: migrate, argv: [c]}]\n", "`c` is not an absolute path"),
        (DATA + "hooks: [{name: c, at: migrate, argv: [/c]}, {name: c, at: prepare, argv: [/c]}]\n", "named `c`"),
        (DATA + "policy: {placement: {mode: spread}}\n", "cannot be moved away from it"),
    ],
)
def test_what_cannot_work_is_said_at_its_place(text: str, said: str) -> None:
    found = problems(text)
    assert said in found
    assert "db.yaml:" in found
