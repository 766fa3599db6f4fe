"""A btrfs of our own, on a device or in a file that grows, mounted in our namespace.

Found again, not remembered: a loop device that is attached to the file is used again, for a second one over the same
file would destroy it; a mount that is there is kept. The file has all its blocks from the start: a pool that promised
more than there is would end in I/O errors instead of "full".
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from nebh.drivers.volumes import btrfs_calls as calls
from nebh.drivers.volumes.base import OutOfSpace, StorageGone
from nebh.host.disk import free_bytes
from nebh.host.files import fsync_directory
from nebh.host.namespaces import MS_NODEV, MS_NOSUID, mount, unmount
from nebh.host.run import Command, CommandFailed, run
from nebh.model.errors import BadInput, Failed
from nebh.model.quantities import render_size

SMALLEST = 256 << 20
"""btrfs resizes nothing smaller."""
_LABEL = "nebh-volumes"
_MS_NOATIME = 0x400
_STEP = 16 << 20


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """mount: folder at which it is mounted. device: a block device of our own; without it, file: grows from `size` to
    `most` bytes in steps, and leaves `spare` bytes of the file system it is on."""

    mount: Path
    device: Path | None = None
    file: Path = Path("/var/lib/nebh/volumes/pool.btrfs")
    size: int = 1 << 30
    most: int = 1 << 40
    spare: int = 512 << 20


class BtrfsPool:
    """See PoolPlan. Needs root, mkfs.btrfs and, for a file, losetup."""

    def __init__(self, plan: PoolPlan) -> None:
        self._plan = plan

    def open(self) -> None:
        """Make it where there is none, mount it, and let it take all of its file. A mount that has stopped writing is
        taken away first. Raises BadInput for a device with other content, OutOfSpace, StorageGone, CommandFailed."""
        self._plan.mount.mkdir(mode=0o711, parents=True, exist_ok=True)
        if self.mounted() and self._is_dead():
            self.close()
        if not self.mounted():
            device = self._device()
            try:
                mount(
                    str(device), self._plan.mount, kind="btrfs", flags=MS_NOSUID | MS_NODEV | _MS_NOATIME, data=_OPTIONS
                )
            except OSError as error:
                raise StorageGone(
                    f"cannot mount the pool of volumes {device}: {error.strerror}", hint="dmesg says what it found"
                ) from error
            self._plan.mount.chmod(0o711)
            if self._plan.device is None:  # mounted as it is, it stays until its last mount is gone, and no longer
                run(Command(argv=("losetup", "--detach", str(device))))
        if self._plan.device is None:
            self._take_all()

    def _is_dead(self) -> bool:
        try:
            return bool(os.statvfs(self._plan.mount).f_flag & os.ST_RDONLY)
        except OSError:
            return True

    def mounted(self) -> bool:
        """Tell whether something is mounted at its place, in our namespace."""
        try:
            return self._plan.mount.stat().st_dev != self._plan.mount.parent.stat().st_dev
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def check(self) -> None:
        """Raise StorageGone when it is not mounted or has stopped writing."""
        if not self.mounted():
            raise StorageGone(f"cannot use the pool of volumes: nothing is mounted at {self._plan.mount}")
        if self._is_dead():
            raise StorageGone(
                "cannot use the pool of volumes: it has stopped writing after an error",
                hint="look at the disk (dmesg, smartctl); it is tried again by itself",
            )

    def close(self) -> None:
        """Unmount it here and let go of its loop device. Where a container still has it, both last as long as that."""
        while self.mounted():
            unmount(self._plan.mount)
        for device in self._attached():
            run(Command(argv=("losetup", "-d", device), accept=(0, 1)))

    # the device

    def _device(self) -> Path:
        if self._plan.device is not None:
            self._format_device(self._plan.device)
            return self._plan.device
        if not self._plan.file.exists():
            self._make_file()
        attached = self._attached()
        if attached:
            return Path(attached[0])
        words = ("losetup", "--find", "--show", "--direct-io=on", str(self._plan.file))
        return Path(run(Command(argv=words, timeout=60)).text.strip())

    def _attached(self) -> tuple[str, ...]:
        """Return the loop devices over the file, by its inode, whatever it was called when they were made."""
        if self._plan.device is not None or not self._plan.file.exists():
            return ()
        words = ("losetup", "--noheadings", "--output", "NAME", "--associated", str(self._plan.file))
        return tuple(run(Command(argv=words)).text.split())

    def _format_device(self, device: Path) -> None:
        try:
            block = stat.S_ISBLK(device.stat().st_mode)
        except OSError as error:
            raise StorageGone(f"cannot use {device} for volumes: {error.strerror}") from error
        if not block:
            raise BadInput(f"cannot use {device} for volumes: it is no block device")
        known = run(Command(argv=("blkid", "-p", "-o", "export", str(device)), accept=(0, 2)))
        words = dict(line.split("=", 1) for line in known.text.splitlines() if "=" in line)
        if words.get("TYPE") == "btrfs" and words.get("LABEL") == _LABEL:
            return
        if words:
            found = words.get("TYPE") or words.get("PTTYPE") or "something"
            raise BadInput(
                f"cannot use {device} for volumes: it holds {found}", hint=f"`wipefs --all {device}` destroys that"
            )
        run(Command(argv=(*_MKFS, str(device)), timeout=600))

    def _make_file(self) -> None:
        """Make the file under another name: one that has its name is whole."""
        plan = self._plan
        if plan.size < SMALLEST:
            raise BadInput(f"cannot make a pool of {render_size(plan.size)}: the least is {render_size(SMALLEST)}")
        plan.file.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        half = plan.file.with_name(f".{plan.file.name}.making")
        half.unlink(missing_ok=True)
        descriptor = os.open(half, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._allocate(descriptor, 0, plan.size)
            run(Command(argv=(*_MKFS, str(half)), timeout=600))
            os.fsync(descriptor)
        except BaseException:
            half.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        half.rename(plan.file)
        fsync_directory(plan.file.parent)

    def _allocate(self, descriptor: int, old: int, size: int) -> None:
        room = free_bytes(self._plan.file.parent) - self._plan.spare
        if room < size - old:
            raise OutOfSpace(
                f"cannot give the pool of volumes {render_size(size - old)} more: {self._plan.file.parent} has"
                f" {render_size(max(room, 0))} beyond its reserve",
                hint="free some disk space",
            )
        try:
            os.posix_fallocate(descriptor, old, size - old)
        except OSError as error:
            os.ftruncate(descriptor, old)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OutOfSpace(f"cannot give the pool of volumes {render_size(size - old)} more: the disk is full") from (
                error
            )

    # growing

    def may_grow(self) -> bool:
        """Tell whether there is room to grow into."""
        plan = self._plan
        if plan.device is not None:
            return False
        return plan.file.stat().st_size < plan.most and free_bytes(plan.file.parent) - plan.spare >= _STEP

    def growth(self) -> int:
        """Return the bytes by which it may still grow."""
        plan = self._plan
        if plan.device is not None or not self.may_grow():
            return 0
        size = plan.file.stat().st_size
        return max(0, min(plan.most - size, free_bytes(plan.file.parent) - plan.spare))

    def grow(self) -> None:
        """Make the file larger when less than a fifth of the pool is free and it may. Raises Failed."""
        plan = self._plan
        if plan.device is not None or not self.may_grow():
            return
        size = plan.file.stat().st_size
        if free_bytes(plan.mount) >= size // 5:
            return
        room = free_bytes(plan.file.parent) - plan.spare
        wanted = min(plan.most, size + max(size // 2, _STEP), size + room)
        wanted -= wanted % 4096
        if wanted <= size:
            return
        descriptor = os.open(plan.file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._allocate(descriptor, size, wanted)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._take_all()

    def _take_all(self) -> None:
        """Let device and file system be as large as the file: a crash can come between growing the three."""
        for device in self._attached():
            name = Path(device).name
            sectors = int(Path(f"/sys/class/block/{name}/size").read_text(encoding="ascii"))
            if sectors * 512 != self._plan.file.stat().st_size:
                run(Command(argv=("losetup", "--set-capacity", device)))
        state = os.statvfs(self._plan.mount)
        if state.f_blocks * state.f_frsize + _STEP > self._plan.file.stat().st_size:
            return
        try:
            calls.resize_to_device(self._plan.mount)
        except OSError as error:
            raise Failed(f"cannot let the pool of volumes grow: {error.strerror}") from error


_OPTIONS = "nodiscard"  # a discard would punch holes into the file
_MKFS = ("mkfs.btrfs", "--quiet", "--nodiscard", "--label", _LABEL)


def find_lack(plan: PoolPlan) -> str:
    """Say why there can be no such pool on this machine, "" when there can be."""
    for argv in (("mkfs.btrfs", "--version"), *((("losetup", "--version"),) if plan.device is None else ())):
        try:
            run(Command(argv=argv))
        except CommandFailed as error:
            return f"{argv[0]}: {error.stderr.strip() or 'it does not run'}"
    kinds = Path("/proc/filesystems").read_text(encoding="ascii").split()
    return "" if "btrfs" in kinds or _module_exists() else "this kernel has no btrfs"


def _module_exists() -> bool:
    return run(Command(argv=("modprobe", "--dry-run", "--quiet", "btrfs"), accept=(0, 1, 127))).status == 0
