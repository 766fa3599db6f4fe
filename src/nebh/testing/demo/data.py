"""`nebh demo data`, and `make demo-data`: a PostgreSQL that is converted, broken, taken back with its data kept and with it restored."""

from __future__ import annotations

import argparse
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nebh.host.run import Command, run
from nebh.model.errors import NebhError
from nebh.testing.cloud import Cloud
from nebh.testing.demo.acting import INTERRUPTED, play_act, stop_listening, unwind_on_signals
from nebh.testing.demo.needs import problems_of, say_problems
from nebh.testing.demo.notes import Writer
from nebh.testing.demo.outputs import add_outputs, print_record, story_for
from nebh.testing.demo.record import Act, write_record
from nebh.testing.demo.stage import Plain, Stage, phases_of, receipt_of
from nebh.testing.demo.story import Story

ANY = tuple(range(256))
NAME = "demo-data"


class DataStage(Stage):
    """A stage whose service is `db`, and somebody who writes notes through its client."""

    name = NAME

    def __init__(self, cloud: Cloud, *, story: Story, specs: dict[str, Path], build: Path) -> None:
        super().__init__(cloud, story=story, specs=specs, build=build)
        self.writer = Writer(cloud)

    def play(self, words: tuple[str, ...], *, outcome: str) -> Plain:
        """Give a command while notes are written; note its outcome, its phases and how long nobody could write."""
        since, first = time.time(), len(self.writer.rows)
        with self.writer.writing():
            self._wait_for_notes(20)
            found = self.command(*words, accept=ANY)
            self._wait_for_notes(20)
        self.act.rows += self.writer.rows[first:]
        self.act.seconds += time.time() - since
        receipt = receipt_of(found)
        self.act.facts |= {
            "receipt": receipt,
            "phases_ms": phases_of(found),
            "longest_stop_seconds": self.writer.longest_stop(since),
        }
        self.expect(
            receipt["outcome"] == outcome,
            f"{receipt['outcome']}; for {self.act.facts['longest_stop_seconds']:.1f} s nobody could write"
            + (f": {receipt['detail'][:160]}" if receipt["detail"] else ""),
        )
        return found

    def judge(self) -> None:
        """End the act: it has judged its notes, and a database that stands still answers nobody."""
        self.act.ended = True

    def _wait_for_notes(self, count: int) -> None:
        wanted = len(self.writer.written) + count
        self.wait_until("notes are taken", lambda: len(self.writer.written) >= wanted)

    def judge_notes(self, *, gone_since: float = 0.0) -> None:
        """Every note that somebody was told of is there; those from `gone_since` on (Unix seconds) are not."""
        there = self.writer.numbers()
        told = {one.number for one in self.writer.written if not gone_since or one.at < gone_since}
        later = {one.number for one in self.writer.written} - told
        lost = told - there
        self.act.facts |= {"notes": len(there), "told_of": len(told), "lost": len(lost)}
        self.expect(not lost, f"{len(told)} notes that somebody was told of, {len(lost)} of them lost")
        if gone_since:
            self.expect(not later & there, f"{len(later)} notes from after the update are put aside, as was asked")


def begin(stage: DataStage) -> None:
    """The database and its client, from nothing to notes."""
    stage.command("deploy", str(stage.specs["release-1"]))
    stage.command("deploy", str(stage.specs["service"]))
    stage.play(("restart", "db"), outcome="committed")
    stage.judge_notes()


def convert(stage: DataStage) -> None:
    """Release 2 converts the table while nobody writes."""
    stage.act.facts["began"] = time.time()
    stage.play(("deploy", str(stage.specs["release-2"])), outcome="committed")
    stage.judge_notes()


def broken(stage: DataStage) -> None:
    """Release 3 deletes every note and then breaks: nothing of it stays."""
    stage.play(("deploy", str(stage.specs["release-3"])), outcome="rolled-back")
    stage.judge_notes()


def failing(stage: DataStage) -> None:
    """Release 4 works, serves, and fails its check: what was written meanwhile is kept."""
    stage.play(("deploy", str(stage.specs["release-4"])), outcome="rolled-back")
    stage.judge_notes()


