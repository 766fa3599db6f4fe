"""Looking at an instance for the executor: does it answer, and as it should?"""

from __future__ import annotations

import time
from dataclasses import dataclass

from nebh.client.http import Answer, HttpConnection
from nebh.host.channels import connect_tcp
from nebh.model.errors import NebhError

BODY_LIMIT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Probe:
    """kind: http or tcp; timeout: ms for all of it; statuses and contains: what a good answer has (http)."""

    kind: str
    address: str
    port: int
    timeout: int
    path: str = "/"
    host: str = ""
    statuses: tuple[int, ...] = (200,)
    contains: str = ""


def look(probe: Probe) -> tuple[bool, str]:
    """Return (passed, what was seen). Never raises for what the other side does."""
    end = time.monotonic() + probe.timeout / 1000
    try:
        with connect_tcp(host=probe.address, port=probe.port, timeout=probe.timeout / 1000) as channel:
            if probe.kind == "tcp":
                return True, "it accepts connections"
            host = probe.host or probe.address
            connection = HttpConnection(channel, host=host)
            answer = connection.request("GET", probe.path, headers={}, timeout=probe.timeout / 1000)
            return _judge(probe, answer, end=end)
    except NebhError as error:
        return False, error.message


def _judge(probe: Probe, answer: Answer, *, end: float) -> tuple[bool, str]:
    if answer.status not in probe.statuses:
        return False, f"it answers with status {answer.status}"
    if probe.contains:
        body = bytearray()
        for chunk in answer.chunks:
            body += chunk
            if len(body) > BODY_LIMIT:
                return False, f"its answer is longer than {BODY_LIMIT} bytes"
            if time.monotonic() > end:
                return False, "its answer did not end in time"
        if probe.contains.encode() not in body:
            return False, f"its answer does not contain {probe.contains!r}"
    return True, f"status {answer.status}"
