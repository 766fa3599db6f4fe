"""What the demo writes, and that its judgement is strict. The demo itself runs in test_demo.py."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from nebh.model.image import EntryType, TreeEntry, TreeManifest
from nebh.testing.demo import needs
from nebh.testing.demo.attack import differing_file
from nebh.testing.demo.power import in_turns
from nebh.testing.demo.record import COLUMNS, Act, judge_load, write_record
from nebh.testing.demo.story import Story
from nebh.testing.load import Row


def _rows(count: int, *, version: str = "v1", error: str = "") -> list[Row]:
    rows = []
    for number in range(count):
        keeps, method = number % 5 != 0, "POST" if number % 5 < 2 else "GET"
        connection = number % 8 if keeps else 100 + number
        kind = "keepalive" if keeps else "fresh"
        rows.append(Row(10.0 + number, 10.1 + number, connection, kind, method, 200, version, error, 100.0))
    return rows


def _verdicts(act: Act) -> list[bool]:
    return [ok for ok, _ in judge_load(act)]


def test_a_load_that_is_large_and_without_failure_is_good() -> None:
    assert _verdicts(Act(name="update", rows=_rows(2000), seconds=20.0)) == [True, True, True]


def test_one_failure_fails_the_act_and_is_named() -> None:
    act = Act(name="update", rows=[*_rows(2000), *_rows(1, error="timeout")], seconds=20.0)
    assert _verdicts(act) == [False, True, True]
    assert judge_load(act)[0][1] == "1 of 2001 requests failed; 1 x timeout"


@pytest.mark.parametrize(("count", "seconds"), [(1999, 10.0), (2000, 20.1), (0, 0.0)])
def test_too_few_or_too_slow_is_not_enough(count: int, seconds: float) -> None:
    assert not _verdicts(Act(name="update", rows=_rows(count), seconds=seconds))[1]


def test_the_clients_must_be_as_promised() -> None:
    gets = [row for row in _rows(4000) if row.method == "GET"]
    assert not _verdicts(Act(name="update", rows=gets, seconds=20.0))[2]
    kept = [row for row in _rows(4000) if row.kind == "keepalive"]
    assert not _verdicts(Act(name="update", rows=kept, seconds=20.0))[2]


def test_an_act_is_ok_only_at_its_end_and_without_problems() -> None:
    assert not Act(name="update").ok
    assert Act(name="update", ended=True).ok
    assert not Act(name="update", ended=True, problems=["something was not proven"]).ok


def test_both_files_say_what_was_measured(tmp_path: Path) -> None:
    acts = [Act(name="deploy", rows=_rows(3), seconds=1.5, ended=True), Act(name="update", rows=_rows(2, error="x"))]
    write_record(tmp_path, acts)
    found = json.loads((tmp_path / "demo.json").read_bytes())
    assert found["version"] == 1
    brief = [{key: one[key] for key in ("name", "ok", "requests", "failed", "seconds")} for one in found["acts"]]
    assert brief == [
        {"name": "deploy", "ok": True, "requests": 3, "failed": 0, "seconds": 1.5},
        {"name": "update", "ok": False, "requests": 2, "failed": 2, "seconds": 0.0},
    ]
    with gzip.open(tmp_path / "demo" / "requests.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["act"] for row in rows] == ["deploy"] * 3 + ["update"] * 2
    assert rows[1] == {
        "act": "deploy",
        "time": "11.000000",
        "connection": "1",
        "kind": "keepalive",
        "method": "POST",
        "status": "200",
        "version": "v1",
        "error": "",
        "received": "11.100000",
        "latency_ms": "100.000",
    }


def test_versions_in_turns_show_every_change() -> None:
    assert in_turns(["v1", "v1", "v2", "v1"]) == [["v1", 2], ["v2", 1], ["v1", 1]]
    assert in_turns([]) == []


def test_the_attack_swaps_a_file_of_the_same_length() -> None:
    def manifest(last: str) -> TreeManifest:
        same = TreeEntry(path="a", type=EntryType.FILE, mode=0o644, size=3, sha256="0" * 64)
        other = TreeEntry(path="b", type=EntryType.FILE, mode=0o644, size=3, sha256=last)
        return TreeManifest(format=1, entries=(same, other))

    assert differing_file(manifest("1" * 64), manifest("2" * 64)) == ("b", "1" * 64, "2" * 64)


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needs, "is_root", lambda: False)
    assert needs.problems_of((tmp_path,)) == ["it starts containers, which needs root: sudo make demo"]


def test_a_full_disk_is_found_before_anything_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needs, "is_root", lambda: True)
    monkeypatch.setattr(needs, "DISK", 1 << 60)
    assert any(one.startswith(f"{tmp_path} has ") for one in needs.problems_of((tmp_path,)))


def test_a_pipe_gets_lines_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story()
    story.act(1, 6, "begin")
    story.progress("never seen in a pipe")
    story.proof(False, "a claim")
    text = capsys.readouterr().out
    assert "never seen" not in text
    assert "NOT PROVEN: a claim\n" in text
    assert "\033" not in text
    assert "\r" not in text
