"""An instance: one container of one release, and the node facts its configuration is a function of (N12)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, kw_only=True)
class InstanceFacts:
    """The executor's own facts. uid_base: first host id of the service's range; root: path at which the launcher
    mounts the id-mapped tree; netns: path of the network namespace; cgroup: OCI cgroupsPath; cgroup_v2: version;
    etc_files: host paths by the path below /etc they are bound to (resolv.conf, hosts, hostname); apparmor: the profile
    that this node's kernel has loaded, "" where it has none; volumes: (path in the container, folder on the host, only to be
    read); secret_folders: host paths by the folder in the container; files: host paths of rendered files by their paths
    in the container."""

    instance: str
    replica: int
    uid_base: int
    root: str
    netns: str
    cgroup: str
    cgroup_v2: bool
    hostname: str
    address4: str
    address6: str
    etc_files: dict[str, str]
    apparmor: str = ""
    volumes: tuple[tuple[str, str, bool], ...] = ()
    secret_folders: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    live: str = ""


class Status(StrEnum):
    """What the runtime says of a container."""

    ABSENT = "absent"
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A container as found. pid: of its first process; started: its start time in clock ticks since boot (with pid it
    names the process for ever); exit_code: None while unknown, 128+n for signal n; conmon_alive False with a running
    container means its exit code will never be known."""

    instance: str
    status: Status
    pid: int = 0
    started: int = 0
    exit_code: int | None = None
    oom: bool = False
    conmon_alive: bool = False


@dataclass(frozen=True, kw_only=True)
class Strain:
    """How near a running container is to its bounds. processes: now, of process_limit; refused: new ones that its
    control group refused, killed: those killed for want of memory (both rise all its life); full: its file systems in
    memory with less than a twentieth of their bytes left, crowded: of their files; descriptors: most that one process holds, of descriptor_limit; sockets: all."""

    processes: int = 0
    process_limit: int = 0
    refused: int = 0
    killed: int = 0
    full: tuple[str, ...] = ()
    crowded: tuple[str, ...] = ()
    descriptors: int = 0
    descriptor_limit: int = 0
    sockets: int = 0


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check said; detail is for people. made: False when nobody could look (the agent is away)."""

    ok: bool
    detail: str
    made: bool = True
