"""File systems for volumes to lie on: btrfs, XFS and ext4 with project quotas, each on a loop device of its own."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from nebh.drivers.volumes.pool import BtrfsPool, PoolPlan, find_lack
from nebh.host.run import Command, CommandFailed, is_root, run
from nebh.model.errors import Failed, NotFound
from nebh.testing.disks.disk import FuseFile

_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
_MAKERS = {
    "btrfs": ("mkfs.btrfs", "-q", "-K"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "ext4": ("mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "lazy_itable_init=0,nodiscard"),
}
_LEAST = {"btrfs": 160 << 20, "xfs": 320 << 20, "ext4": 64 << 20}


def make_pool(folder: Path, stack: contextlib.ExitStack, *, size: int = 256 << 20, most: int = 0) -> BtrfsPool:
    """Return a pool in a file in `folder`, mounted at `folder/pool` once it is opened, taken away with `stack`. Raises
    NotFound, saying what this machine lacks."""
    if not is_root():
        raise NotFound("a pool of volumes needs root")
    wish = PoolPlan(mount=folder / "pool", file=folder / "pool.btrfs", size=size, most=most or size, spare=0)
    if lack := find_lack(wish):
        raise NotFound(f"no pool of volumes: {lack}")
    pool = BtrfsPool(wish)
    stack.callback(pool.close)
    return pool


def mount_file_system(
    kind: str, folder: Path, stack: contextlib.ExitStack, *, size: int = 0, quotas: bool = False
) -> Path:
    """Return a folder with a new file system mounted on it, taken away with `stack`. kind: btrfs, xfs, ext4; quotas:
    with project quotas, of XFS and ext4. Raises NotFound, saying what this machine lacks."""
    maker = _MAKERS[kind]
    if not is_root():
        raise NotFound(f"a file system of one's own ({kind}) needs root")
    if shutil.which(maker[0], path=_PATH) is None:
        raise NotFound(f"{maker[0]} is not installed")
    image, place = folder / f"{kind}.image", folder / kind
    with image.open("wb") as file:
        file.truncate(size or _LEAST[kind])
    run(Command(argv=(*maker, str(image)), timeout=60))
    device = attach(image)
    stack.callback(lambda: run(Command(argv=("losetup", "-d", device), accept=(0, 1))))
    place.mkdir()
    options = "noatime,prjquota" if quotas else "noatime"
    try:
        run(Command(argv=("mount", "-t", kind, "-o", options, device, str(place)), timeout=60))
    except CommandFailed as error:
        said = error.stderr.strip().splitlines()[0]
        raise NotFound(f"{kind} cannot be mounted with {options}: {said}") from error
    stack.callback(_unmount, place)
    return place


def _unmount(place: Path) -> None:
    done = run(Command(argv=("umount", str(place)), accept=tuple(range(256))))
    if done.status:
        run(Command(argv=("umount", "-l", str(place))))
        raise Failed(f"cannot unmount {place}: {done.stderr.decode(errors='replace')}")


class FailingDevice:
    """A block device over a FUSE file: recorded, and failing when told (see fuse_disk). device: its path."""

    def __init__(self, folder: Path, *, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "image").open("wb") as file:
            file.truncate(size)
        self.fuse = FuseFile(folder)
        self.device = Path(attach(self.fuse.file))

    def close(self) -> None:
        """Take it away. What is still mounted from it gets errors."""
        run(Command(argv=("losetup", "-d", str(self.device)), accept=(0, 1)))
        self.fuse.close()


def attach(file: Path) -> str:
    """Return a new loop device over a file."""
    return run(Command(argv=("losetup", "-f", "--show", str(file)))).text.strip()
