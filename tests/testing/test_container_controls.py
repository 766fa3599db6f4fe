"""Whether Nebh's containers are stricter than others' defaults is computed from the configuration a node writes."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nebh.drivers.containers.seccomp import load_profile
from nebh.testing.container_controls import (
    DOCKER_CAPABILITIES,
    DOCKER_MORE,
    ROWS,
    Measure,
    Verdict,
    allowed_calls,
    compare,
    judge,
    nebh_controls,
    published,
)

HERE = Path(__file__).resolve()
GOLDEN = HERE.parents[1] / "golden"
MOBY = HERE.parents[3] / "shared" / "data" / "moby" / "seccomp-default.json"
AT_LEAST = {"Docker": 13, "Podman": 13, "Kubernetes restricted": 10}


def golden_config() -> dict[str, Any]:
    """The golden configuration, as a node writes it whose kernel has AppArmor on."""
    config: dict[str, Any] = json.loads((GOLDEN / "oci_plain.json").read_text())
    config["linux"]["seccomp"] = load_profile()
    config["process"]["apparmorProfile"] = "nebh-default"
    return config


def ruleset() -> str:
    return (GOLDEN / "nft_services.nft").read_text()


@pytest.mark.parametrize("other", AT_LEAST)
def test_no_row_is_looser_and_most_are_stricter(other: str) -> None:
    ours = nebh_controls(golden_config(), ruleset())
    verdicts = compare(ours, published(ours)[other])
    assert len(verdicts) == 14
    assert not [row for row, verdict in verdicts.items() if verdict is Verdict.LOOSER]
    assert list(verdicts.values()).count(Verdict.STRICTER) >= AT_LEAST[other]


LOOSENED: dict[str, Callable[[dict[str, Any]], object]] = {
    ROWS[0]: lambda one: one["linux"].pop("uidMappings"),
    ROWS[1]: lambda one: one["process"]["user"].update(uid=0),
    ROWS[2]: lambda one: one["process"]["capabilities"].update(bounding=["CAP_SYS_ADMIN"]),
    ROWS[3]: lambda one: one["process"].update(noNewPrivileges=False),
    ROWS[4]: lambda one: one["linux"].pop("seccomp"),
    ROWS[5]: lambda one: one["root"].update(readonly=False),
    ROWS[6]: lambda one: next(m for m in one["mounts"] if m["destination"] == "/tmp")["options"].remove("noexec"),
    ROWS[7]: lambda one: one["mounts"].append({"destination": "/sys", "options": ["ro"]}),
    ROWS[8]: lambda one: one["linux"]["resources"].pop("pids"),
    ROWS[9]: lambda one: one["linux"]["resources"].pop("memory"),
    ROWS[10]: lambda one: one["linux"]["maskedPaths"].remove("/proc/kcore"),
    ROWS[11]: lambda one: one["process"].pop("apparmorProfile"),
}


@pytest.mark.parametrize("row", LOOSENED)
def test_a_defence_taken_away_shows_in_its_row(row: str) -> None:
    strict, loose = golden_config(), copy.deepcopy(golden_config())
    LOOSENED[row](loose)
    before, after = nebh_controls(strict, ruleset()), nebh_controls(loose, ruleset())
    assert judge(after[row], before[row]) is Verdict.LOOSER
    # each of the others' defaults is met or passed before, and no longer stricter than after
    docker = published(before)["Docker"]
    assert judge(after[row], docker[row]) is not Verdict.STRICTER or row == ROWS[1]


def test_rules_that_no_longer_drop_metadata_show() -> None:
    text = ruleset().replace("169.254.0.0/16, ", "")
    row = "cloud metadata address"
    assert judge(nebh_controls(golden_config(), text)[row], nebh_controls(golden_config(), ruleset())[row]) == "looser"


def test_sets_that_overlap_count_as_looser() -> None:
    ours, theirs = (Measure(words="", opens=frozenset(names)) for names in ({"a", "b"}, {"b", "c"}))
    assert judge(ours, theirs) is Verdict.LOOSER


def test_dockers_calls_are_what_docker_publishes() -> None:
    if not MOBY.exists():
        pytest.skip("moby's profile is not on this machine (../shared/data/moby/seccomp-default.json)")
    machines = {"amd64", "x86", "x32", "arm64", "arm"}
    theirs: set[str] = set()
    for rule in json.loads(MOBY.read_text())["syscalls"]:
        includes = rule.get("includes") or {}
        caps = {re.sub("^CAP_", "", name) for name in includes.get("caps") or ()}
        arches = set(includes.get("arches") or machines)
        if rule["action"] == "SCMP_ACT_ALLOW" and caps <= DOCKER_CAPABILITIES and arches & machines:
            theirs.update(rule["names"])
    ours = allowed_calls(load_profile())
    assert theirs - ours == DOCKER_MORE
    assert ours < theirs
