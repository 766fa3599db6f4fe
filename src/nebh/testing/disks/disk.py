"""An ext4 on a disk of ours: recorded (and failing when told), or a plain image that some crash left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from nebh.host.run import Command, CommandFailed, Started, run, start
from nebh.model.errors import Failed

TOOLS = ("mkfs.ext4", "e2fsck", "losetup", "mount", "umount")
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def find_obstacle() -> str:
    """Say why there can be no such disk on this machine, "" when there can be."""
    missing = [name for name in TOOLS if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    for path in ("/dev/fuse", "/dev/loop-control"):
        try:
            os.close(os.open(path, os.O_RDWR))
        except OSError as error:
            return f"{path}: {error.strerror}"
    return ""


def make_image(path: Path, *, size: int, files: int = 4096) -> None:
    """Make a file with an empty ext4 of `size` bytes on it, for so many files."""
    with path.open("wb") as file:
        file.truncate(size)
    options = ("-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4", "-m", "0", "-N", str(files))
    run(Command(argv=("mkfs.ext4", *options, str(path)), timeout=60))


class Disk:
    """A file used as a disk: attached to a loop device and mounted."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._device = ""
        self._place: Path | None = None

    def mount(self, place: Path, *, options: str = "noatime") -> None:
        """Mount it. Raises CommandFailed when the file system cannot be recovered."""
        self._device = run(Command(argv=("losetup", "-f", "--show", str(self._file)))).text.strip()
        try:
            run(Command(argv=("mount", "-t", "ext4", "-o", options, self._device, str(place)), timeout=60))
        except CommandFailed:
            self._detach()
            raise
        self._place = place

    def unmount(self) -> None:
        """Nobody may use it any more."""
        stopped = self._place is not None and _is_stopped(self._place)
        if self._place is not None:
            # For whoever has a copy of the mount, such as another test's private namespace, it ends here as well.
            # What errors have stopped cannot be mounted anew.
            if not stopped:
                with contextlib.suppress(CommandFailed):
                    _patiently("mount", "-o", "remount,ro", str(self._place))
            _patiently("umount", str(self._place))
            self._place = None
        self._detach()
        if stopped:
            self._wait_for_copies()

    def _detach(self) -> None:
        if self._device:
            _patiently("losetup", "-d", self._device)
            self._device = ""

    def _wait_for_copies(self) -> None:
        """Wait until no copy of the mount is left, or the kernel has written what it still held for one: what is dirty
        is 30 s old at most, and looked at every 5 s. It would lie over what mounts the file next."""
        end = time.monotonic() + 40
        held = Command(argv=("losetup", "--noheadings", "-O", "NAME", "-j", str(self._file)))
        while run(held).text.strip() and time.monotonic() < end:
            time.sleep(0.05)

    def find_damage(self) -> str:
        """Return what e2fsck says of the unmounted file system, "" when it is clean."""
        done = run(Command(argv=("e2fsck", "-fn", str(self._file)), accept=tuple(range(256)), timeout=120))
        return "" if done.status == 0 else done.text[-1000:]


class FuseFile:
    """`folder/fuse/disk` shows `folder/image`, which exists, and `folder/log` gets every write and flush to it."""

    def __init__(self, folder: Path) -> None:
        self.image, self.log = folder / "image", folder / "log"
        self._folder = folder / "fuse"
        self._folder.mkdir(parents=True)
        self.file = self._folder / "disk"
        self.base = folder / "base"
        copy_sparse(self.image, self.base)
        argv = (
            sys.executable,
            "-P",
            "-m",
            "nebh.testing.disks.fuse_disk",
            *map(str, (self._folder, self.image, self.log)),
        )
        env = {"PYTHONPATH": os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[3]), *filter(None, sys.path)]))}
        self._process: Started = start(Command(argv=argv, env=env), stdin=-1, stdout=-1, stderr=None)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise Failed("cannot mount a FUSE file system")

    def tell(self, line: str) -> dict[str, Any]:
        """Send a command; return the counts."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """End it, whoever has it open."""
        # lazily: a loop device that another test's private namespace still has a copy of keeps it busy
        run(Command(argv=("umount", "-l", str(self._folder)), accept=tuple(range(256))))
        self._process.kill()
        self._process.wait(10)


class RecordedDisk(Disk):
    """As Disk, over a FUSE file: `log` gets every write and flush."""

    def __init__(self, folder: Path, *, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        make_image(folder / "image", size=size)
        self._fuse = FuseFile(folder)
        self.image, self.log, self.base = self._fuse.image, self._fuse.log, self._fuse.base
        super().__init__(self._fuse.file)

    def tell(self, line: str) -> dict[str, Any]:
        """Send a command; return the counts."""
        return self._fuse.tell(line)

    def close(self) -> None:
        """Unmount both."""
        with contextlib.suppress(CommandFailed):
            self.unmount()
        self._fuse.close()


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file, holes as holes."""
    run(Command(argv=("cp", "--sparse=always", str(source), str(target)), timeout=120))


def _is_stopped(place: Path) -> bool:
    """Tell whether ext4 has ended all writing after an error."""
    lines = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return any(words[1] == str(place) and "emergency_ro" in words[3].split(",") for words in lines)


def _patiently(*argv: str) -> None:
    """Run what may find its target busy for a moment: whoever was killed is still being taken apart."""
    end = time.monotonic() + 30
    while True:
        try:
            run(Command(argv=argv, timeout=60))
        except CommandFailed:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
