"""Requests to one service that fail while a second one beside it is added, changed and removed."""

from __future__ import annotations

import time
from pathlib import Path

from nebh.testing.bench import machine
from nebh.testing.bench.record import Record
from nebh.testing.bench.requests import Tally, count_failures, enter_network, total
from nebh.testing.bench.stage import Settings, a_cloud
from nebh.testing.cloud import Cloud
from nebh.testing.example_images import build_image
from nebh.testing.load import Load, Mix, Target
from nebh.testing.tiny_service import HOST, write_service

NAME = "second"
TITLE = "Requests to a service while another comes, changes and goes"
_SPEC = f"""name: first
image: {{dir: ./first}}
argv: [/usr/bin/web, --port, "8070"]
ports: {{http: 8070}}
routes:
  - {{host: {HOST}, port: http}}
limits: {{memory: 128M, pids: 64}}
health:
  startup_timeout: 20s
  readiness:
    http: {{port: http, path: /}}
    interval: 200ms
    timeout: 10s
update: {{bake: 1s, drain: 1s}}
"""


def measure(settings: Settings, record: Record) -> None:
    """Fill the record. Full: at least 100,000 requests, or as many as `seconds` allow."""
    wanted = 3_000 if settings.quick else 100_000
    tally = Tally(record)
    with a_cloud() as cloud:
        folder = cloud.folder / "services"
        folder.mkdir()
        build_image(folder / "first", "web")
        (folder / "first.yaml").write_text(_SPEC)
        cloud.nebh("deploy", str(folder / "first.yaml"))
        load = Load(
            Target(address="127.0.0.1", port=cloud.http_port, host=HOST),
            Mix(rate=1000, keepalive=8, fresh=4, timeout=20.0),
            sink=tally.take,
            enter=lambda: enter_network(cloud.name),
        )
        load.start()
        end = time.monotonic() + settings.seconds
        try:
            number = 0
            while time.monotonic() < end and sum(tally.counts.values()) < wanted:
                number += 1
                _come_change_go(cloud, folder, record, number)
        finally:
            load.stop()
    _count(tally, record)


def _come_change_go(cloud: Cloud, folder: Path, record: Record, number: int) -> None:
    """Deploy a second service, then its next release, then remove it; it answers what it should meanwhile."""
    name, host = f"second-{number}", f"second-{number}.example"
    for kind, page in (("added", "page 1"), ("changed", "page 2"), ("removed", "")):
        begin = time.monotonic()
        if page:
            cloud.nebh("deploy", str(write_service(folder, name=name, host=host, page=page, bake="200ms")))
            status, body = cloud.get("/", host=host)
            if page not in body:
                raise TimeoutError(f"{name} answers {status} and not {page!r} after its deploy")
        else:
            cloud.nebh("rm", name, "--yes")
        record.add(
            "changes",
            number=number,
            kind=kind,
            seconds=time.monotonic() - begin,
            pressure=machine.pressure(),
            changed=1,
        )


def _count(tally: Tally, record: Record) -> None:
    for kind, count in sorted(tally.counts.items()):
        record.add("requests", kind=kind, requests=count, failed=tally.failed[kind])
    total(record, "requests", "requests to the first service", "requests")
    kinds = ", ".join(dict.fromkeys(str(row["kind"]) for row in record.tables["changes"]))
    total(record, "changes", f"changes of the second meanwhile ({kinds})", "changed", table="changes")
    count_failures(record)
