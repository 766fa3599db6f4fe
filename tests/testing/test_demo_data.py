"""`nebh demo data`: its record has the form of `make demo`'s, and the story holds, from the command to nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nebh
from nebh.testing.demo import data
from nebh.testing.demo.acting import play_act
from nebh.testing.demo.data import ACTS, NAME, DataStage
from nebh.testing.demo.notes import Written
from nebh.testing.demo.record import Act, write_record
from nebh.testing.demo.story import Story
from nebh.testing.load import Row

CODE = Path(nebh.__file__).parents[1]
ROOT = Path(__file__).parents[2]
NEBH = (sys.executable, "-P", "-m", "nebh.programs.nebh", "demo", "data")


class Elsewhere:
    """What a stage asks of a cloud that is not there."""

    def __init__(self, folder: Path, notes: set[int]) -> None:
        self.name, self.folder, self.http_port, self.layout, self.notes = "nt-none", folder, 1, self, notes
        self.state = folder

    def get(self, *_: object, **__: object) -> tuple[int, str]:
        return 200, "".join(f"{number} | note\n" for number in sorted(self.notes))


def _stage(folder: Path, *, written: set[int], there: set[int]) -> DataStage:
    cloud: Any = Elsewhere(folder, there)
    stage = DataStage(cloud, story=Story(), specs={}, build=folder / "build")
    stage.writer.written = [Written(number=one, at=float(one)) for one in sorted(written)]
    return stage


def _write(stage: DataStage) -> None:
    stage.act.rows = [Row(1.0, 1.1, 1, "fresh", "POST", 200, "", "", 100.0)]
    stage.judge_notes()


def _form(value: Any, *, deep: int) -> Any:
    """The names of a document's fields and the types of their values, as deep as both stories share them."""
    if isinstance(value, dict) and deep:
        return {name: _form(one, deep=deep - 1) for name, one in value.items()}
    if isinstance(value, list):
        return [_form(one, deep=deep) for one in value]
    return type(value).__name__


def test_the_record_has_the_form_of_the_other_story(tmp_path: Path) -> None:
    stage = _stage(tmp_path, written={1, 2}, there={1, 2, 3})
    act, other = (
        Act(name="begin"),
        Act(name="begin", ended=True, rows=[Row(1.0, 1.1, 1, "fresh", "POST", 200, "", "", 9.0)]),
    )
    assert play_act(stage, act, _write)
    write_record(tmp_path, [act], name=NAME)
    write_record(tmp_path, [other])
    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_bytes()) for name in (NAME, "demo"))
    assert _form(ours, deep=2) == _form(theirs, deep=2)
    assert ours["acts"][0]["ok"]
    assert {"notes", "told_of", "lost", "act_seconds", "machine", "load", "problems"} <= set(ours["acts"][0]["facts"])
    assert (tmp_path / NAME / "requests.csv.gz").exists()


def test_a_lost_note_fails_the_act_and_is_counted(tmp_path: Path) -> None:
    stage = _stage(tmp_path, written={1, 2, 3}, there={1, 3})
    act = Act(name="convert")
    play_act(stage, act, _write)
    assert act.facts["lost"] == 1
    assert not act.ok
    assert "1 of them lost" in act.problems[0]


def test_it_needs_nothing_that_only_tests_have() -> None:
    said = subprocess.run(
        [sys.executable, "-P", "-c", f"import {data.__name__}, sys; print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(CODE)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert data.__name__ in said
    assert not {"pytest", "hypothesis", "playwright"} & set(said)


def test_without_the_examples_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        NEBH, env={**os.environ, "PYTHONPATH": str(CODE)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "has no data/database" in done.stderr
    assert "--examples" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.root
@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_the_whole_story_holds_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(Path("/var/tmp").glob("nd-*"))
    done = subprocess.run(
        [*NEBH, "--build", str(tmp_path), "--json"],
        env={**os.environ, "PYTHONPATH": str(CODE)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1400,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / f"{NAME}.json").read_bytes())
    acts = {one["name"]: one for one in document["acts"]}
    assert list(acts) == [name for name, _, _ in ACTS]
    assert [one["facts"]["problems"] for one in acts.values()] == [[]] * len(ACTS)
    assert [acts[name]["facts"]["lost"] for name in ("begin", "convert", "broken", "failing")] == [0] * 4
    assert acts["broken"]["facts"]["receipt"]["outcome"] == "rolled-back"
    assert acts["restored"]["facts"]["notes_of_release_1"] < acts["restored"]["facts"]["notes_before"]
    assert set(Path("/var/tmp").glob("nd-*")) <= before
