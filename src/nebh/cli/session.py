"""What most commands need: which cloud, its controller, the operator's key, the verified state."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nebh.cli.output import Output, confirm, harmless
from nebh.client.api_client import Client, Login
from nebh.client.token_file import TokenFile
from nebh.client.transport import Transport, parse_transport, ssh_transport
from nebh.model import api
from nebh.model.errors import BadInput, Conflict

if TYPE_CHECKING:
    from nebh.cli.sealing import Sealer
    from nebh.signing.difference import Difference
    from nebh.signing.operator import Cluster, ClusterFolder
    from nebh.signing.repository import State
    from nebh.signing.statements import StatementSigner
    from nebh.signing.wish import Signed, Wish

PUBLISH_ATTEMPTS = 3


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
    return os.urandom(16).hex()


class Session:
    """One command's view of one cloud. Everything is made when it is first needed."""

    def __init__(self, options: argparse.Namespace, out: Output) -> None:
        self.options = options
        self.out = out
        self._folder: ClusterFolder | None = None
        self._client: Client | None = None
        self._key: StatementSigner | None = None
        self._asked = False
        self.snapshot = 0
        """The snapshot that this command published, 0 = none."""
        self.sealer: Sealer | None = None
        """What seals secrets for this command; None = made where policies or nodes change."""

    @property
    def folder(self) -> ClusterFolder:
        """The cloud's folder on this computer. Raises NotFound, BadInput."""
        if self._folder is None and os.environ.get("NEBH_CI_KIT", ""):
            from nebh.cli.ci import use_kit

            self._folder = use_kit(os.environ["NEBH_CI_KIT"], base=config_base())
        if self._folder is None:
            from nebh.signing.operator import load_cluster

            self._folder = load_cluster(
                config_base(), getattr(self.options, "cloud", "") or os.environ.get("NEBH_CLOUD", "")
            )
        return self._folder

    @property
    def is_ci(self) -> bool:
        """Whether this is a CI system with a key of one service, not an operator."""
        return self.folder.cluster.options.get("kind") == api.Who.CI.value

    @property
    def key(self) -> StatementSigner:
        """The operator's key; asks for its passphrase where it has one. Raises NotFound, BadInput."""
        if self._key is None:
            from nebh.signing.keys import open_key

            self._key = open_key(self.folder.key, ask=self._ask, agent_socket=os.environ.get("SSH_AUTH_SOCK", ""))
        return self._key

    def transport(self) -> Transport:
        """Return the way to the controller: --at, else what the cloud's folder says."""
        at = getattr(self.options, "at", "") or os.environ.get("NEBH_AT", "")
        return through_ssh(at) if at else self.transport_to(self.folder.cluster)

    def transport_to(self, cluster: Cluster) -> Transport:
        """Return the way to the controller that a cloud's folder names. Raises BadInput."""
        if cluster.controller.startswith("ssh://"):
            place = cluster.controller.removeprefix("ssh://")
            return through_ssh(place, run=cluster.options.get("run", "/run/nebh/controller"))
        return parse_transport(cluster.controller, pins=tuple(cluster.options.get("pins", "").split()))

    def use_folder(self, folder: ClusterFolder) -> None:
        """Work with this cloud from now on."""
        self._folder = folder

    @property
    def client(self) -> Client:
        """The controller's API, as operator."""
        if self._client is None:
            self._client = self.new_client()
        return self._client

    def new_client(self) -> Client:
        """Return one more client, for a thread of its own, which closes it."""
        transport = self.transport()
        login = Login(kind=api.Who.CI if self.is_ci else api.Who.OPERATOR, sign=self._sign)
        return Client(transport, login=login, tokens=self._token_file(transport))

    def _token_file(self, transport: Transport) -> TokenFile | None:
        key = self.folder.key
        if key.startswith("ssh-agent:") or not Path(key).exists():
            return None  # a lost key is said at once, not when the token ends
        use = f"{key} {transport.name}"
        return TokenFile(path=self.folder.path / "token.json", use=use, may_keep=lambda: not self._asked)

    def _ask(self) -> str:
        self._asked = True
        return ask_passphrase()

    def enter_with(self, key: StatementSigner) -> None:
        """Be known to the controller by another key than the one that signs: the recovery key, the key before."""
        self.close()
        login = Login(kind=api.Who.OPERATOR, sign=lambda data: (key.public, key.sign_bytes(data)))
        self._client = Client(self.transport(), login=login)

    def use_key(self, key: StatementSigner) -> None:
        """Sign with this key from now on."""
        self._key = key

    def _sign(self, data: bytes) -> tuple[str, bytes]:
        return self.key.public, self.key.sign_bytes(data)

    def state(self, *, wanted: tuple[str, ...] | None = (), accept_expired: bool = False) -> State:
        """Return the verified state, not older than what this computer saw (O1)."""
        return self.folder.read(self.client.fetch, wanted=wanted, accept_expired=accept_expired)

    def publish(
        self,
        make: Callable[[State], Wish | None],
        *,
        wanted: tuple[str, ...] | None = (),
    ) -> State:
        """Sign and publish what `make` wishes on the verified state; None = nothing to publish. Shows what changes,
        asks for what widens (O2), publishes by compare-and-swap (O3). Returns the state that was built upon.

        When somebody else published meanwhile, all of it is done again on the new state, a few times.
        """
        from nebh.cli.sealing import complete_wish
        from nebh.signing.wish import Wish, apply_wish

        def sign(state: State) -> Signed | None:
            wish = make(state)
            if wish is not None:
                wish = complete_wish(self, state, wish)
            if wish is None or wish == Wish():
                return None
            return apply_wish(state, wish, key=self.key, now=now_seconds())

        return self.publish_signed(sign, wanted=wanted)

    def publish_signed(
        self,
        sign: Callable[[State], Signed | None],
        *,
        wanted: tuple[str, ...] | None = (),
        accept_expired: bool = False,
    ) -> State:
        """Publish what `sign` makes of the verified state, as `publish` does. Raises Conflict when others keep being
        first, or when the second look shows something that widens and was not agreed to at the first."""
        from nebh.signing.repository import snapshot_of

        agreed: frozenset[str] = frozenset()
        for attempt in range(PUBLISH_ATTEMPTS):
            state = self.state(wanted=wanted, accept_expired=accept_expired)
            signed = sign(state)
            if signed is None:
                return state
            if attempt:
                self.out.note("somebody else published meanwhile; upon what stands now this changes:")
            agreed = self.show_difference(signed.difference, agreed=agreed if attempt else None)
            publication = signed.publication
            try:
                self.client.publish(base=publication.base, metadata=publication.metadata, targets=publication.targets)
            except Conflict:
                if attempt + 1 == PUBLISH_ATTEMPTS:
                    raise
                continue
            self.folder.published(publication)
            self.snapshot = snapshot_of(publication)
            return state
        raise AssertionError("unreachable")

    def show_difference(self, difference: Difference, *, agreed: frozenset[str] | None = None) -> frozenset[str]:
        """Show every change, and ask before any that widens; return those. agreed: what was agreed to at an earlier
        look: then more than that is a Conflict. Raises BadInput when nobody agrees."""
        from nebh.planning.operate import Consent, may_sign_difference

        changes, widening = _lines_of(difference)
        for line in changes:
            self.out.note(f"  {harmless(line)}")
        for line in sorted(widening):
            self.out.note(self.out.paint(f"  widens: {harmless(line)}", "yellow"))
        asks = agreed is None and bool(widening)
        yes = asks and confirm("This allows more than before. Sign it?", yes=getattr(self.options, "yes_widen", False))
        verdict = may_sign_difference(Consent(widening=widening, consented=yes, agreed=agreed))
        if verdict.ok:
            return widening
        if agreed is not None:
            raise Conflict(f"cannot publish: {verdict.reason}", hint=verdict.hint)
        listed = "".join(f"\n  widens: {harmless(line)}" for line in sorted(widening))
        silent = self.out.quiet or self.out.json_wanted
        raise BadInput(f"nothing was signed: {verdict.reason}" + (listed if silent else ""), hint=verdict.hint)

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


