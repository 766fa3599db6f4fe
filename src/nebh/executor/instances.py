"""Making one instance: its link, its container; the same for a new release and for a restart."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from nebh.drivers.containers.base import ContainerPlan
from nebh.drivers.containers.oci_config import render_config
from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.executor.live import placed
from nebh.executor.secrets import Given, open_secrets
from nebh.model.errors import Broken
from nebh.model.instance import InstanceFacts, Observed, Status
from nebh.model.network import PUBLIC_RESOLVER_INDEX, RESOLVER_INDEX, addresses, link_plan
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.secret import folders_of
from nebh.model.service import Check, CheckKind
from nebh.model.stored import VolumePlan, stored_name
from nebh.model.volume import VolumeClass
from nebh.model.work import InstanceRow, Role
from nebh.planning.data import Mounted, mounted


def release_of(context: Context, row: InstanceRow) -> Release:
    """Return the accepted release of an instance."""
    release = context.accepted.release(row.service, row.epoch, row.counter)
    if release is None:
        raise Broken(f"cannot find release {row.counter} of {row.service} among the accepted ones")
    return release


def build(context: Context, row: InstanceRow, *, prefix: str, release: Release | None = None) -> None:
    """Attach and create an instance; leftovers of the same id go first. prefix: `prepare`, `start`, `hook` or `revive`.
    release: another than its own, for a hook in its place."""
    release, policy = release or release_of(context, row), context.policy_of(row)
    link = link_plan(context.subnets(), row.address)
    with effect(context, row.txn, f"{prefix}.attach"):
        netns = context.drivers.networks.attach(link)
    with context.secrets_lock if release.secrets else nullcontext():  # no rotation passes between reading and giving
        given = open_secrets(context, release)
        plan = container_plan(context, row, release, policy, netns=netns, given=given)
        with effect(context, row.txn, f"{prefix}.create"):
            context.drivers.containers.create(plan)
        if release.secrets:
            context.accepted.secrets.note_given(row.id, given.versions)
    context.drivers.networks.hand_over(link.name)


def container_plan(
    context: Context, row: InstanceRow, release: Release, policy: Policy, *, netns: str, given: Given
) -> ContainerPlan:
    """Return everything that makes the container: a function of policy, release and this node's facts (N12)."""
    subnets = context.subnets()
    pair = addresses(subnets, row.address)
    etc = etc_files(subnets, row, policy)
    files, live = (placed(context, release, live_ones=wanted) for wanted in (False, True))
    folder = context.layout.bundles / row.id
    facts = InstanceFacts(
        instance=row.id,
        replica=row.replica,
        uid_base=context.uid_base(row.service),
        root=str(context.layout.bundles / row.id / "rootfs"),
        netns=netns,
        cgroup=f"/{context.config.cgroup_parent}/{row.id}",
        cgroup_v2=context.cgroup_v2,
        hostname=f"{row.service}-{row.replica}",
        address4=pair.v4,
        address6=pair.v6,
        etc_files={name: str(context.layout.bundles / row.id / "etc" / name) for name in etc},
        apparmor=context.apparmor,
        volumes=volume_folders(context, row, release, policy),
        secret_folders={
            folder: str(context.layout.bundles / row.id / "secrets" / name)
            for folder, name in folders_of(release.secrets).items()
        },
        files={path: str(folder / "files" / f"{number}") for number, path in enumerate(files)},
        live=str(folder / "live") if live else "",
    )
    return ContainerPlan(
        instance=row.id,
        tree=context.layout.trees / release.images["main"].manifest,
        config=render_config(policy, release, facts),
        uid_base=facts.uid_base,
        etc_files=etc,
        log_bytes=policy.limits.log,
        secrets=given.files,
        secret_env=given.env,
        user=release.user,
        files=tuple(files.values()),
        live=live,
    )


def volume_folders(
    context: Context, row: InstanceRow, release: Release, policy: Policy
) -> tuple[tuple[str, str, bool], ...]:
    """Return (path in the container, folder on the host, read-only) of the volumes of an instance; temporary ones are
    made anew."""
    found = []
    for part in mounted(policy, release):
        if part.bound.kind is VolumeClass.TEMP:
            folder = _make_temporary(context, row, part, release)
        else:
            folder = context.drivers.volumes.path(_stored(row, part.bound.name))
        found.append((part.mount.path, str(folder), part.mount.read_only))
    return tuple(found)


def _stored(row: InstanceRow, name: str) -> str:
    if row.role is Role.REHEARSAL:
        return cloned_volume(row.address, row.attempt, name)
    return stored_name(service=row.service, volume=name, replica=row.replica)


def cloned_volume(address: int, attempt: int, name: str) -> str:
    """Return the stored name of what a rehearsal has for a volume: `rehearse.7-3.data`."""
    return f"rehearse.{address}-{attempt}.{name}"


def _make_temporary(context: Context, row: InstanceRow, part: Mounted, release: Release) -> Path:
    owner = part.mount.user or release.user
    name = temporary_volume(row, part.bound.name)
    context.drivers.volumes.remove(name)
    return context.drivers.volumes.make(VolumePlan(name=name, quota=part.bound.size, uid=owner, gid=owner))


def temporary_volume(row: InstanceRow, name: str) -> str:
    """Return the stored name of an instance's own volume: `temp.3-7.scratch`, the instance's address and attempt."""
    return f"temp.{row.address}-{row.attempt}.{name}"


def etc_files(subnets: tuple[str, ...], row: InstanceRow, policy: Policy) -> dict[str, bytes]:
    """Return resolv.conf, hosts and hostname. The resolver knows public names only for those who may use it."""
    public = any(one.cidr == "dns" for one in policy.net.egress)
    resolver = addresses(subnets, PUBLIC_RESOLVER_INDEX if public else RESOLVER_INDEX)
    hostname = f"{row.service}-{row.replica}"
    pair = addresses(subnets, row.address)
    return {
        "resolv.conf": f"nameserver {resolver.v4}\nsearch nebh.internal\noptions timeout:2 attempts:3\n".encode(),
        "hosts": f"127.0.0.1 localhost\n::1 localhost\n{pair.v4} {hostname}\n{pair.v6} {hostname}\n".encode(),
        "hostname": f"{hostname}\n".encode(),
    }


def readiness(release: Release) -> Check | None:
    """Return what says that an instance can serve: the declared check, or a connection to its first port."""
    if release.health.readiness is not None:
        return release.health.readiness
    if release.ports:
        return Check(name="port", kind=CheckKind.TCP, port=min(release.ports.values()), interval=200)
    return None


def exit_text(observed: Observed) -> str:
    """Say how an instance ended, for people."""
    if observed.status is Status.ABSENT:
        return "it is gone without a trace"
    if observed.oom:
        return "it was killed because it used more memory than its limit"
    if observed.exit_code is None:
        return "its monitor was killed, so its exit code is not known"
    if observed.exit_code > 128:
        return f"it was ended by signal {observed.exit_code - 128}"
    return f"it exited with code {observed.exit_code}"
