"""Who listens on a TCP port of this machine."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"


@dataclass(frozen=True, kw_only=True)
class Listener:
    """pid 0 and name "": somebody whom we may not see."""

    port: int
    pid: int = 0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})" if self.pid else "another process"


def listener_of(port: int, *, seen_from: int = 0) -> Listener | None:
    """Return who listens on TCP `port` in the network namespace of process `seen_from` (0 = our own); None: nobody."""
    inodes: set[str] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{seen_from or 'self'}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
            for fields in (line.split() for line in lines):
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(fields[9])
    if not inodes:
        return None
    return _holder(port, {f"socket:[{inode}]" for inode in inodes})


def ports_of_user(uid: int, *, seen_from: int = 0) -> frozenset[int]:
    """Return the TCP ports that processes of a user listen on, whatever the address."""
    ports: set[int] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{seen_from or 'self'}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
            for fields in (line.split() for line in lines):
                if fields[3] == _LISTEN and int(fields[7]) == uid:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return frozenset(ports)


def has_ipv6(*, seen_from: int = 0) -> bool:
    """Tell whether sockets of that network namespace may be bound to IPv6 addresses."""
    try:
        return bool(Path(f"/proc/{seen_from or 'self'}/net/if_inet6").read_bytes())
    except OSError:
        return False


def _holder(port: int, sockets: set[str]) -> Listener:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            for descriptor in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in sockets:
                        name = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
                        return Listener(port=port, pid=int(folder.name), name=name)
    return Listener(port=port)
