"""Frames on Nebh's unix sockets: u32 head length, u32 body length (big endian), canonical JSON head, raw body."""

from __future__ import annotations

import struct
from typing import Any

from nebh.model.errors import BadInput
from nebh.wire import codec

PREFIX = struct.Struct(">II")
HEAD_LIMIT = 1 << 20
BODY_LIMIT = 1 << 20


def pack(head: dict[str, Any], body: bytes = b"") -> bytes:
    """Return one frame. Raises BadInput when head or body are over their limits."""
    encoded = codec.encode(head)
    check_lengths(len(encoded), len(body))
    return PREFIX.pack(len(encoded), len(body)) + encoded + body


def check_lengths(head: int, body: int) -> None:
    """Raise BadInput when a frame announces more than is allowed."""
    if head > HEAD_LIMIT or body > BODY_LIMIT:
        raise BadInput(f"cannot read a frame: {head} + {body} bytes are over the limit")


def parse_head(data: bytes) -> dict[str, Any]:
    """Return a frame's head. Raises BadInput unless it is canonical JSON of an object."""
    head = codec.decode(data, dict[str, Any], what="a frame", limit=HEAD_LIMIT)
    if not isinstance(head.get("op", ""), str):
        raise BadInput("cannot read a frame: op is not a string")
    return head
