"""The controller under mutations at a fixed rate: each leaves when it is due, whether the one before is answered or not."""

from __future__ import annotations

import argparse
import os
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from nebh.cli.output import Output
from nebh.cli.session import Session
from nebh.client.api_client import Client, Login
from nebh.model import api
from nebh.model.statement import Phase
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Settings, a_cloud
from nebh.testing.cloud import Cloud
from nebh.testing.tiny_service import write_service

NAME = "api"
TITLE = "The controller's API"
RATE = 20
LANES = 8


def measure(settings: Settings, record: Record) -> None:
    """Fill the record."""
    count = RATE * (5 if settings.quick else 60)
    with a_cloud() as cloud:
        (cloud.folder / "service").mkdir()
        done = cloud.nebh("deploy", str(write_service(cloud.folder / "service")), "--json")
        release = api_release(done.stdout)
        _mutate(cloud, record, count=count, counter=release)
    record.figure(
        "p99",
        f"POST deployments, {RATE} a second, 99th percentile from when it was due",
        table="requests",
        columns=("took",),
        statistic="p99",
    )
    record.figure("median", "the same, median", table="requests", columns=("took",))
    record.figure(
        "failed", "of those failed", unit="", table="requests", columns=("failed",), statistic="sum", limit=0.0
    )


def api_release(document: bytes) -> int:
    """Return the number of the release that `nebh deploy --json` made."""
    import json

    return int(json.loads(document)["release"])


def _mutate(cloud: Cloud, record: Record, *, count: int, counter: int) -> None:
    """Ask for the release that runs, again and again: the controller signs and keeps an assignment each time."""
    os.environ["NEBH_CONFIG"] = cloud.env["NEBH_CONFIG"]
    session = Session(argparse.Namespace(), Output(json_wanted=False, quiet=True))
    login = Login(kind=api.Who.OPERATOR, sign=lambda data: (session.key.public, session.key.sign_bytes(data)))
    epoch = session.client.releases("web")[0].epoch
    own = threading.local()

    def one(due: float) -> tuple[float, str]:
        if not hasattr(own, "client"):
            own.client = Client(session.transport(), login=login)
        wish = api.DeploymentRequest(
            counter=counter, epoch=epoch, replicas=1, phase=Phase.RUN, nonce=secrets.token_hex(16), supersede=True
        )
        try:
            own.client.deploy("web", wish)
        except Exception as error:
            return (time.monotonic() - due) * 1000, f"{type(error).__name__}: {error}"
        return (time.monotonic() - due) * 1000, ""

    begin = time.monotonic() + 0.5
    with ThreadPoolExecutor(LANES) as pool:
        waiting = []
        for number in range(count):
            due = begin + number / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            waiting.append(pool.submit(one, due))
        for future in waiting:
            took, error = future.result()
            record.add("requests", took=took, failed=1 if error else 0, error=error)
    session.close()