def through_ssh(place: str, *, run: str = "/run/nebh/controller") -> Transport:
    """Return the way through the operator's own SSH."""
    keep = {name: os.environ[name] for name in ("HOME", "SSH_AUTH_SOCK", "USER") if name in os.environ}
    ssh = tuple(os.environ.get("NEBH_SSH", "ssh").split())
    return ssh_transport(place, ssh=ssh, run=run, env=keep)


def ask_passphrase(prompt: str = "Passphrase of your key: ") -> str:
    """Ask for a passphrase: NEBH_PASSPHRASE_FILE, else the terminal. Raises BadInput without either."""
    import getpass
    import sys

    named = os.environ.get("NEBH_PASSPHRASE_FILE", "")
    if named:
        try:
            return Path(named).read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read the passphrase from {named}: {error}") from error
    if not sys.stdin.isatty():
        raise BadInput("cannot ask for the key's passphrase: there is no terminal", hint="set NEBH_PASSPHRASE_FILE")
    return getpass.getpass(prompt)


def _lines_of(difference: Difference) -> tuple[list[str], frozenset[str]]:
    """Return what changes without allowing more, and what allows more, in words."""
    from nebh.planning.plan_diff import compare_policies

    changes = [str(one) for one in difference.changes if not one.widens]
    widening = {str(one) for one in difference.changes if one.widens}
    for old, new in difference.policies:
        if new is None:
            changes.append(f"policy of {old.service if old else '?'}: removed")
        elif old is None:
            changes.append(f"policy of {new.service}: new")
        else:
            for one in compare_policies(old, new):
                line = f"policy of {new.service}: {one}"
                if one.widens:
                    widening.add(line)
                else:
                    changes.append(line)
    return changes, frozenset(widening)
