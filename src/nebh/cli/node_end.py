"""The machine that becomes a node, as founding sees it: this one, or (remote.py) one behind SSH."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nebh.cli.programs import run_program
from nebh.client.frame_channel import connect_frames
from nebh.client.transport import Transport, UnixTransport
from nebh.host.files import write_atomic
from nebh.host.layout import Layout
from nebh.model.local import LocalConfig
from nebh.wire import codec


@dataclass(frozen=True, kw_only=True)
class NodeIdentity:
    """What a node says about itself. Keys are hex; cluster_id "" = of no cluster yet."""

    sign_pk: str
    seal_pk: str
    cluster_id: str


@dataclass(frozen=True, kw_only=True)
class ControllerIdentity:
    """Hex key that signs assignments, hex SHA-256 of the TLS certificate."""

    key: str
    tls_pin: str


class NodeEnd(Protocol):
    """What founding needs of a machine. name: the node's; address, options: for cluster.json; listen: TLS door or ""."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def options(self) -> dict[str, str]: ...
    @property
    def listen(self) -> str: ...

    def identity(self) -> NodeIdentity:
        """Return the node's public keys."""
        ...

    def controller(self) -> ControllerIdentity:
        """Return the controller's, made when missing."""
        ...

    def pin_root(self, root: bytes) -> None:
        """Have the controller take no first publication but one that follows from this root."""
        ...

    def transport(self) -> Transport:
        """Return the way to the controller."""
        ...

    def enrol(self, *, cluster_id: str, node_id: str, name: str, root: bytes) -> None:
        """Make it a node of the cluster. Raises Conflict when it is one of another."""
        ...


class LocalNode:
    """This machine."""

    def __init__(self, layout: Layout, config: LocalConfig) -> None:
        self._layout, self._config = layout, config

    @property
    def name(self) -> str:
        """The node's."""
        return self._config.name

    @property
    def address(self) -> str:
        """For cluster.json."""
        return f"unix:{self._layout.controller_socket}"

    @property
    def options(self) -> dict[str, str]:
        """For cluster.json."""
        return {"run": str(self._layout.controller_socket.parent)}

    @property
    def listen(self) -> str:
        """The TLS door."""
        return self._config.listen

    def identity(self) -> NodeIdentity:
        """Ask the executor."""
        with connect_frames(self._layout.executor_socket) as channel:
            answer, _ = channel.request({"op": "identity"})
        return NodeIdentity(sign_pk=answer["sign_pk"], seal_pk=answer["seal_pk"], cluster_id=answer["cluster_id"] or "")

    def controller(self) -> ControllerIdentity:
        """Ask `nebh-controller init`, as its own user: what it makes is its own."""
        answer = codec.decode_loose(self._init().strip(), dict[str, str], what="the controller's answer")
        return ControllerIdentity(key=answer["controller_key"], tls_pin=answer["tls_pin"])

    def pin_root(self, root: bytes) -> None:
        """Hand the root over in a file beside the controller's folder."""
        place = self._layout.run / "first-root.json"
        write_atomic(place, root, durable=False)
        try:
            self._init("--root", str(place))
        finally:
            place.unlink(missing_ok=True)

    def _init(self, *more: str) -> bytes:
        return run_program(
            "nebh-controller", ("init", "--state", str(self._layout.controller), *more), self._layout, self._config
        )

    def transport(self) -> Transport:
        """Its unix socket."""
        return UnixTransport(path=self._layout.controller_socket)

    def enrol(self, *, cluster_id: str, node_id: str, name: str, root: bytes) -> None:
        """Tell the executor."""
        head = {"op": "enrol", "cluster_id": cluster_id, "node_id": node_id, "name": name}
        with connect_frames(self._layout.executor_socket) as channel:
            channel.request(head, root)
