"""What a process was born with: sockets handed down by its parent."""

from __future__ import annotations

import socket

from nebh.host.channels import Channel


def inherited_channel(descriptor: int, *, name: str) -> Channel:
    """Return the connected stream socket at a file descriptor. Raises OSError when there is none."""
    return Channel(socket.socket(fileno=descriptor), name=name)
