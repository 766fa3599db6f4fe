"""Small network probes made from whatever network namespace the caller is in."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct
from typing import Any

from nebh.model.errors import Broken

_TYPES = {"A": 1, "AAAA": 28}
_STATUSES = {0: "ok", 2: "servfail", 3: "nxdomain", 5: "refused"}


def ask(server: str, name: str, kind: str, *, timeout: float) -> dict[str, Any]:
    """Send one DNS question over UDP. Returns {"status": ok | nxdomain | refused | servfail | silent | other,
    "answers": addresses sorted, "ttl": seconds of the first answer}."""
    identity = secrets.token_bytes(2)
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.rstrip(".").split("."))
    question = labels + b"\0" + struct.pack(">HH", _TYPES[kind], 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        channel.settimeout(timeout)
        try:
            channel.connect((server, 53))
            channel.send(identity + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + question)
            data = channel.recv(4096)
        except OSError:
            return {"status": "silent", "answers": [], "ttl": 0}
    if data[:2] != identity or len(data) < 12 + len(question):
        raise Broken(f"cannot ask {server} for {name}: the answer belongs to another question")
    return _decode(data, skip=12 + len(question), wanted=_TYPES[kind])


def _decode(data: bytes, *, skip: int, wanted: int) -> dict[str, Any]:
    flags, _, count = struct.unpack(">HHH", data[2:8])
    answers: list[str] = []
    ttl, place = 0, skip
    for _ in range(count):
        while 0 < data[place] < 0xC0:
            place += data[place] + 1
        place += 1 if data[place] == 0 else 2
        kind, _, seconds, length = struct.unpack(">HHIH", data[place : place + 10])
        place += 10
        if kind == wanted:
            ttl = ttl if answers else seconds
            answers.append(str(ipaddress.ip_address(data[place : place + length])))
        place += length
    return {"status": _STATUSES.get(flags & 0xF, "other"), "answers": sorted(answers), "ttl": ttl}


def listen(address: str, port: int) -> socket.socket:
    """Return a TCP socket that listens on `address`:`port`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(8)
    return listener


def connect(address: str, port: int, *, timeout: float) -> str:
    """Open a TCP connection and close it. Returns `ok`, `refused` (somebody said no) or `silent` (nobody answered)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as channel:
        channel.settimeout(timeout)
        try:
            channel.connect((address, port))
        except TimeoutError:
            return "silent"
        except OSError:
            return "refused"
        return "ok"
