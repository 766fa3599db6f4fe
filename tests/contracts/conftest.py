"""Where the volumes of the contract suite lie: each storage once per module, taken away at its end."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.drivers.volumes.btrfs import btrfs_volumes
from nebh.drivers.volumes.command import CommandVolumes, StorageCommands
from nebh.drivers.volumes.copy import copy_volumes, reflink_volumes
from nebh.drivers.volumes.fake import FakeVolumes
from nebh.model.errors import NotFound
from nebh.testing.disks.pools import make_pool, mount_file_system


def fake(folder, stack):
    driver = FakeVolumes(folder / "volumes")
    return lambda: driver


def copying(folder, stack):
    return lambda: copy_volumes(folder / "volumes")


def copying_with_quotas(folder, stack):
    place = mount_file_system("ext4", folder, stack, quotas=True)
    return lambda: copy_volumes(place / "volumes")


def pool(folder, stack):
    one = make_pool(folder, stack)
    return lambda: btrfs_volumes(folder / "pool" / "volumes", pool=one)


def somebody_elses_btrfs(folder, stack):
    place = mount_file_system("btrfs", folder, stack)
    return lambda: btrfs_volumes(place / "volumes")


def reflink_on_btrfs(folder, stack):
    place = mount_file_system("btrfs", folder, stack)
    return lambda: reflink_volumes(place / "volumes")


def reflink_on_xfs(folder, stack):
    place = mount_file_system("xfs", folder, stack)
    return lambda: reflink_volumes(place / "volumes")


def reflink_with_quotas(folder, stack):
    place = mount_file_system("xfs", folder, stack, quotas=True)
    return lambda: reflink_volumes(place / "volumes")


HOUSE = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("folder_storage.sh")


def commands_for(root: Path, *program: str, path: str) -> StorageCommands:
    """Every verb that a storage can declare, as words for one program."""
    return StorageCommands(
        path=path,
        snapshot=(*program, "snapshot", "{volume}", "{snapshot}"),
        restore=(*program, "restore", "{volume}", "{snapshot}", "{keep_as}"),
        delete=(*program, "delete", "{volume}", "{snapshot}"),
        list=(*program, "list"),
        make=(*program, "make", "{volume}", "{quota}", "{uid}", "{gid}"),
        remove=(*program, "remove", "{volume}"),
        clone=(*program, "clone", "{volume}", "{snapshot}", "{to}", "{quota}"),
        resize=(*program, "resize", "{volume}", "{quota}"),
        browse=(*program, "browse", "{volume}", "{snapshot}"),
        open=(*program, "open"),
    )


def declared_commands(folder, stack):
    root = folder / "own"
    return lambda: CommandVolumes(commands_for(root, str(SCRIPT), str(root), path=f"{root}/live/{{volume}}"))


def lvm_thin(folder, stack):
    """In the guest (tests/guest/test_lvm.py), or wherever somebody names a thin pool that is theirs to fill."""
    pool = os.environ.get("LVM_THIN_POOL", "")
    if not pool:
        raise NotFound("no thin pool of LVM: LVM_THIN_POOL=VG/POOL names one that holds nothing")
    program = (str(HOUSE / "examples" / "storage" / "lvm-thin"), pool, "/srv/nebh")
    return lambda: CommandVolumes(replace(commands_for(folder, *program, path="/srv/nebh/{volume}/data"), quotas=True))


NEED_ROOT = (
    *(lvm_thin, copying_with_quotas, reflink_with_quotas),
    *(pool, somebody_elses_btrfs, reflink_on_btrfs, reflink_on_xfs),
)
ALL = [fake, copying, declared_commands, *(pytest.param(one, marks=pytest.mark.root) for one in NEED_ROOT)]


@pytest.fixture(scope="module", params=ALL)
def volume_storage(request, tmp_path_factory):
    """A function that makes the driver anew, as after a restart."""
    folder = tmp_path_factory.mktemp("volumes")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            again = request.param(folder, stack)
        except NotFound as error:
            pytest.skip(str(error))
        again().open()
        yield again


@pytest.fixture
def driver(volume_storage):
    """A driver that keeps nothing yet."""
    made = volume_storage()
    made.open()
    yield made
    for one in made.list():
        made.remove(one.name)
    made.upkeep()
    assert made.list() == ()
