"""What a change of a layer asks of what runs, and services that move together."""

from __future__ import annotations

import pytest

from nebh.model.statement import Assignment, Phase

pytestmark = pytest.mark.e2e

KINDS = """files:
  - {path: /etc/app/restart, text: "{{ a }}\\n"}
  - {path: /etc/app/reload, text: "{{ b }}\\n", on_change: reload, signal: HUP}
  - {path: /etc/app/nothing, text: "{{ c }}\\n", on_change: nothing}
update: {together: front}
config:
  schema: {a: {type: int, default: 1}, b: {type: int, default: 1}, c: {type: int, default: 1}}
"""


def follows(done: dict) -> dict[str, str]:
    return {one["path"].rpartition("/")[2]: one["on_change"] for one in done["files"]}


def test_01_plan_says_per_file_what_follows(rig):
    first = rig.data("plan", rig.spec("v1", name="shop", more=KINDS))
    assert set(follows(first).values()) == {""}, "nothing runs yet"
    rig.good("deploy", rig.spec("v1", name="shop", more=KINDS))
    changed = KINDS.replace("config:\n", "config:\n  values: {a: 2, b: 2, c: 2}\n")
    planned = rig.data("plan", rig.spec("v1", name="shop", more=changed))
    assert follows(planned) == {"restart": "restart", "reload": "reload", "nothing": "nothing"}
    text = rig.good("plan", rig.spec("v1", name="shop", more=changed))
    assert "/etc/app/reload: +1 -1 lines on one; then: reload" in text
    # where anything else differs there are new instances whatever a file asks
    other = rig.data("plan", rig.spec("v2", name="shop", more=changed))
    assert set(follows(other).values()) == {"restart"}
    (done,) = rig.data("config", "set", "cluster", "b=3", "c=3", "--plan")["releases"]
    assert follows(done) == {"reload": "reload", "nothing": "nothing"}


def asked(rig, since: int) -> list[tuple[str, str, int]]:
    found = [one for one in rig.node.took[since:] if isinstance(one, Assignment)]
    return [(one.service, "prepare" if one.phase is Phase.PREPARE else "run", one.counter) for one in found]


def test_02_together_all_are_prepared_before_one_switches(rig):
    rig.good("deploy", rig.spec("v1", name="stall", more=KINDS))
    rig.good("deploy", rig.spec("v1", name="zoo", more=KINDS.replace("update: {together: front}\n", "")))
    since = len(rig.node.took)
    done = rig.data("config", "set", "cluster", "b=3")
    assert done["ok"]
    assert asked(rig, since) == [
        ("shop", "prepare", 2),
        ("stall", "prepare", 2),
        ("shop", "run", 2),
        ("stall", "run", 2),
        ("zoo", "run", 2),
    ]


def test_03_together_one_that_fails_brings_all_back(rig):
    since = len(rig.node.took)
    rig.node.broken = {"stall": 2}
    status, _, err = rig.run("config", "set", "cluster", "b=4")
    assert status == 8, err
    assert "shop: back to release 2, as it moves together" in err
    assert "not begun, after that: zoo" in err
    assert asked(rig, since)[:4] == [
        ("shop", "prepare", 3),
        ("stall", "prepare", 3),
        ("shop", "run", 3),
        ("stall", "run", 3),
    ]
    assert sorted(asked(rig, since)[4:]) == [("shop", "run", 2), ("stall", "run", 2)]
    assert rig.data("status", "shop")["allocations"][0]["running"]["counter"] == 2


def test_04_together_one_that_cannot_be_prepared_lets_none_switch(rig):
    rig.node.broken = {}
    for service in ("shop", "stall"):  # its next deploy takes the layer
        rig.good("deploy", rig.spec("v1", name=service, more=KINDS))
    since = len(rig.node.took)
    rig.node.behaviour = "refuse"
    done = rig.run("config", "set", "cluster", "b=5", "--json")
    assert done[0] != 0
    asks = asked(rig, since)
    assert asks[0][:2] == ("shop", "prepare")
    assert {(service, phase) for service, phase, _ in asks[1:]} == {("shop", "run"), ("stall", "run")}
    assert {service: counter for service, _, counter in asks[1:]} == {"shop": 4, "stall": 4}, "the releases before"
