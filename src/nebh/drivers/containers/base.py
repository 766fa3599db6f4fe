"""What every container driver does. Every verb may be repeated: doing it twice is doing it once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nebh.drivers.containers.logs import LogPage
from nebh.model.instance import CheckResult, Observed, Strain
from nebh.model.secret import SecretFile


@dataclass(frozen=True, kw_only=True)
class PlacedFile:
    """A file that the container sees read-only. owner: host user id that it belongs to."""

    data: bytes
    mode: int
    owner: int


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """Everything that makes a container. tree: the materialised root file system on the host; config: OCI config.json
    from `oci_config.render_config`; uid_base: first host id of its range (65,536 long); etc_files: contents by name
    below /etc; files: by number, what lies in the bundle's folder `files`; log_bytes: of all log files together; log_files:
    how many are kept; user: inside, whose the secrets are; secrets: files in memory below BUNDLE/secrets; secret_env:
    variables that no file on the disk may hold; live: by path, files that can be replaced under it."""

    instance: str
    tree: Path
    config: bytes
    uid_base: int
    etc_files: dict[str, bytes] = field(default_factory=dict)
    log_bytes: int = 40 * 1024 * 1024
    log_files: int = 4
    user: int = 10001
    secrets: tuple[SecretFile, ...] = ()
    secret_env: dict[str, str] = field(default_factory=dict, repr=False)
    files: tuple[PlacedFile, ...] = ()
    live: dict[str, PlacedFile] = field(default_factory=dict)


class ContainerDriver(Protocol):
    """Creates, starts, watches and removes containers.

    Errors are Failed (with what the runtime said) or Broken. Nothing here needs the driver to live on: containers
    outlive the process that made them and are found again by `list` and `observe`.
    """

    def create(self, plan: ContainerPlan) -> Observed:
        """Make everything but the exec: afterwards its status is `created`. A leftover of the same id goes first."""
        ...

    def start(self, instance: str) -> Observed:
        """Let a created container run; a running one is left alone."""
        ...

    def observe(self, instance: str) -> Observed:
        """Say what is there now; never raises for an absent one."""
        ...

    def list(self) -> tuple[str, ...]:
        """Return the ids of everything of ours that the runtime, conmon or our folders know of."""
        ...

    def signal(self, instance: str, name: str) -> None:
        """Send a signal (`TERM`, `HUP`, `KILL`) to the first process; a stopped one is left alone."""
        ...

    def freeze(self, instance: str) -> None:
        """Let every process of a running container stand still; it stays `running`. Raises Broken where that cannot be."""
        ...

    def thaw(self, instance: str) -> None:
        """Let it go on."""
        ...

    def delete(self, instance: str) -> None:
        """Kill and remove every trace but the logs: processes, cgroup, runtime state, bundle."""
        ...

    def give_secrets(self, instance: str, secrets: tuple[SecretFile, ...]) -> tuple[str, ...]:
        """Put each file in the place of the one of its name, in one step; return the places whose bytes changed. Raises
        Failed for a container that was made without secrets, or is gone."""
        ...

    def live_paths(self, instance: str) -> tuple[str, ...]:
        """Return the paths of the files that `give_files` can replace, sorted; () for an absent container."""
        ...

    def give_files(self, instance: str, live: Mapping[str, PlacedFile]) -> tuple[str, ...]:
        """Put the whole set of live files in the place of the one it has, in one step; return the paths whose bytes
        changed. Raises Failed for a container that was made with others, or is gone; then it has the set it had."""
        ...

    def check(self, instance: str, argv: tuple[str, ...], timeout_ms: int) -> CheckResult:
        """Run a declared check inside, as confined as the container itself."""
        ...

    def watch(self, instance: str) -> int:
        """Return a file descriptor that becomes readable when conmon ends, -1 when it has ended already. The caller
        closes it."""
        ...

    def rotate_logs(self, instance: str) -> int:
        """Keep what was replaced, drop what is over the share. Returns bytes now kept in all files. To be called every
        second or so: lines are lost when a container prints over a fifth of its share between two calls."""
        ...

    def read_logs(self, instance: str, cursor: str, limit: int) -> LogPage:
        """Return at most `limit` lines from `cursor` on ("" = the oldest kept), also of a deleted container. The page's
        cursor goes on where it ended, across rotations."""
        ...

    def tail_cursor(self, instance: str, lines: int) -> str:
        """Return the cursor from which at most `lines` lines are left now."""
        ...

    def log_written(self, instance: str) -> int:
        """Return the bytes its conmon has written in its life (rising; 0 when it has ended): two looks show a flood."""
        ...

    def strain(self, instance: str) -> Strain:
        """Say how near a container is to its bounds; nothing of one that does not run. Takes about a millisecond."""
        ...

    def delete_logs(self, instance: str) -> None:
        """Remove the logs of a deleted container."""
        ...
