"""Plain TCP connections for clients that tests and measurements make."""

from __future__ import annotations

import socket

Link = socket.socket


def connect_tcp(address: str, port: int, *, timeout: float) -> Link:
    """Connect; what is written leaves at once. timeout: seconds, of every later wait too. Raises OSError."""
    link = socket.create_connection((address, port), timeout=timeout)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link
