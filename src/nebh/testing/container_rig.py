"""A small place to run real containers in: a busybox tree, private folders, cgroups of its own, a driver.

`python -m nebh.testing.container_rig FOLDER NAME WORDS...` creates and starts one container and then waits to be
killed: the stand-in for an executor that dies.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nebh.drivers.containers.base import ContainerPlan, PlacedFile
from nebh.drivers.containers.crun import CrunContainers, Folders
from nebh.drivers.containers.oci_config import render_config
from nebh.host.cgroups import find_tree
from nebh.host.launcher import fork_launcher
from nebh.model.errors import NotFound
from nebh.model.instance import InstanceFacts
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.service import Limits, Placement, Replicas

UID_BASE = 0x7F000000
PROGRAMS = (
    "sh",
    "cat",
    "ls",
    "echo",
    "id",
    "mount",
    "sleep",
    "dd",
    "head",
    "wc",
    "seq",
    "grep",
    "yes",
    "chmod",
    "true",
)
LIMITS = Limits(memory=64 << 20, cpu=500, pids=32)


def sample_policy(*, limits: Limits = LIMITS, tmp_exec: bool = False, cgroup_view: bool = False) -> Policy:
    """Return a policy of the service `web`."""
    return Policy(
        cluster_id="c" * 64,
        service="web",
        version=1,
        epoch=1,
        signed_at=1,
        state=ServiceState.RUNNING,
        placement=Placement(),
        replicas=Replicas(),
        limits=limits,
        net=NetPolicy(),
        tmp_exec=tmp_exec,
        cgroup_view=cgroup_view,
    )


def sample_release(*argv: str, env: dict[str, str] | None = None) -> Release:
    """Return release 7 of `web`, which runs `argv`."""
    return Release(
        cluster_id="c" * 64, service="web", epoch=1, counter=7, signed_at=1, images={}, argv=argv, env=env or {}
    )


def busybox() -> str:
    """Return the path of a static busybox. Raises NotFound when there is none."""
    path = shutil.which("busybox")
    if path is None or b"ld-linux" in Path(path).read_bytes()[:4096]:
        raise NotFound("cannot find a static busybox", hint="apt-get install busybox-static")
    return path


def make_tree(tree: Path) -> None:
    """Make a root file system as the importer would: busybox and what every image has."""
    for name in ("proc", "dev", "tmp", "etc", "bin", "sys"):
        (tree / name).mkdir(parents=True)
    for name in ("resolv.conf", "hosts", "hostname"):
        (tree / "etc" / name).touch(mode=0o644)
    shutil.copy(busybox(), tree / "bin" / "busybox")
    (tree / "bin" / "busybox").chmod(0o755)
    for name in PROGRAMS:
        (tree / "bin" / name).symlink_to("busybox")


class ContainerRig:
    """See above. folder: short and private; its name names the cgroups. The caller makes the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o711)
        self.tree = folder / "tree"
        if not self.tree.exists():
            make_tree(self.tree)
        self.cgroups = find_tree(folder.name)
        self.folders = Folders(bundles=folder / "b", logs=folder / "l", run=folder / "r")
        self.launcher = fork_launcher()
        self.driver = CrunContainers(folders=self.folders, cgroups=self.cgroups, launcher=self.launcher)

    def plan(
        self,
        instance: str,
        *argv: str,
        policy: Policy | None = None,
        log_bytes: int = 1 << 20,
        uid_base: int = UID_BASE,
        secret_folders: tuple[str, ...] = (),
        files: dict[str, PlacedFile] | None = None,
        live: dict[str, PlacedFile] | None = None,
    ) -> ContainerPlan:
        """Return the plan of a container that runs `argv`; each service has a uid_base of its own."""
        facts = InstanceFacts(
            instance=instance,
            replica=0,
            uid_base=uid_base,
            root=self.folders.root(instance),
            netns="",
            cgroup=self.cgroups.path_of(instance),
            cgroup_v2=self.cgroups.v2,
            hostname="web-0",
            address4="10.0.0.2",
            address6="fd00::2",
            etc_files=self.folders.etc_files(instance),
            secret_folders={
                folder: str(self.folders.bundle(instance) / "secrets" / str(number))
                for number, folder in enumerate(secret_folders)
            },
            files={path: self.folders.file(instance, number) for number, path in enumerate(files or {})},
            live=self.folders.live(instance) if live else "",
        )
        return ContainerPlan(
            instance=instance,
            tree=self.tree,
            config=render_config(policy or sample_policy(), sample_release(*argv), facts),
            uid_base=uid_base,
            etc_files={
                "resolv.conf": b"nameserver 10.0.0.1\n",
                "hosts": b"127.0.0.1 localhost\n",
                "hostname": b"web\n",
            },
            log_bytes=log_bytes,
            files=tuple((files or {}).values()),
            live=live or {},
        )

    def run_to_end(self, plan: ContainerPlan, *, patience: float = 60.0) -> list[str]:
        """Run a container to its end, remove it and return the lines it printed. Raises TimeoutError."""
        self.driver.create(plan)
        try:
            self.driver.start(plan.instance)
            end = time.monotonic() + patience
            while (found := self.driver.observe(plan.instance)).exit_code is None or found.conmon_alive:
                if time.monotonic() > end:
                    raise TimeoutError(f"{plan.instance} did not come to its end")
                time.sleep(0.02)
            return [line.text for line in self.driver.read_logs(plan.instance, "", 10_000).lines]
        finally:
            self.driver.delete(plan.instance)
            self.driver.delete_logs(plan.instance)

    def close(self) -> None:
        """Remove every container and cgroup."""
        with contextlib.suppress(OSError):
            for name in self.driver.list():
                self.driver.delete(name)
            self.cgroups.destroy()
        self.launcher.close()


@contextlib.contextmanager
def private_rig() -> Iterator[ContainerRig]:
    """Give a rig in a folder of its own, and take all of it away. Raises NotFound where containers cannot run."""
    for program in ("crun", "conmon"):
        if shutil.which(program) is None:
            raise NotFound(f"cannot run containers: {program} is not installed", hint=f"apt-get install {program}")
    folder = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
    try:
        rig = ContainerRig(folder)
        try:
            yield rig
        finally:
            rig.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Create and start a container, say `ready`, wait to be killed."""
    folder, instance, *words = sys.argv[1:]
    rig = ContainerRig(Path(folder))
    created = rig.driver.create(rig.plan(instance, *words))
    if not os.environ.get("NEBH_RIG_CREATE_ONLY"):
        rig.driver.start(instance)
    print("ready", created.pid, rig.launcher.pid, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
