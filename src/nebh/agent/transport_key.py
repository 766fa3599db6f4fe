"""The agent's own key, by which it shows controllers that this node's executor vouches for it.

The key is used once in 15 minutes, so signing happens in a child that ends: `cryptography` never stays in memory.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from nebh.client.api_client import Login
from nebh.client.frame_channel import connect_frames
from nebh.host.files import read_bounded, write_atomic
from nebh.host.run import Command, run
from nebh.model.api import Who
from nebh.model.errors import Broken

KEY = "transport.key"


class TransportIdentity:
    """Who this agent is to controllers. Thread-safe."""

    def __init__(self, *, state: Path, executor: Path) -> None:
        """state: the agent's folder; executor: path of the executor's socket."""
        self._path, self._executor = state / KEY, executor
        self._lock = threading.Lock()
        self._envelope = b""
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._path.exists():
            write_atomic(self._path, os.urandom(32).hex().encode() + b"\n", mode=0o600)

    def login(self) -> Login:
        """Return how to log in; asks the executor for its signed statement once. Raises Unreachable, Broken."""
        with self._lock:
            if not self._envelope:
                public, _ = self._sign(b"")
                with connect_frames(self._executor) as channel:
                    _, self._envelope = channel.request({"op": "transport", "public": public})
            return Login(kind=Who.NODE, sign=self._sign, envelope=self._envelope)

    def forget(self) -> None:
        """Ask the executor anew at the next login: the controller did not take the statement."""
        with self._lock:
            self._envelope = b""

    def _sign(self, data: bytes) -> tuple[str, bytes]:
        command = Command(
            argv=(sys.executable, "-m", "nebh.programs.agent", "sign", "--key", str(self._path)),
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=data,
        )
        public, _, signature = run(command).text.strip().partition(" ")
        if len(public) != 64 or len(signature) != 128:
            raise Broken("cannot sign with the transport key: the child gave no signature")
        return public, bytes.fromhex(signature)


def sign_once(path: Path, data: bytes) -> str:
    """Return `<hex public key> <hex signature>` over `data`: what the child prints. Raises Broken."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(read_bounded(path, limit=128).decode().strip()))
    except (OSError, ValueError) as error:
        raise Broken(f"cannot use the key {path}: {error}", hint="remove it and restart nebh-agent") from error
    return f"{key.public_key().public_bytes_raw().hex()} {key.sign(data).hex()}"
