"""Ways to the controller: its unix socket, SSH to the machine it is on, TLS with a pinned certificate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nebh.host.channels import Channel, connect_command, connect_tcp, connect_unix
from nebh.model.errors import BadInput


class Transport(Protocol):
    """Makes connections to one controller."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def connect(self) -> Channel:
        """Return a new connection. Raises Unreachable with a hint."""
        ...


@dataclass(frozen=True, kw_only=True)
class UnixTransport:
    """RUN/controller.sock of this machine."""

    path: Path
    timeout: float = 5.0

    @property
    def name(self) -> str:
        """For people."""
        return str(self.path)

    def connect(self) -> Channel:
        """Connect."""
        return connect_unix(self.path, timeout=self.timeout)


@dataclass(frozen=True, kw_only=True)
class CommandTransport:
    """A command whose standard input and output lead to a controller's socket, such as SSH and `stdio`."""

    argv: tuple[str, ...]
    title: str
    env: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """For people."""
        return self.title

    def connect(self) -> Channel:
        """Start the command."""
        from nebh.host.run import Command

        return connect_command(Command(argv=self.argv, env=dict(self.env)), name=self.title)


@dataclass(frozen=True, kw_only=True)
class TlsTransport:
    """A controller's TCP door. pins: hex SHA-256 of its certificate."""

    host: str
    port: int
    pins: tuple[str, ...]
    timeout: float = 10.0

    @property
    def name(self) -> str:
        """For people."""
        return f"https://{self.host}:{self.port}"

    def connect(self) -> Channel:
        """Connect and check the pin. Raises Unreachable, Refused."""
        from nebh.host.tls import connect_tls

        return connect_tls(host=self.host, port=self.port, pins=self.pins, timeout=self.timeout)


@dataclass(frozen=True, kw_only=True)
class TcpTransport:
    """Plain HTTP to a static mirror: what comes from it is hashed or signed."""

    host: str
    port: int
    timeout: float = 10.0

    @property
    def name(self) -> str:
        """For people."""
        return f"http://{self.host}:{self.port}"

    def connect(self) -> Channel:
        """Connect. Raises Unreachable."""
        return connect_tcp(host=self.host, port=self.port, timeout=self.timeout)


@dataclass(frozen=True, kw_only=True)
class PublicTlsTransport:
    """A static mirror behind a certificate of a public authority."""

    host: str
    port: int
    timeout: float = 10.0

    @property
    def name(self) -> str:
        """For people."""
        return f"https://{self.host}:{self.port}"

    def connect(self) -> Channel:
        """Connect and check the certificate against the system's authorities. Raises Unreachable."""
        from nebh.host.tls import connect_public_tls

        return connect_public_tls(host=self.host, port=self.port, timeout=self.timeout)


def ssh_transport(
    place: str, *, ssh: tuple[str, ...] = ("ssh",), run: str = "/run/nebh", env: dict[str, str] | None = None
) -> Transport:
    """Return the way through the operator's own SSH to `place` (`root@host`). env: what ssh needs (HOME,
    SSH_AUTH_SOCK). Raises BadInput for a place that ssh would read as an option."""
    if not place or place.startswith("-") or any(letter.isspace() for letter in place):
        raise BadInput(f"cannot reach {place!r}", hint="write --at root@host")
    argv = (*ssh, "-T", "-o", "BatchMode=yes", "--", place, "nebh-controller", "stdio", "--run", run)
    return CommandTransport(argv=argv, title=place, env=tuple((env or {}).items()))


def parse_transport(text: str, *, pins: tuple[str, ...] = ()) -> Transport:
    """Return the transport that `unix:/path` or `https://host:port` names. Raises BadInput."""
    if text.startswith("unix:"):
        return UnixTransport(path=Path(text.removeprefix("unix:")))
    if text.startswith("https://"):
        host, port = split_address(text.removeprefix("https://").rstrip("/"), default=7443)
        if not pins:
            raise BadInput(f"cannot use {text}: no certificate is pinned", hint="give --pin, or sign it into settings")
        return TlsTransport(host=host, port=port, pins=pins)
    raise BadInput(
        f"cannot use the controller address {text!r}", hint="write unix:/run/nebh/controller.sock or https://host:port"
    )


def split_address(text: str, *, default: int) -> tuple[str, int]:
    """Return (host, port) of `host`, `host:port` or `[::1]:port`. Raises BadInput."""
    host, found, port = text.rpartition(":")
    if not found or text.endswith("]"):
        host, port = text, str(default)
    if not host.strip("[]") or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadInput(f"cannot use the address {text!r}", hint="write host:port")
    return host.strip("[]"), int(port)
