"""A parsed spec split into what an operator signs (policy) and what is signed for every deploy (release)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nebh.model.config import ConfigBundle
from nebh.model.image import ImageRef
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.service import Replicas, ServiceSpec
from nebh.planning.tls import tls_secrets


def make_policy(
    spec: ServiceSpec,
    *,
    previous: Policy | None,
    cluster_id: str,
    now: int,
    state: ServiceState | None = None,
) -> Policy:
    """Return the policy that `spec` asks for; `previous` itself where nothing changes, else its version plus one.

    now: Unix seconds. What commands set outlives the spec: state (unless given), epoch, pins (joined with the spec's),
    and min_release, which only rises within an epoch.
    """
    wished = Policy(
        cluster_id=cluster_id,
        service=spec.name,
        version=1,
        epoch=previous.epoch if previous else 1,
        signed_at=now,
        state=state or (previous.state if previous else ServiceState.RUNNING),
        placement=spec.placement,
        replicas=spec.replicas,
        limits=spec.limits,
        net=NetPolicy(routes=spec.routes, ports=dict(spec.ports), connects=spec.connects, egress=spec.egress),
        volumes=spec.volumes,
        secrets=tuple(sorted({*(one.use.name for one in spec.secrets), *tls_secrets(spec.routes)})),
        backup=spec.backup,
        caps=previous.caps if previous else (),
        lint_exceptions=spec.policy.lint_exceptions,
        checks_required=spec.policy.checks_required,
        on_failure_data=spec.policy.on_failure_data,
        pins=tuple(sorted({*spec.policy.pins, *(previous.pins if previous else ())})),
        min_release=max(spec.policy.min_release, previous.min_release if previous else 0),
        rollback_window=spec.policy.rollback_window,
        cgroup_view=spec.policy.cgroup_view,
        tmp_exec=spec.policy.tmp_exec,
    )
    return wished if previous is None else _next_version(previous, wished, now=now)


def revise_policy(
    previous: Policy,
    *,
    now: int,
    state: ServiceState | None = None,
    replicas: Replicas | None = None,
    pins: tuple[int, ...] | None = None,
    min_release: int | None = None,
    epoch: int | None = None,
) -> Policy:
    """Return `previous` with what a command changes (stop, start, scale, pin, unpin, revoke); itself if nothing is.

    A new epoch starts counters and floors afresh: pins and min_release go back to none unless given. now: Unix seconds.
    """
    fresh = epoch is not None and epoch != previous.epoch
    wished = replace(
        previous,
        state=previous.state if state is None else state,
        replicas=previous.replicas if replicas is None else replicas,
        pins=(() if fresh else previous.pins) if pins is None else tuple(sorted(set(pins))),
        min_release=(0 if fresh else previous.min_release) if min_release is None else min_release,
        epoch=previous.epoch if epoch is None else epoch,
    )
    return _next_version(previous, wished, now=now)


def make_release(
    spec: ServiceSpec,
    *,
    policy: Policy,
    image: ImageRef,
    counter: int,
    now: int,
    config: ConfigBundle | None = None,
    built_from: dict[str, str] | None = None,
) -> Release:
    """Return release `counter` of the policy's epoch. now: Unix seconds. config: what its files are rendered from."""
    return Release(
        cluster_id=policy.cluster_id,
        service=spec.name,
        epoch=policy.epoch,
        counter=counter,
        signed_at=now,
        images={"main": image},
        argv=spec.argv,
        env=dict(spec.env),
        user=spec.user,
        ports=dict(spec.ports),
        secrets=tuple(
            one.use for one in spec.secrets if spec.backup is None or one.use.name not in spec.backup.secrets
        ),
        health=spec.health,
        stop=spec.stop,
        update=spec.update,
        needs=spec.needs,
        retention=spec.retention,
        volumes=spec.mounts,
        hooks=spec.hooks,
        data=spec.data,
        rehearse=spec.rehearse,
        config=config,
        files=tuple(one.file for one in spec.files),
        policy_min_version=policy.version,
        built_from=dict(built_from or {}),
    )


def next_counter(releases: Iterable[Release], *, service: str, epoch: int) -> int:
    """Return the lowest counter above every release of the service in this epoch."""
    return 1 + max((one.counter for one in releases if (one.service, one.epoch) == (service, epoch)), default=0)


def is_same_release(one: Release, other: Release) -> bool:
    """Tell whether two releases run the same, whatever their number, signing time and provenance."""
    return one == replace(
        other,
        counter=one.counter,
        signed_at=one.signed_at,
        built_from=one.built_from,
        policy_min_version=one.policy_min_version,
    )


def _next_version(previous: Policy, wished: Policy, *, now: int) -> Policy:
    if replace(wished, version=previous.version, signed_at=previous.signed_at) == previous:
        return previous
    return replace(wished, version=previous.version + 1, signed_at=now)
