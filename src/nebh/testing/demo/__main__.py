"""`make demo`: sets everything up, plays the acts, writes what happened, takes everything away."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from nebh.model.errors import NebhError
from nebh.testing.cloud import Cloud
from nebh.testing.demo.acting import INTERRUPTED, play_act, stop_listening, unwind_on_signals
from nebh.testing.demo.attack import hostile_controller
from nebh.testing.demo.keeping import keep, remove_kept
from nebh.testing.demo.needs import problems_of, say_problems
from nebh.testing.demo.outputs import add_outputs, print_record, story_for
from nebh.testing.demo.power import power_cut
from nebh.testing.demo.record import Act, write_record
from nebh.testing.demo.stage import Stage
from nebh.testing.demo.story import Story
from nebh.testing.demo.updates import auto_rollback, deploy, rollback, update
from nebh.testing.demo_app import build_web, write_demo

ROOT = Path(__file__).parents[4]
ACTS: tuple[tuple[str, str, Callable[[Stage], None]], ...] = (
    ("deploy", "a Python application and its database, from nothing to answers", deploy),
    ("update", "v2 takes v1's place", update),
    ("auto-rollback", "v3 turns out bad and is taken back", auto_rollback),
    ("rollback", "back to v1 by hand", rollback),
    ("hostile-controller", "somebody else has the controller's disk", hostile_controller),
    ("power-cut", "the power goes, three times", power_cut),
)


def main() -> int:
    """Play the demo; return the exit status."""
    options = _parser().parse_args()
    story, build = story_for(options), options.build.resolve()
    if say_problems(problems_of((Path("/var/tmp"), build))):
        return 1
    build.mkdir(parents=True, exist_ok=True)
    unwind_on_signals()
    try:
        if remove_kept(build):
            story.say("the cloud that an earlier demo left running is gone")
        if options.remove:
            return 0
        status = _play(story, build, specs=options.specs, only=options.acts)
        print_record(options, build)
        return status
    except KeyboardInterrupt:
        story.clear()
        sys.stderr.write("interrupted; the cloud is gone\n")
        return INTERRUPTED
    except NebhError as error:
        story.clear()
        sys.stderr.write(f"{error.message}\n" + (f"  hint: {error.hint}\n" if error.hint else ""))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nebh.testing.demo", description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build"), help="folder for images and what is measured")
    parser.add_argument("--specs", type=Path, default=Path("examples/demo"), help="folder with db.yaml and web.yaml")
    add_outputs(parser)
    parser.add_argument("--acts", type=int, default=len(ACTS), metavar="N", help="play the first N acts only")
    parser.add_argument("--remove", action="store_true", help="take away the cloud that DEMO_KEEP=1 left running")
    return parser


def _play(story: Story, build: Path, *, specs: Path, only: int) -> int:
    story.say("build the images from Debian packages (the first time downloads about 15 MB)")
    found = _images(build / "demo", specs=specs)
    cloud = Cloud(Path("/var/tmp") / f"nd-{secrets.token_hex(3)}", node="vps")
    acts: list[Act] = []
    kept = False
    try:
        story.say("found a cloud on this machine, in a network namespace of its own: nebh up")
        cloud.up()
        stage = Stage(cloud, story=story, specs=found, build=build)
        for number, (name, title, play) in enumerate(ACTS[:only], start=1):
            story.act(number, len(ACTS), title)
            acts.append(Act(name=name))
            goes_on = play_act(stage, acts[-1], play)
            write_record(build, acts)
            if not goes_on:
                break
        kept = os.environ.get("DEMO_KEEP", "") not in ("", "0")
        if kept:
            keep(cloud, story=story, build=build)
    finally:
        _end(cloud, story=story, kept=kept)
        write_record(build, acts)
    return _say_end(story, acts, build=build, wanted=only)


def _images(folder: Path, *, specs: Path) -> dict[str, Path]:
    """Build db, v1, v2, v3, and v4 for the attack: nothing of it may be on the node before."""
    found = write_demo(folder, specs=specs, cache=folder / "cache")
    (folder / "v4").mkdir(exist_ok=True)
    found["v4"] = Path(shutil.copyfile(specs / "web.yaml", folder / "v4" / "web.yaml"))
    build_web(folder / "v4" / "web", version="v4", cache=folder / "cache")
    return {name: path.resolve() for name, path in found.items()}


def _end(cloud: Cloud, *, story: Story, kept: bool) -> None:
    """Take the cloud away; a second Ctrl-C does not leave half of it."""
    if kept:
        return
    stop_listening()
    story.clear()
    story.say("")
    story.say("take everything away: processes, network, control groups, state")
    cloud.destroy()


def _say_end(story: Story, acts: list[Act], *, build: Path, wanted: int) -> int:
    good = len(acts) == wanted and all(act.ok for act in acts)
    requests, failed = sum(len(act.rows) for act in acts), sum(act.failed for act in acts)
    story.say(f"{sum(act.ok for act in acts)} of {wanted} acts ok, {requests} requests, {failed} failed")
    story.say(f"what was measured: {build}/demo.json, every request: {build}/demo/requests.csv.gz")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
