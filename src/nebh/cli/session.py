"""What most commands need: which cloud, its controller, the operator's key, the verified state."""

from __future__ import annotations

import argparse
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nebh.cli.output import Output, confirm
from nebh.client.api_client import Client, Login
from nebh.client.transport import Transport, parse_transport, ssh_transport
from nebh.model import api
from nebh.model.errors import BadInput, Failed, NebhError

if TYPE_CHECKING:
    from nebh.signing.operator import ClusterFolder
    from nebh.signing.repository import State
    from nebh.signing.statements import StatementSigner
    from nebh.signing.wish import Wish


def config_base() -> Path:
    """Return the folder of all clouds that this operator knows: NEBH_CONFIG, else ~/.config/nebh."""
    given = os.environ.get("NEBH_CONFIG", "")
    return Path(given) if given else Path(os.environ.get("XDG_CONFIG_HOME", "") or "~/.config").expanduser() / "nebh"


def cache_base() -> Path:
    """Return the folder of imported images: NEBH_CACHE, else ~/.cache/nebh."""
    given = os.environ.get("NEBH_CACHE", "")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", "") or "~/.cache").expanduser() / "nebh"


def now_seconds() -> int:
    """Return Unix seconds."""
    return int(time.time())


def new_nonce() -> str:
    """Return a command's nonce: receipts that count repeat it."""
    return secrets.token_hex(16)


class Session:
    """One command's view of one cloud. Everything is made when it is first needed."""

    def __init__(self, options: argparse.Namespace, out: Output) -> None:
        self.options = options
        self.out = out
        self._folder: ClusterFolder | None = None
        self._client: Client | None = None
        self._key: StatementSigner | None = None

    @property
    def folder(self) -> ClusterFolder:
        """The cloud's folder on this computer. Raises NotFound, BadInput."""
        if self._folder is None:
            from nebh.signing.operator import load_cluster

            self._folder = load_cluster(
                config_base(), getattr(self.options, "cloud", "") or os.environ.get("NEBH_CLOUD", "")
            )
        return self._folder

    @property
    def key(self) -> StatementSigner:
        """The operator's key; asks for its passphrase where it has one. Raises NotFound, BadInput."""
        if self._key is None:
            from nebh.signing.keys import open_key

            self._key = open_key(self.folder.key, ask=ask_passphrase, agent_socket=os.environ.get("SSH_AUTH_SOCK", ""))
        return self._key

    def transport(self) -> Transport:
        """Return the way to the controller: --at, else what the cloud's folder says."""
        at = getattr(self.options, "at", "") or os.environ.get("NEBH_AT", "")
        if at:
            return through_ssh(at)
        address = self.folder.cluster.controller
        if address.startswith("ssh://"):
            return through_ssh(address.removeprefix("ssh://"), run=self.folder.cluster.options.get("run", "/run/nebh"))
        pins = tuple(self.folder.cluster.options.get("pins", "").split())
        return parse_transport(address, pins=pins)

    @property
    def client(self) -> Client:
        """The controller's API, as operator."""
        if self._client is None:
            self._client = Client(self.transport(), login=Login(kind=api.Who.OPERATOR, sign=self._sign))
        return self._client

    def _sign(self, data: bytes) -> tuple[str, bytes]:
        return self.key.public, self.key.sign_bytes(data)

    def state(self, *, wanted: tuple[str, ...] | None = (), accept_expired: bool = False) -> State:
        """Return the verified state, not older than what this computer saw (O1)."""
        return self.folder.read(self.client.fetch, wanted=wanted, accept_expired=accept_expired)

    def publish(self, make: Callable[[State], Wish | None], *, wanted: tuple[str, ...] | None = ()) -> State:
        """Sign and publish what `make` wishes on the verified state; None = nothing to publish. Shows what changes,
        asks for what widens (O2), publishes by compare-and-swap (O3). Returns the state that was built upon."""
        from nebh.signing.wish import apply_wish

        state = self.state(wanted=wanted)
        wish = make(state)
        if wish is None:
            return state
        signed = apply_wish(state, wish, key=self.key, now=now_seconds())
        self.show_difference(signed.difference)
        publication = signed.publication
        self.client.publish(base=publication.base, metadata=publication.metadata, targets=publication.targets)
        self.folder.published(publication)
        return state

    def show_difference(self, difference: object) -> None:
        """Show every change, and ask before any that widens."""
        changes = getattr(difference, "changes", ())
        widening = getattr(difference, "widening", ())
        for change in changes:
            if change not in widening:
                self.out.note(f"  {change}")
        if not widening:
            return
        for change in widening:
            self.out.note(self.out.paint(f"  widens: {change}", "yellow"))
        if not confirm("This allows more than before. Sign it?", yes=getattr(self.options, "yes_widen", False)):
            raise BadInput("nothing was signed", hint="look at the lines above; --yes-widen agrees in scripts")

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


def through_ssh(place: str, *, run: str = "/run/nebh") -> Transport:
    """Return the way through the operator's own SSH."""
    keep = {name: os.environ[name] for name in ("HOME", "SSH_AUTH_SOCK", "USER") if name in os.environ}
    ssh = tuple(os.environ.get("NEBH_SSH", "ssh").split())
    return ssh_transport(place, ssh=ssh, run=run, env=keep)


def ask_passphrase(prompt: str) -> str:
    """Ask for a passphrase: NEBH_PASSPHRASE_FILE, else the terminal. Raises BadInput without either."""
    import getpass
    import sys

    named = os.environ.get("NEBH_PASSPHRASE_FILE", "")
    if named:
        return Path(named).read_text(encoding="utf-8").rstrip("\n")
    if not sys.stdin.isatty():
        raise BadInput("cannot ask for the key's passphrase: there is no terminal", hint="set NEBH_PASSPHRASE_FILE")
    return getpass.getpass(prompt)


def first_failure(errors: list[NebhError]) -> NebhError:
    """Return what to raise when several nodes failed."""
    return errors[0] if errors else Failed("it did not work")
