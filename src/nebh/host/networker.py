"""The helper that stays in the host's network namespace: links, the shared interface, namespaces, nft, small probes.

It is single-threaded, so it may step into a namespace and back. It holds a descriptor of each namespace it made until
`hand_over`: a namespace that no container was created in goes away, link and all, when this process ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nebh.host import probes
from nebh.host.namespaces import CLONE_NEWNET, setns, unshare
from nebh.host.run import Command, CommandFailed, run
from nebh.host.worker import Worker
from nebh.model.errors import Broken, NotFound

SHARED_LINK = "nebhdns"
PREFIX = "nebh"
_LINK = re.compile(PREFIX + "[0-9a-f]{4}")
UNREACHABLE_METRIC = 4242
_SYSCTL = Path("/proc/sys/net")
_INSIDE = {
    "ipv4/ip_unprivileged_port_start": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/default/accept_redirects": "0",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/accept_redirects": "0",
    "ipv6/conf/default/accept_dad": "0",
}
_HOST_SIDE = {
    "ipv4/conf/{name}/forwarding": "1",
    "ipv4/conf/{name}/rp_filter": "1",
    "ipv4/conf/{name}/accept_redirects": "0",
    "ipv4/conf/{name}/send_redirects": "0",
    "ipv6/conf/{name}/disable_ipv6": "0",
    "ipv6/conf/{name}/forwarding": "1",
    "ipv6/conf/{name}/accept_ra": "0",
    "ipv6/conf/{name}/accept_redirects": "0",
}


def fork_networker(*, setup: Callable[[], None] | None = None) -> Worker:
    """Fork the networker in this process's network namespace (or the one `setup` enters in the child). Call it from
    the main thread before there are others."""
    networker = Networker()

    def prepare() -> None:
        if setup is not None:
            setup()
        networker.open_home()

    return Worker.fork("networker", networker.handlers(), setup=prepare)


class Networker:
    """The handlers. Each takes a JSON object and raises Failed with what `ip` said."""

    def __init__(self) -> None:
        self._home = -1
        self._held: dict[str, int] = {}

    def open_home(self) -> None:
        """Remember the namespace to come back to."""
        self._home = _open_own_namespace()

    def handlers(self) -> Mapping[str, Callable[[dict[str, Any], tuple[int, ...]], Any]]:
        """Return them by operation."""
        return {
            "ensure": self.ensure,
            "forward": self.forward,
            "attach": self.attach,
            "hand_over": self.hand_over,
            "detach": self.detach,
            "links": self.links,
            "remove": self.remove,
            "ask": self.ask,
            "exchange": self.exchange,
            "reach": self.reach,
        }

    # what all links share

    def ensure(self, args: dict[str, Any], _fds: tuple[int, ...]) -> None:
        """Switch forwarding on; make the shared interface with `own` addresses and the routes that end `subnets`."""
        _forwarding_on()
        if SHARED_LINK not in _interfaces():
            _add_shared_link()
        lines = [f"link set {SHARED_LINK} up"]
        if _has_ipv6():
            _write(f"ipv6/conf/{SHARED_LINK}/disable_ipv6", "0")
            lines.insert(0, f"link set {SHARED_LINK} addrgenmode none")
        lines += [f"addr replace {_with_length(address)} dev {SHARED_LINK}" for address in _usable(args["own"])]
        # an address nobody has must not leave by the default route
        lines += [
            f"route replace unreachable {subnet} metric {UNREACHABLE_METRIC}" for subnet in _usable(args["subnets"])
        ]
        _ip(*lines)

    def forward(self, _args: dict[str, Any], _fds: tuple[int, ...]) -> None:
        """Switch forwarding on where somebody switched it off."""
        _forwarding_on()

    def remove(self, args: dict[str, Any], _fds: tuple[int, ...]) -> None:
        """Undo `ensure`, forwarding excepted: others may count on it by now."""
        _delete_link(SHARED_LINK)
        for subnet in _usable(args["subnets"]):
            command = ("ip", "route", "del", "unreachable", subnet, "metric", str(UNREACHABLE_METRIC))
            run(Command(argv=command, accept=(0, 2), timeout=20))

    # one link

    def attach(self, args: dict[str, Any], _fds: tuple[int, ...]) -> str:
        """Make namespace and link `name` with addresses `own` (v4, v6), reached through `gateway` (v4, v6). Returns
        the namespace's path."""
        name, own, gateway = args["name"], _usable(args["own"]), _usable(args["gateway"])
        self._forget(name)
        _delete_link(name)
        namespace = self._new_namespace(name, own, gateway)
        try:
            self._finish_host_side(name, own, gateway)
        except BaseException:
            os.close(namespace)
            with contextlib.suppress(Exception):
                _delete_link(name)
            raise
        self._held[name] = namespace
        return f"/proc/{os.getpid()}/fd/{namespace}"

    def _new_namespace(self, name: str, own: tuple[str, ...], gateway: tuple[str, ...]) -> int:
        with self._back_home():
            unshare(CLONE_NEWNET)
            namespace = _open_own_namespace()
            try:
                for key, value in _INSIDE.items():
                    _write(key, value)
                _ip(*_inside_lines(name, own, gateway, home=f"/proc/{os.getpid()}/fd/{self._home}"))
            except BaseException:
                os.close(namespace)
                raise
        return namespace

    def _finish_host_side(self, name: str, own: tuple[str, ...], gateway: tuple[str, ...]) -> None:
        for key, value in _HOST_SIDE.items():
            _write(key.format(name=name), value)
        lines = [f"link set {name} addrgenmode none"] if _has_ipv6() else []
        lines.append(f"link set {name} up")
        for address, via in zip(own, gateway, strict=True):
            lines.append(f"neigh replace {address} lladdr {_mac(name, side=2)} dev {name} nud permanent")
            lines.append(f"route replace {_host_route(address)} dev {name} src {via}")
        _ip(*lines)

    def hand_over(self, args: dict[str, Any], _fds: tuple[int, ...]) -> None:
        """Close the descriptor of the namespace of `name`."""
        self._forget(args["name"])

    def detach(self, args: dict[str, Any], _fds: tuple[int, ...]) -> None:
        """Remove link `name`."""
        self._forget(args["name"])
        _delete_link(args["name"])

    def links(self, _args: dict[str, Any], _fds: tuple[int, ...]) -> list[str]:
        """Return the names of our links, sorted."""
        return sorted(name for name in _interfaces() if _LINK.fullmatch(name))

    def _forget(self, name: str) -> None:
        descriptor = self._held.pop(name, -1)
        if descriptor >= 0:
            os.close(descriptor)

    # probes

    def ask(self, args: dict[str, Any], _fds: tuple[int, ...]) -> dict[str, Any]:
        """Ask the DNS server at `server`; see `probes.ask`. In the namespace of link `inside` when that is named."""
        with self._inside(args.get("inside", "")):
            return probes.ask(args["server"], args["name"], args.get("type", "A"), timeout=args.get("timeout", 1.0))

    def exchange(self, args: dict[str, Any], _fds: tuple[int, ...]) -> str:
        """Open a TCP connection from the namespace of link `source` to `address`:`port`, where the namespace of link
        `target` listens on `listen` for the while. Returns `ok`, `refused` or `silent`."""
        with self._inside(args["target"]):
            listener = probes.listen(args["listen"], args["port"])
        with listener, self._inside(args["source"]):
            return probes.connect(args["address"], args["port"], timeout=args.get("timeout", 1.0))

    def reach(self, args: dict[str, Any], _fds: tuple[int, ...]) -> str:
        """Open a TCP connection to `address`:`port` and close it. Returns `ok`, `refused` or `silent`."""
        return probes.connect(args["address"], args["port"], timeout=args.get("timeout", 0.3))

    @contextlib.contextmanager
    def _inside(self, name: str) -> Iterator[None]:
        if not name:
            yield
            return
        if name not in self._held:
            raise NotFound(f"cannot enter the namespace of {name}: it was handed over, or never made")
        with self._back_home():
            setns(self._held[name], CLONE_NEWNET)
            yield

    @contextlib.contextmanager
    def _back_home(self) -> Iterator[None]:
        try:
            yield
        finally:
            try:
                setns(self._home, CLONE_NEWNET)
            except OSError:
                os._exit(70)  # to go on in the wrong namespace would be worse than to go


