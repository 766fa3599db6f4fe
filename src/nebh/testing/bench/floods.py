"""How long a service's answers take while its neighbour floods, beside the same without the flood."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from nebh.host.cgroups import find_tree
from nebh.testing.bench import machine, sampling
from nebh.testing.bench.record import Record
from nebh.testing.bench.requests import enter_network
from nebh.testing.bench.stage import Rounds, Settings, a_cloud, in_turns
from nebh.testing.cloud import PATIENCE, Cloud
from nebh.testing.flooder import address_of, compile_flooder, end_flood, write_flooder
from nebh.testing.load import Load, Mix, Row, Target

NAME = "floods"
TITLE = "A service beside a flood"
CALM, NOISY, SINK = "calm", "noisy", "sink"
FLOODS = {
    "fork": ("fork", "processes"),
    "memory": ("memory", "memory"),
    "fd": ("descriptors", "open files"),
    "tmpfs": ("tmp", "a full /tmp"),
    "log": ("log", "log lines"),
    "inode": ("files", "files in /tmp"),
    "connections": ("connect", "connections to a third service"),
    "cpu": ("burn", "two busy loops"),
}
"""What the flooder is told, and how the figures call it."""
MIX = Mix(rate=100, keepalive=12, fresh=8, post_share=0.0, timeout=20.0)
"""A lane's next request waits for its last: with 20 lanes no answer under 200 ms holds one back."""
LEAD, REST = 0.5, 0.4


@dataclass(frozen=True, kw_only=True)
class Window:
    """When was measured, in Unix seconds. flooder_ms: processor time that the flooder used in it."""

    begin: float
    end: float
    flooder_ms: float = 0.0

    def latencies(self, rows: Sequence[Row]) -> list[float]:
        """Return the ms of every request that was sent in it, failed ones too."""
        return [row.latency_ms for row in rows if self.begin <= row.sent < self.end]


@dataclass(kw_only=True)
class Pair:
    """Both windows of one round of one flood."""

    flood: str
    number: int
    pressure: float
    windows: dict[str, Window] = field(default_factory=dict)


class Flooder:
    """The service that floods, ended and begun at will."""

    def __init__(self, cloud: Cloud, *, sink: str) -> None:
        self._cloud = cloud
        self._tree = find_tree(cloud.name)
        self._sink = sink
        self._instance, self._pid = "", 0

    def flood(self, kind: str, seconds: float) -> Window:
        """Flood for a moment and then for `seconds`; return the latter."""
        self._find()
        word = FLOODS[kind][0]
        self._cloud.get(f"/do/{word}" + (f"/{self._sink}" if kind == "connections" else ""), host=f"{NOISY}.example")
        time.sleep(LEAD)
        begin, before = time.time(), self._tree.cpu_us(self._instance)
        time.sleep(seconds)
        used = (self._tree.cpu_us(self._instance) - before) / 1000
        window = Window(begin=begin, end=time.time(), flooder_ms=used)
        assert len(self._tree.members(self._instance)) > 1, f"the flood of {kind} was over too soon"
        end_flood(self._tree, self._instance, self._pid)
        self._cloud.get("/", host=f"{NOISY}.example")  # it reaps what was killed
        return window

    def _find(self) -> None:
        """Have a server that answers: a flood may have cost the last one its life."""
        with contextlib.suppress(ProcessLookupError):
            if self._pid:
                os.kill(self._pid, 0)
                return
        end = time.monotonic() + PATIENCE
        while not (found := self._cloud.serving(NOISY)) or self._cloud.get("/", host=f"{NOISY}.example")[0] != 200:
            assert time.monotonic() < end, f"the flooder does not come back: {self._cloud.say_logs()}"
            time.sleep(0.3)
        self._instance, self._pid = str(found[0]["id"]), int(found[0]["pid"])


def measure(settings: Settings, record: Record) -> None:
    """Fill the record."""
    seconds = 2.0 if settings.quick else 2.4
    rows: list[Row] = []
    pairs: list[Pair] = []
    with a_cloud() as cloud:
        flooder = _deploy(cloud)
        target = Target(address="127.0.0.1", port=cloud.http_port, host=f"{CALM}.example")
        load = Load(target, MIX, sink=rows.append, enter=partial(enter_network, cloud.name))
        load.start()
        try:
            for number in Rounds(settings, usual=40, quick=1):
                kinds = list(FLOODS)
                random.Random(number).shuffle(kinds)
                pairs.extend(_pair(flooder, kind, number, seconds) for kind in kinds)
        finally:
            load.stop()
    _fill(record, pairs, rows)
    _figures(record)


