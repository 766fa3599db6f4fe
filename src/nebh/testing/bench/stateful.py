"""A service with data: how long an update stops it, and of what that time is made; and the whole triple - binary, config,
data - taken back, from the command to the first good answer. Beside it Docker, with the same program and the same data."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nebh.model.errors import NotFound
from nebh.testing.bench import machine
from nebh.testing.bench.polling import polling
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings, a_cloud, in_turns, scratch
from nebh.testing.bench.stateful_docker import DockerRows
from nebh.testing.cloud import Cloud
from nebh.testing.docker import Docker
from nebh.testing.journal_view import open_journal
from nebh.testing.row_service import HOST, Rows, write_rows

NAME = "stateful"
TITLE = "Services with data: the stop of an update, and the way back"
MIB = 1 << 20
BEFORE = "v0"
REST = 0.3
PARTS = {
    "stopping": ("start.yield",),
    "snapshot": ("data.snapshot", "data.restore"),
    "hooks": ("hook.attach", "hook.create", "hook.run", "hook.stop"),
    "remaking": ("start.attach", "start.create"),
    "start": ("start.start",),
}
"""Parts of STARTING and the effects that each consists of; what is left of it is waiting for readiness."""
Took = dict[str, float]


def measure(settings: Settings, record: Record) -> None:
    """Fill the record."""
    mib = settings.volume_mib or (16 if settings.quick else 256)
    with a_cloud() as cloud, contextlib.ExitStack() as stack:
        ours = Ours(cloud, mib=mib)
        peer: DockerRows | None = None
        try:
            docker = stack.enter_context(Docker(scratch("d")))
            place = cloud.folder / "docker-data"  # on the disk that the cloud's volumes lie on, and gone with it
            place.mkdir()
            peer = DockerRows(docker, place, mib=mib)
            record.facts["docker"] = f"{docker.version()} stop; cp -a of the volume in a container; run"
            record.notes.append(
                "`docker compose` is not in Debian's docker.io; what its `down` and `up` do for one service are these commands."
            )
        except NotFound as error:
            record.skipped["docker"] = str(error)
        for number in Rounds(settings, usual=40, quick=2):
            took: Took = {}
            theirs = partial(peer.there_and_back, took) if peer is not None else _nothing
            in_turns(number, partial(ours.there_and_back, number, took), theirs)
            record.add("rounds", round=number, mib=mib, pressure=machine.pressure(), **took)
    _figures(record, mib)


def _nothing() -> None:
    pass


class Ours:
    """The service in a cloud; release 1 is what every round goes back to."""

    def __init__(self, cloud: Cloud, *, mib: int) -> None:
        self._cloud, self._mib = cloud, mib
        self._specs = cloud.folder / "rows"
        self._specs.mkdir()
        self._deploy(Rows(version=BEFORE, bake="100ms"))
        data = next(self._places())
        with (data / "ballast").open("wb") as file:
            block = os.urandom(MIB)
            for _ in range(mib):
                file.write(block)
            os.fsync(file.fileno())

    def _places(self) -> Iterator[Path]:
        """Yield where the volume lies, as the executor sees it."""
        seen = Path(f"/proc/{self._cloud.pid_of('executor')}/root")
        for below in ("pool/volumes", "volumes"):
            place = seen / str(self._cloud.layout.volumes / below / "rows.data.0/live/data").lstrip("/")
            if place.is_dir():
                yield place
        raise NotFound("the volume of the service lies where nobody looks")

    def _deploy(self, wish: Rows) -> dict[str, int]:
        """Deploy a version; return the ms of each phase."""
        spec = write_rows(self._specs, wish)
        spec.write_text(spec.read_text().replace("size: 64M", f"size: {2 * self._mib + 64}M"))
        done = self._cloud.nebh("deploy", "--yes-widen", "--json", str(spec))
        return dict(json.loads(done.stdout)["receipts"][-1]["phases"])

    def there_and_back(self, number: int, took: Took) -> None:
        """Update to a release that converts the data; then back to the first one, and the data with it."""
        version = f"n{number}"
        wish = Rows(version=version, reads=(1, 2), writes=2, convert=("2",), bake="100ms")
        with polling(self._cloud.name, port=self._cloud.http_port, host=HOST) as poller:
            time.sleep(REST)
            begin = time.monotonic()
            phases = self._deploy(wish)
            poller.wait_for(version, since=begin)
            took["stop"] = poller.longest_gap(since=begin)
            self._split("", phases, took)
            time.sleep(REST)
            begin = time.monotonic()
            words = ("rollback", "rows", "--to", "1", "--data", "restore", "--yes", "--json")
            done = self._cloud.nebh(*words)
            took["back_committed"] = (time.monotonic() - begin) * 1000
            took["back_answers"] = poller.wait_for(BEFORE, since=begin)
            took["back_stop"] = poller.longest_gap(since=begin)
            self._split("back_", json.loads(done.stdout)["receipts"][-1]["phases"], took)

    def _split(self, prefix: str, phases: dict[str, int], took: Took) -> None:
        """Note what the node says of its newest transaction: phases of the receipt, and effects of the journal."""
        with open_journal(self._cloud.layout.journal) as journal:
            ((number,),) = journal.database.read("SELECT MAX(id) FROM transactions WHERE service = 'rows'")
            effects = journal.work.effects(int(number))
        for part, names in PARTS.items():
            took[prefix + part] = sum(ended - began for name, began, ended in effects if name in names)
        took[f"{prefix}starting"] = phases["starting"]
        took[f"{prefix}preparing"] = phases.get("preparing", 0) + phases.get("prepared", 0)
        took[f"{prefix}cutting_over"] = phases.get("cutting_over", 0)
        took[f"{prefix}ready"] = phases["starting"] - sum(took[prefix + part] for part in PARTS)
        took[f"{prefix}effects"] = len(effects)


def _figures(record: Record, mib: int) -> None:
    def figure(name: str, what: str, *columns: str, **more: str) -> None:
        record.figure(name, what, table="rounds", columns=columns, **more)

    for prefix, what in (("", "update"), ("back_", "way back, data restored")):
        verb = "snapshot" if not prefix else "snapshot of now, and restore"
        figure(f"{prefix}stop", f"{what}, volume of {mib} MiB: longest time between two good answers", f"{prefix}stop")
        figure(
            f"{prefix}preparing", f"{what}, of the receipt: PREPARING (the old release serves)", f"{prefix}preparing"
        )
        figure(f"{prefix}starting", f"{what}, of the receipt: STARTING", f"{prefix}starting")
        for part, said in (
            ("stopping", "stopping the old side"),
            ("snapshot", verb),
            ("hooks", "hooks"),
            ("remaking", "making the container anew on the data"),
            ("start", "start"),
            ("ready", "until it is ready (what is left of STARTING)"),
            ("cutting_over", "cut-over, of the receipt"),
        ):
            figure(f"{prefix}{part}", f"{what}, of that: {said}", f"{prefix}{part}")
        figure(f"{prefix}effects", f"{what}: effects journalled", f"{prefix}effects", unit="")
    figure(
        "back_answers", "`nebh rollback --data restore` given -> first good answer of the old triple", "back_answers"
    )
    figure("back_committed", "the same -> the command has the node's receipt", "back_committed")
    figure("docker_stop", "Docker: stop, copy the volume, convert, run: longest time without", "docker_stop")
    figure("docker_back", "Docker: rm, copy the volume back, run: command -> first good answer", "docker_back")
    ratio = {"unit": "x", "statistic": "ratio"}
    figure("stop_to_docker", "stop of an update / Docker", "stop", "docker_stop", **ratio)
    figure("back_to_docker", "way back / Docker", "back_answers", "docker_back", **ratio)
    record.notes.append(
        f"""The service keeps rows, fsyncs each, and has {mib} MiB of data besides; a release that converts them (a hook that
runs while nobody writes), then release 1 again with the data it had. A client asks all the time, through the proxy (of Docker's
container directly). Parts are the times of the effects in the node's journal, whole ms. Nebh puts the converted data aside, where
`nebh volume undo` finds it; Docker's is gone."""
    )