def _inside_lines(name: str, own: tuple[str, ...], gateway: tuple[str, ...], *, home: str) -> list[str]:
    inner, outer = _mac(name, side=2), _mac(name, side=1)
    lines = [f"link add name eth0 address {inner} type veth peer name {name} address {outer} netns {home}"]
    lines += ["link set eth0 addrgenmode none"] if len(own) > 1 else []
    lines += ["link set lo up", "link set eth0 up"]
    for address, via in zip(own, gateway, strict=True):
        everything = "::/0" if ":" in via else "0.0.0.0/0"
        lines += [
            f"addr add {_with_length(address)} dev eth0",
            # known neighbours need no ARP: nothing to spoof, nothing to wait for
            f"neigh replace {via} lladdr {outer} dev eth0 nud permanent",
            f"route add {_host_route(via)} dev eth0 src {address}",
            f"route add {everything} via {via} dev eth0 src {address}",
        ]
    return lines


def _mac(name: str, *, side: int) -> str:
    index = int(name.removeprefix(PREFIX), 16)
    return f"02:6e:62:{side:02x}:{index >> 8 & 0xFF:02x}:{index & 0xFF:02x}"


def _ip(*lines: str) -> None:
    run(Command(argv=("ip", "-batch", "-"), stdin="".join(f"{line}\n" for line in lines).encode(), timeout=20))


