"""A closed loop of requests over one kept connection and new ones in turn: `python -m nebh.testing.bench.client`.

The next request leaves when the last is answered, so that hardly any time passes without one at the server. Writes a
line per request: sent, the server's own `Received` stamp, answered (ns of CLOCK_MONOTONIC), version, status.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from nebh.host.links import Link, connect_tcp

PATIENCE = 5.0
NAP = 0.0003
"""Between two requests: a loop without it would take the processors from what is measured."""
ENDED, ASKING = threading.Event(), threading.Event()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request; times in ns, received 0 = the server's stamp is missing. status 0: no answer."""

    sent: int
    received: int
    answered: int
    version: str
    status: int


def main() -> int:
    """Ask until SIGTERM; pause at SIGUSR1, between two requests, and go on at SIGUSR2."""
    parser = argparse.ArgumentParser(prog="nebh.testing.bench.client", description=__doc__)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", required=True, help="Host header")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    signal.signal(signal.SIGUSR1, lambda *_: ASKING.clear())
    signal.signal(signal.SIGUSR2, lambda *_: ASKING.set())
    ASKING.set()
    place = (options.address, options.port)
    request = f"GET / HTTP/1.1\r\nHost: {options.host}\r\n".encode()
    with options.out.open("w", buffering=1 << 16) as file:
        kept: Link | None = None
        while not ENDED.is_set():
            if not ASKING.is_set():
                if kept is not None:
                    kept.close()
                kept = None
                ASKING.wait()
            kept = _ask(place, kept, request + b"\r\n", file, keeps=True)
            time.sleep(NAP)
            _ask(place, None, request + b"Connection: close\r\n\r\n", file, keeps=False)
            time.sleep(NAP)
    return 0


def _end(*_: object) -> None:
    ENDED.set()
    ASKING.set()


def _ask(place: tuple[str, int], link: Link | None, request: bytes, file: object, *, keeps: bool) -> Link | None:
    sent = time.monotonic_ns()
    received, version, status, closing = 0, "-", 0, True
    try:
        if link is None:
            link = connect_tcp(*place, timeout=PATIENCE)
        link.sendall(request)
        head, body = _answer(link)
        status = int(head[9:12])
        lowered = head.lower()
        closing = b"connection: close" in lowered
        if status == 200:
            received = int(lowered.partition(b"received: ")[2].split(b"\r\n")[0])
            version = json.loads(body)["version"]
    except (OSError, ValueError, KeyError):
        status = 0
    file.write(f"{sent} {received} {time.monotonic_ns()} {version} {status}\n")  # type: ignore[attr-defined]
    if link is not None and (closing or not keeps):
        link.close()
        return None
    return link


def _answer(link: Link) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = link.recv(65536)
        if not more:
            raise OSError("the connection ended")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or b"0")
    while len(body) < length:
        more = link.recv(65536)
        if not more:
            raise OSError("the connection ended")
        body += more
    return head, body


def read_seen(path: Path) -> list[Seen]:
    """Return what a client wrote; a line that it was writing when it ended is left out."""
    found = []
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) == 5:
            sent, received, answered = (int(word) for word in words[:3])
            found.append(Seen(sent=sent, received=received, answered=answered, version=words[3], status=int(words[4])))
    return found


if __name__ == "__main__":
    sys.exit(main())
