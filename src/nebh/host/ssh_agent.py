"""A client of ssh-agent for Ed25519 keys (draft-miller-ssh-agent): list identities, sign bytes."""

from __future__ import annotations

import struct
from pathlib import Path

from nebh.host.channels import Channel, connect_unix
from nebh.model.errors import Failed, Unreachable

_LIST, _IDENTITIES, _SIGN, _SIGNATURE = 11, 12, 13, 14
_TYPE = b"ssh-ed25519"
_LIMIT = 256 * 1024


def list_ed25519(path: Path) -> tuple[tuple[str, str], ...]:
    """Return (hex public key, comment) of every Ed25519 identity. Raises Unreachable, Failed."""
    with connect_unix(path) as channel:
        answer = _ask(channel, bytes([_LIST]), expect=_IDENTITIES)
    found = []
    try:
        (count,), rest = struct.unpack(">I", answer[:4]), answer[4:]
        for _ in range(count):
            blob, rest = _take(rest)
            comment, rest = _take(rest)
            kind, inner = _take(blob)
            if kind == _TYPE:
                found.append((_take(inner)[0].hex(), comment.decode(errors="replace")))
    except struct.error as error:
        raise Failed(f"cannot list the keys of the ssh-agent at {path}: its answer is damaged") from error
    return tuple(found)


def sign_ed25519(path: Path, *, public: str, data: bytes) -> bytes:
    """Return the raw 64-byte signature over `data` by the identity `public` (hex). Raises Unreachable, Failed."""
    blob = _text(_TYPE) + _text(bytes.fromhex(public))
    request = bytes([_SIGN]) + _text(blob) + _text(data) + struct.pack(">I", 0)
    with connect_unix(path) as channel:
        answer = _ask(channel, request, expect=_SIGNATURE)
    try:
        kind, rest = _take(_take(answer)[0])
        signature = _take(rest)[0]
    except struct.error as error:
        raise Failed("cannot sign with the ssh-agent: its answer is damaged") from error
    if kind != _TYPE or len(signature) != 64:
        raise Failed("cannot sign with the ssh-agent: it did not make an Ed25519 signature")
    return signature


def _ask(channel: Channel, message: bytes, *, expect: int) -> bytes:
    channel.send(struct.pack(">I", len(message)) + message)
    # A person may have to touch a hardware key or confirm in a window, hence the minute.
    (length,) = struct.unpack(">I", channel.receive(4, timeout=60))
    if not 1 <= length <= _LIMIT:
        raise Unreachable("cannot talk to the ssh-agent: its answer is damaged")
    answer = channel.receive(length, timeout=60)
    if answer[0] != expect:
        raise Failed("cannot sign with the ssh-agent: it refused", hint="is the key loaded? `ssh-add -l` lists them")
    return answer[1:]


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _take(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack(">I", data[:4])
    if len(data) < 4 + length:
        raise struct.error("short")
    return data[4 : 4 + length], data[4 + length :]
