"""Telling systemd that a service is ready."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send `state` (such as READY=1) to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall(state.encode())
        except OSError:
            return
