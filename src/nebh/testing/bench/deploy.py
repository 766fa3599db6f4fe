"""From an edited file to the new version's first answer, by phases; beside docker build, stop and run."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nebh.model.errors import NotFound
from nebh.testing.bench import machine
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings, a_cloud, in_turns, scratch
from nebh.testing.cloud import PATIENCE, Cloud
from nebh.testing.docker import Docker
from nebh.testing.tiny_service import HOST, write_service

NAME = "deploy"
TITLE = "Deploy, end to end"
BAKE = 200
"""ms of the trial: what comes after the first answer."""
_DOCKERFILE = 'FROM base\nCOPY www /www\nCMD ["/bin/httpd", "-f", "-p", "8070", "-h", "/www"]\n'


def measure(settings: Settings, record: Record) -> None:
    """Fill the record."""
    with a_cloud() as cloud, contextlib.ExitStack() as stack:
        folder = cloud.folder / "service"
        folder.mkdir()
        cloud.nebh("deploy", str(write_service(folder, page="page 0", bake=f"{BAKE}ms")))
        theirs: Callable[[int, dict[str, float]], None] | None = None
        try:
            docker = stack.enter_context(Docker(scratch("d")))
            theirs = partial(_docker, docker, folder, _base(docker, folder))
            record.facts["docker"] = f"{docker.version()} build; stop -t 1; run -d --network host"
        except NotFound as error:
            record.skipped["docker build, stop, run"] = str(error)
        for number in Rounds(settings, usual=40, quick=3):
            took: dict[str, float] = {}
            ours = partial(_nebh, cloud, folder, number + 1, took)
            if theirs is None:
                ours()
            else:
                in_turns(number, ours, partial(theirs, number + 1, took))
            record.add("rounds", round=number, pressure=machine.pressure(), **took)
    _figures(record)


def _nebh(cloud: Cloud, folder: Path, number: int, took: dict[str, float]) -> None:
    """Edit the page and deploy; ask until the new page comes."""
    page = f"page {number}"
    begin = time.monotonic()
    spec = write_service(folder, page=page, bake=f"{BAKE}ms")
    done = cloud.nebh("deploy", str(spec), "--json")
    took["nebh_committed"] = (time.monotonic() - begin) * 1000
    found = json.loads(done.stdout)
    phases = found["receipts"][-1]["phases"]
    for name, value in phases.items():
        took[f"phase_{name}"] = value
    end = time.monotonic() + PATIENCE
    while page not in cloud.get("/", host=HOST)[1]:
        if time.monotonic() > end:
            raise TimeoutError(f"{page!r} never answered")
    took["accepted_to_cut"] = _accepted_to_cut(cloud, str(found["release"]))
    took["nebh_answers"] = took["nebh_committed"] - phases.get("checking", 0) - phases.get("healthy", 0)


def _accepted_to_cut(cloud: Cloud, release: str) -> float:
    """Return the ms from the controller's own note of the deployment to the node's event of the cut-over."""
    accepted = next(one for one in cloud.nebh_json("history", "web")["entries"] if one["what"] == "deployed")
    return float(
        next(
            one["at"]
            for one in reversed(cloud.nebh_json("events")["events"])
            if one["kind"] == "transaction.checking" and one["facts"]["counter"] == release
        )
        - accepted["at"]
    )


def _base(docker: Docker, folder: Path) -> Path:
    """Make the image that a Dockerfile builds upon: the same tree without the page."""
    docker.add_image("base", folder / "web")
    context = folder / "context"
    (context / "www").mkdir(parents=True)
    (context / "Dockerfile").write_text(_DOCKERFILE)
    return context


def _docker(docker: Docker, _folder: Path, context: Path, number: int, took: dict[str, float]) -> None:
    """Edit the page, build, replace the container; ask until the new page comes."""
    page = f"page {number}"
    begin = time.monotonic()
    (context / "www" / "index.html").write_text(page)
    docker.docker("build", "-q", "-t", f"web:{number}", str(context))
    docker.docker("rm", "-f", "web", accept=(0, 1))
    docker.docker("run", "-d", "--network", "host", "--name", "web", f"web:{number}")
    end = time.monotonic() + PATIENCE
    while page not in docker.ask(8070):
        if time.monotonic() > end:
            raise TimeoutError(f"{page!r} never answered")
    took["docker_answers"] = (time.monotonic() - begin) * 1000


def _figures(record: Record) -> None:
    def figure(name: str, what: str, *columns: str, **more: str) -> None:
        record.figure(name, what, table="rounds", columns=columns, **more)

    figure("answers", "file edited -> the new version answers (all but the trial)", "nebh_answers")
    figure("committed", f"file edited -> committed, trial of {BAKE} ms included", "nebh_committed")
    figure(
        "accepted_to_cut",
        "of that: the controller has the command -> cut over (preparation included)",
        "accepted_to_cut",
    )
    for name in ("preparing", "prepared", "starting", "checking", "healthy"):
        figure(name, f"on the node, of that: {name}", f"phase_{name}")
    figure("docker", "file edited -> docker build, rm -f, run: the new version answers", "docker_answers")
    figure("to_docker", "deploy / Docker", "nebh_answers", "docker_answers", unit="x", statistic="ratio")
