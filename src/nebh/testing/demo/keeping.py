"""A cloud that is left running: a way in from this machine, and what takes it away again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nebh.host.run import Command, run
from nebh.testing.cloud import Cloud
from nebh.testing.demo.stage import HOST
from nebh.testing.demo.story import Story

# not nebh...: such links are containers to the rules of the cloud
LINK, OUTSIDE, INSIDE = "demo-way-in", "10.213.77.1", "10.213.77.2"


def keep(cloud: Cloud, *, story: Story, build: Path) -> None:
    """Lay a link into the cloud's network and say how to use it."""
    peer = "demo-outside"
    run(Command(argv=("ip", "link", "add", LINK, "type", "veth", "peer", "name", peer, "netns", cloud.name)))
    run(Command(argv=("ip", "address", "add", f"{OUTSIDE}/30", "dev", LINK)))
    run(Command(argv=("ip", "link", "set", LINK, "up")))
    run(Command(argv=("ip", "-n", cloud.name, "address", "add", f"{INSIDE}/30", "dev", peer)))
    run(Command(argv=("ip", "-n", cloud.name, "link", "set", peer, "up")))
    (build / "demo" / "kept.json").write_text(json.dumps({"folder": str(cloud.folder), "name": cloud.name}) + "\n")
    config = f"NEBH_CONFIG={cloud.env['NEBH_CONFIG']} NEBH_CACHE={cloud.env['NEBH_CACHE']}"
    story.say("")
    story.say("the cloud runs on:")
    story.say(f"  curl -H 'Host: {HOST}' http://{INSIDE}:{cloud.http_port}/")
    story.say(f"  {config} {_nebh()} status")
    story.say(f"  a browser wants the name: echo '{INSIDE} {HOST}' >> /etc/hosts, http://{HOST}:{cloud.http_port}/")
    story.say("  make demo ARGS=--remove    takes it away")


def _nebh() -> str:
    """Return the program `nebh` of this very installation."""
    program = Path(sys.executable).with_name("nebh")
    return str(program) if program.exists() else f"{sys.executable} -P -m nebh.programs.nebh"


def remove_kept(build: Path) -> bool:
    """Take a cloud away that an earlier demo left running; tell whether there was one."""
    note = build / "demo" / "kept.json"
    try:
        found = json.loads(note.read_bytes())
    except FileNotFoundError:
        return False
    Cloud(Path(found["folder"]), left_as=found["name"]).destroy()
    run(Command(argv=("ip", "link", "delete", LINK), accept=(0, 1)))
    note.unlink()
    return True