def restored(stage: DataStage) -> None:
    """Back to release 1 with the data that it had; then forward again, with everything."""
    refused = stage.command("rollback", "db", "--to", "1", accept=ANY)
    stage.expect(
        receipt_of(refused)["outcome"] == "refused", f"release 1 on today's data: {receipt_of(refused)['detail'][:160]}"
    )
    all_notes = stage.writer.numbers()
    stage.command("rollback", "db", "--to", "1", "--data", "restore", "--yes")
    stage.wait_until("the notes are read again", lambda: bool(stage.writer.numbers()))
    old = stage.writer.numbers()
    stage.act.facts |= {"notes_before": len(all_notes), "notes_of_release_1": len(old)}
    stage.expect(
        old < all_notes, f"release 1 runs with its {len(old)} notes, {len(all_notes) - len(old)} are put aside"
    )
    stage.command("volume", "undo", "db", "--yes")
    stage.wait_until("the notes are read again", lambda: stage.writer.numbers() >= all_notes)
    stage.expect(stage.writer.numbers() == all_notes, f"and all {len(all_notes)} are back, with release 2")


ACTS: tuple[tuple[str, str, Callable[[DataStage], None]], ...] = (
    ("begin", "a database and its client, from nothing to notes", begin),
    ("convert", "release 2 converts the table", convert),
    ("broken", "release 3 deletes every note, and breaks", broken),
    ("failing", "release 4 serves, and fails its check", failing),
    ("restored", "back with the data, and forward again", restored),
)


def main() -> int:
    """Play it; return the exit status."""
    options = _parser().parse_args()
    story, build = story_for(options), options.build.resolve()
    problems = problems_of((Path("/var/tmp"), build))
    if shutil.which("bwrap") is None:
        problems.append("bubblewrap is missing, which builds images: `make demo-data` installs it")
    if say_problems(problems):
        return 1
    build.mkdir(parents=True, exist_ok=True)
    unwind_on_signals()
    cloud = Cloud(Path("/var/tmp") / f"nd-{secrets.token_hex(3)}", node="vps")
    acts: list[Act] = []
    try:
        status = _play(cloud, acts, story=story, build=build, specs=options.specs)
    except KeyboardInterrupt:
        story.clear()
        sys.stderr.write("interrupted; the cloud goes\n")
        return INTERRUPTED
    except NebhError as error:
        sys.stderr.write(f"{error.message}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return 1
    finally:
        stop_listening()
        story.clear()
        story.say("take everything away: processes, network, control groups, state")
        cloud.destroy()
        write_record(build, acts, name=NAME)
    print_record(options, build, name=NAME)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nebh.testing.demo.data", description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build"), help="folder for images and what is measured")
    parser.add_argument("--specs", type=Path, default=Path("examples"), help="folder with data/ and images/")
    add_outputs(parser)
    return parser


def _play(cloud: Cloud, acts: list[Act], *, story: Story, build: Path, specs: Path) -> int:
    story.say("found a cloud on this machine, in a network namespace of its own: nebh up")
    cloud.up()
    story.say("build the images from Debian's packages: nebh image lock, nebh image build")
    stage = DataStage(cloud, story=story, specs=_prepare(cloud, specs), build=build)
    for number, (name, title, act) in enumerate(ACTS, start=1):
        story.act(number, len(ACTS), title)
        acts.append(Act(name=name))
        goes_on = play_act(stage, acts[-1], act)
        write_record(build, acts, name=NAME)
        if not goes_on:
            break
    good = len(acts) == len(ACTS) and all(one.ok for one in acts)
    story.say(f"{sum(one.ok for one in acts)} of {len(ACTS)} acts ok; what was measured: {build}/{NAME}.json")
    return 0 if good else 1


def _prepare(cloud: Cloud, specs: Path) -> dict[str, Path]:
    """Copy the example, lock and build its images; return its specs, and one of a release that fails its check."""
    folder = cloud.folder / "examples"
    for part in ("data", "images/postgresql"):
        shutil.copytree(specs / part, folder / part)
    found: dict[str, Path] = {}
    for name in ("database", "notes"):
        declaration = folder / "data" / name / "image.yaml"
        for verb in ("lock", "build"):  # outside of the cloud's network, which leads nowhere
            argv = (sys.executable, "-P", "-m", "nebh.programs.nebh", "image", verb, str(declaration))
            run(Command(argv=argv, env=cloud.env, timeout=900.0))
        found |= {path.stem: path for path in (folder / "data" / name).glob("*.yaml") if path.name != "image.yaml"}
    text = found["release-2"].read_text(encoding="utf-8")
    check = "{name: never, exec: [/usr/bin/start-postgresql], interval: 500ms, failures: 2}"
    found["release-4"] = found["release-2"].with_name("release-4.yaml")
    text = re.sub(r"(?ms)^hooks:.*?(?=^health:)", "", text)
    text = re.sub(r"update: \{.*\}", f"update: {{bake: 20s, checks: [{check}]}}", text)
    found["release-4"].write_text(
        text.replace("{reads: [1, 2], writes: 2}", "{reads: [2], writes: 2}"), encoding="utf-8"
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
