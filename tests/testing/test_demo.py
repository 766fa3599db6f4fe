"""The demo as `make demo` runs it, and Ctrl-C in the middle of it: what it writes, and that nothing stays."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import nebh

# The code that is tested here; it may be a copy of the checkout, which then only root can change.
CODE = Path(nebh.__file__).parents[1]
ROOT = Path(__file__).parents[2]
ACTS = ["deploy", "update", "auto-rollback", "rollback", "hostile-controller", "power-cut"]

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.e2e]


def _start(build: Path) -> subprocess.Popen[str]:
    cache = ROOT / "build" / "demo" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (build / "demo").mkdir(parents=True)
    (build / "demo" / "cache").symlink_to(cache)
    env = {**os.environ, "PYTHONPATH": str(CODE), "DEMO_KEEP": ""}
    argv = [sys.executable, "-P", "-m", "nebh.testing.settled", sys.executable, "-P", "-m", "nebh.testing.demo"]
    return subprocess.Popen(
        [*argv, "--build", str(build)], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _clouds() -> set[Path]:
    return set(Path("/var/tmp").glob("nd-*"))


def _rows(build: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    with gzip.open(build / "demo" / "requests.csv.gz", "rt", newline="") as file:
        for row in csv.DictReader(file):
            found[row["act"]].append(row)
    return found


def _versions(rows: list[dict[str, str]], version: str, *, after: float = 0.0) -> int:
    return sum(1 for row in rows if row["version"] == version and float(row["time"]) > after)


@pytest.mark.timeout(1800)
def test_the_whole_story_holds_and_leaves_nothing(tmp_path: Path) -> None:
    before = _clouds()
    process = _start(tmp_path)
    text, _ = process.communicate(timeout=1700)
    assert process.returncode == 0, text
    document = json.loads((tmp_path / "demo.json").read_bytes())
    acts: dict[str, Any] = {one["name"]: one for one in document["acts"]}
    rows = _rows(tmp_path)
    assert document["version"] == 1
    assert list(acts) == ACTS
    for name, act in acts.items():
        assert act["ok"], text
        assert act["failed"] == 0
        assert act["requests"] == len(rows[name]) >= 2000
        assert act["requests"] / act["seconds"] >= 100
        assert {row["status"] for row in rows[name]} == {"200"}
        assert sum(row["method"] == "POST" for row in rows[name]) * 3 >= len(rows[name])
    assert _versions(rows["update"], "v1", after=acts["update"]["facts"]["cutover"]["at"]) == 0
    assert _versions(rows["auto-rollback"], "v3") >= 100
    assert [one["state"] for one in acts["power-cut"]["facts"]["cuts"]] == ["PREPARED", "STARTING", "CHECKING"]
    assert acts["hostile-controller"]["facts"]["control"]["outcome"] == "committed"
    assert _clouds() <= before


@pytest.mark.timeout(600)
def test_an_interrupt_takes_the_cloud_down(tmp_path: Path) -> None:
    before = _clouds()
    process = _start(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if "deploy web v1" in line:
            break
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 130, text
    assert _clouds() <= before
    acts = json.loads((tmp_path / "demo.json").read_bytes())["acts"]
    assert [(one["name"], one["ok"]) for one in acts] == [("deploy", False)]
