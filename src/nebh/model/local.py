"""node.json: what one machine was told about itself. Nothing in it can widen what signed metadata allows."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Where volumes are kept. driver: auto, btrfs, pool, reflink, copy or commands. device: a block device of our own for
    the pool; without one it is a file of `size` bytes that grows to `most`. commands: of that driver."""

    driver: str = "auto"
    device: str = ""
    size: int = 1 << 30
    most: int = 1 << 40
    commands: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """name: of the node. http_port, https_port: where the ingress listens. cgroup_parent: folder name for our cgroups.
    controller: `unix:PATH` or `https://HOST:PORT`. *_user: whom the programs run as. reserve: bytes of disk that no
    deploy may take; overlap_memory: percent of the machine's memory that instances may be promised together. listen:
    `ADDR:PORT` of the controller's TLS door, "" = none. fetch_rate: bytes a second of images, 0 = as fast as they come."""

    name: str
    http_port: int = 80
    https_port: int = 443
    cgroup_parent: str = "nebh"
    controller: str = ""
    agent_user: str = "nebh-agent"
    controller_user: str = "nebh-controller"
    ingress_user: str = "nebh-ingress"
    dns_user: str = "nebh-dns"
    reserve: int = 512 * 1024 * 1024
    overlap_memory: int = 90
    listen: str = ""
    fetch_rate: int = 0
    storage: StorageConfig = field(default_factory=StorageConfig)