def _add_shared_link() -> None:
    try:
        _ip(f"link add {SHARED_LINK} type dummy")
    except CommandFailed:  # a kernel without dummy interfaces: a bridge that nothing is plugged into serves as well
        _ip(f"link add {SHARED_LINK} type bridge")


def _delete_link(name: str) -> None:
    if name not in _interfaces():
        return
    try:
        run(Command(argv=("ip", "link", "del", name), timeout=20))
    except CommandFailed:
        if name in _interfaces():  # else it went by itself, with its namespace
            raise


def _interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def _open_own_namespace() -> int:
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _has_ipv6() -> bool:
    return (_SYSCTL / "ipv6").exists()


def _usable(addresses: list[str]) -> tuple[str, ...]:
    return tuple(address for address in addresses if ":" not in address or _has_ipv6())


def _host_route(address: str) -> str:
    return f"{address}/128" if ":" in address else f"{address}/32"


def _with_length(address: str) -> str:
    return _host_route(address) + (" nodad" if ":" in address else "")


def _write(key: str, value: str) -> None:
    path = _SYSCTL / key
    if not key.startswith("ipv6/") or _has_ipv6():
        path.write_text(value + "\n", encoding="ascii")


def _read(key: str) -> str:
    return (_SYSCTL / key).read_text(encoding="ascii").strip()


def _forwarding_on() -> None:
    if _read("ipv4/ip_forward") != "1":
        _write("ipv4/ip_forward", "1")
    if not _has_ipv6() or _read("ipv6/conf/all/forwarding") == "1":
        return
    # a router ignores router advertisements unless told otherwise: hosts that live on them must not lose their way
    for folder in (_SYSCTL / "ipv6/conf").iterdir():
        if folder.name != "all" and (folder / "accept_ra").read_text(encoding="ascii").strip() == "1":
            (folder / "accept_ra").write_text("2\n", encoding="ascii")
    _write("ipv6/conf/all/forwarding", "1")
    if _read("ipv6/conf/all/forwarding") != "1":
        raise Broken("cannot forward IPv6: the kernel did not take the setting")