def _deploy(cloud: Cloud) -> Flooder:
    """Deploy neighbour and flooder, of the same weight, and somebody to connect to."""
    folder = cloud.folder / "service"
    folder.mkdir()
    program = compile_flooder(folder)
    for name, memory, more in ((CALM, "64M", ""), (SINK, "64M", ""), (NOISY, "96M", f"connects: [{SINK}:8080]\n")):
        spec = write_flooder(folder, name, (program,), memory=memory, more=more)
        cloud.nebh("deploy", "--yes-widen", str(spec))
    return Flooder(cloud, sink=address_of(cloud, SINK))


def _pair(flooder: Flooder, kind: str, number: int, seconds: float) -> Pair:
    """Measure once quiet and once flooded; which comes first changes every round."""
    pair = Pair(flood=kind, number=number, pressure=machine.pressure())

    def quiet() -> None:
        time.sleep(REST)
        begin = time.time()
        time.sleep(seconds)
        pair.windows["quiet"] = Window(begin=begin, end=time.time())

    def flooded() -> None:
        pair.windows["flooded"] = flooder.flood(kind, seconds)

    in_turns(number, quiet, flooded)
    return pair


def _fill(record: Record, pairs: Sequence[Pair], rows: Sequence[Row]) -> None:
    """Keep a row per round and flood, and count every request, those between two windows too."""
    for pair in pairs:
        row: dict[str, float] = {"flooder_ms": pair.windows["flooded"].flooder_ms}
        for way, window in pair.windows.items():
            ms = window.latencies(rows)
            row[f"{way}_requests"] = len(ms)
            if ms:
                row |= {f"{way}_p50": sampling.median(ms), f"{way}_p99": sampling.quantile(ms, 0.99)}
        record.add("rounds", flood=pair.flood, round=pair.number, pressure=pair.pressure, **row)
    for one in filter(lambda row: row.error, rows):
        record.add("failures", at=one.sent, kind=one.kind, status=one.status, error=one.error)
    for kind in sorted({one.kind for one in rows}):
        found = [one for one in rows if one.kind == kind]
        record.add("requests", kind=kind, requests=len(found), failed=sum(1 for one in found if one.error))


def _figures(record: Record) -> None:
    for name, (_, what) in FLOODS.items():
        where = {"flood": name}
        for way in ("quiet", "flooded"):
            said = f"99th percentile of a window, {'quiet' if way == 'quiet' else f'beside a flood of {what}'} ({name})"
            record.figure(f"{name}_{way}", said, table="rounds", columns=(f"{way}_p99",), where=where)
        said = f"flooded / quiet, the same round ({name})"
        columns = ("flooded_p99", "quiet_p99")
        record.figure(f"{name}_ratio", said, unit="x", statistic="ratio", table="rounds", columns=columns, where=where)
    columns = ("flooded_p50", "quiet_p50")
    record.figure(
        "p50_ratio",
        "medians of a window, flooded / quiet, all floods",
        unit="x",
        statistic="ratio",
        table="rounds",
        columns=columns,
    )
    record.figure(
        "flooder",
        "processor time of the flooder in a flooded window, all floods",
        table="rounds",
        columns=("flooder_ms",),
    )
    total = {"table": "requests", "unit": "", "statistic": "sum"}
    record.figure("requests", "requests, those between two windows too", columns=("requests",), **total)
    record.figure("failed", "of those failed", columns=("failed",), limit=0.0, **total)
    record.figure(
        "bound",
        "95 % upper bound of the share that fails",
        unit="",
        statistic="bound",
        table="requests",
        columns=("failed", "requests"),
    )
    record.notes.append(
        f"{MIX.rate:g} requests a second over {MIX.keepalive} kept connections and {MIX.fresh} lanes of new ones. Where a "
        "window's row has fewer requests than its quiet one, some were held up before they were sent: its percentiles "
        "are too small."
    )
