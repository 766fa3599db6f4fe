"""`nebh deploy` and `nebh plan`: from a spec file to the nodes' receipts."""

from __future__ import annotations

import argparse
import getpass
import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nebh.cli.config_bundles import (
    FileChange,
    Prepared,
    compare_files,
    fetch_bundle,
    nodes_of,
    prepare_bundle,
    put_places,
    read_templates,
    render_all,
    render_loosely,
    say_what_follows,
    send_bundle,
)
from nebh.cli.output import Output, harmless
from nebh.cli.rollout import roll_out
from nebh.cli.sealing import Sealer
from nebh.cli.session import Session, cache_base, now_seconds
from nebh.model import api
from nebh.model.errors import BadInput, Conflict, NotFound
from nebh.model.policy import Policy, ServiceState
from nebh.model.quantities import render_size
from nebh.model.release import Release
from nebh.model.secret import folder_of
from nebh.model.service import ServiceSpec, SourceKind
from nebh.model.statement import Phase
from nebh.planning.claims import claims_conflict
from nebh.planning.lint import find_unexcepted, lint_manifest
from nebh.planning.release import make_policy, make_release
from nebh.planning.tls import tls_secrets

if TYPE_CHECKING:
    from nebh.images.cache import ImageCache
    from nebh.images.report import ImportReport
    from nebh.signing.repository import State


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a spec asks for on top of the state it was read against."""

    spec: ServiceSpec
    policy: Policy
    release: Release
    report: ImportReport
    previous: Policy | None
    running: Release | None
    config: Prepared | None = None


def read_spec(path: str) -> ServiceSpec:
    """Return a parsed spec file. Raises SpecErrors with every problem, NotFound."""
    from nebh.spec.parse import parse_spec

    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}", hint="name a service spec file") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read {path}: it is not UTF-8 text") from error
    return parse_spec(text, file=path, base=str(Path(path).resolve().parent))


def import_spec_image(spec: ServiceSpec, cache: ImageCache, session: Session) -> ImportReport:
    """Import the image of a spec and look at it as nodes will. Raises BadInput for what they would refuse."""
    from nebh.cli.door import import_any
    from nebh.images.entrypoint import check_entrypoint

    out = session.out
    if spec.image.kind is SourceKind.BUILD:
        from nebh.cli.images import build_declared

        report = build_declared(Path(spec.image.location), cache, out).report
    else:
        out.progress(f"importing {spec.image.kind.value} {spec.image.location}")
        report = import_any(spec.image, cache=cache, session=session)
    report = _with_secret_folders(spec, report, cache)
    out.note(f"image {report.digest[:12]}: {len(report.manifest.entries)} entries, {render_size(report.ref.bytes)}")
    for line in report.normalised:
        out.note(f"  changed: {line}")
    for argv0 in {spec.argv[0], *(check.argv[0] for check in _exec_checks(spec))}:
        problem = check_entrypoint(report.manifest, argv0)
        if problem is not None:
            raise problem
    report = put_places(report, spec, cache)
    left = find_unexcepted(lint_manifest(report.manifest), spec.policy.lint_exceptions)
    if left:
        lines = "\n".join(f"  {one.rule.value}: {one.path}: {one.message}" for one in left[:20])
        more = f"\n  and {len(left) - 20} more" if len(left) > 20 else ""
        raise BadInput(
            f"cannot deploy {spec.name}: its image holds more than the process needs:\n{lines}{more}",
            hint='leave these out of the image, or sign exceptions: policy: {lint_exceptions: ["'
            f'{left[0].rule.value}:{left[0].path}"'
            "]}",
        )
    return report


def _with_secret_folders(spec: ServiceSpec, report: ImportReport, cache: ImageCache) -> ImportReport:
    """Secrets are mounted into the image, whose root nobody can write: their folders must be there."""
    from nebh.images.manifest import encode_manifest
    from nebh.images.mount_points import add_mount_points

    made = add_mount_points(report, {folder_of(one.use) for one in spec.secrets}, what="secrets")
    if made is not report:
        cache.add_manifest(encode_manifest(made.manifest))
    return made


def _exec_checks(spec: ServiceSpec) -> list[Any]:
    health = (spec.health.startup, spec.health.readiness, spec.health.liveness)
    return [check for check in (*health, *spec.update.checks) if check is not None and check.argv]


def wanted_of(
    state: State, spec: ServiceSpec, report: ImportReport, *, templates: dict[str, str] | None = None
) -> Wanted:
    """Return the policy and release that `spec` asks for on top of `state`, files and all. templates: of its files."""
    from nebh.signing.layers import newest_layers
    from nebh.signing.wish import first_epoch, listed_counters

    previous = state.trusted.policies.get(spec.name)
    now = now_seconds()
    policy = make_policy(
        spec,
        previous=previous,
        cluster_id=state.trusted.nodes.cluster_id,
        now=now,
        state=ServiceState.RUNNING,
    )
    if previous is None:
        policy = replace(policy, epoch=first_epoch(state, spec.name))
    others = [one for name, one in state.trusted.policies.items() if name != spec.name]
    for conflict in claims_conflict([*others, policy]):
        raise Conflict(f"cannot deploy {spec.name}: {conflict}", hint="change the route in one of the specs")
    counters = listed_counters(state, spec.name)
    path = f"release/{spec.name}/{counters[-1]}.json" if counters else ""
    config = prepare_bundle(
        spec, templates or {}, cluster_id=policy.cluster_id, layers=newest_layers(state).values() if spec.files else ()
    )
    release = make_release(
        spec,
        policy=policy,
        config=config.ref if config else None,
        image=report.ref,
        counter=(counters[-1] if counters else 0) + 1,
        now=now,
        built_from={"source": report.origin, "host": platform.node(), "author": getpass.getuser()},
    )
    return Wanted(
        spec=spec,
        policy=policy,
        release=release,
        report=report,
        previous=previous,
        running=state.trusted.releases.get(path),
        config=config,
    )


def deploy(options: argparse.Namespace, out: Output) -> int:
    """Import, sign, publish, roll out, wait for receipts."""
    from nebh.cli.moving import send_image
    from nebh.images.cache import ImageCache
    from nebh.signing.wish import Wish

    session = Session(options, out)
    spec = read_spec(options.spec)
    session.key  # noqa: B018 - a wrong passphrase is said before the long work
    templates = read_templates(spec, base=Path(options.spec).resolve().parent)
    before = running_before(session, spec.name)
    cache_base().mkdir(parents=True, exist_ok=True)
    cache = ImageCache(cache_base())
    report = import_spec_image(spec, cache, session)
    send_image(session, report.manifest, cache, rate=options.limit_rate)
    made: list[Wanted] = []

    def make(state: State) -> Wish:
        wanted = wanted_of(state, spec, report, templates=templates)
        made.append(wanted)
        if spec.secrets and not session.is_ci:
            session.sealer = session.sealer or Sealer(session)
            session.sealer.generate(state, spec.name, spec.secrets)
        if wanted.config is not None:
            render_all(wanted.config, nodes_of(state, wanted.policy))
            send_bundle(session, wanted.config)
        policies = () if wanted.policy == wanted.previous else (wanted.policy,)
        if policies and session.is_ci:
            raise policy_differs(wanted)
        return Wish(policies=policies, releases=(wanted.release,))

    events_after = session.client.events(wait=0).cursor
    state = session.publish(make, wanted=None)
    release = made[-1].release
    out.note(f"signed release {release.counter} of {spec.name}")
    return roll_out(
        session,
        state,
        release,
        replicas=spec.replicas.count,
        phase=Phase.PREPARE if options.prepare else Phase.RUN,
        events_after=events_after,
        undo=_undo(spec.name, before, prepare=options.prepare),
    )


def policy_differs(wanted: Wanted) -> BadInput:
    """Return why a CI key cannot deploy this: its release must fit the policy that an operator signed."""
    from nebh.planning.plan_diff import compare_policies

    lines = "".join(f"\n  policy: {one}" for one in compare_policies(wanted.previous, wanted.policy))
    return BadInput(
        f"cannot deploy {wanted.spec.name} with a CI key: the spec's policy is not the signed one:{lines}",
        hint="an operator deploys this once; after that CI may go on",
    )


def _undo(service: str, before: int, *, prepare: bool) -> str:
    if prepare:
        return f"nebh abort {service}"
    return f"nebh rollback {service} --to {before}" if before else f"nebh rm {service}"


def running_before(session: Session, service: str) -> int:
    """Return the release that runs now, 0 = none. Raises Conflict while a deployment is open: before anything is
    imported or signed."""
    try:
        view = session.client.service(service)
    except NotFound:
        return 0
    last = view.deployment
    if last is not None and last.state is api.DeploymentState.OPEN and last.phase is not Phase.PREPARE:
        raise Conflict(
            f"cannot deploy {service}: release {last.counter} is being deployed by {harmless(last.by)} since "
            f"{time.strftime('%H:%M:%S', time.localtime(last.at / 1000))}",
            hint=f"wait for it (`nebh events --service {service} --follow`), or end it: `nebh abort {service}`",
        )
    return max((one.running.counter for one in view.allocations), default=0)


def _without_value(session: Session, state: State, wanted: Wanted) -> list[str]:
    """Return the secrets of a spec that a deploy would stop for."""
    if session.is_ci or not (wanted.spec.secrets or tls_secrets(wanted.spec.routes)):
        return []
    vault = Sealer(session).vault
    names = [one.use.name for one in wanted.spec.secrets if not one.generate]
    keys = [f"{wanted.spec.name}/{name}" for name in dict.fromkeys((*names, *tls_secrets(wanted.spec.routes)))]
    return [key for key in keys if key not in state.trusted.secrets and vault.entry(key) is None]


def plan(options: argparse.Namespace, out: Output) -> int:
    """Show what a deploy would change; change nothing."""
    from nebh.images.cache import ImageCache
    from nebh.planning.plan_diff import compare_images, compare_policies, compare_releases

    session = Session(options, out)
    spec = read_spec(options.spec)
    templates = read_templates(spec, base=Path(options.spec).resolve().parent)
    cache_base().mkdir(parents=True, exist_ok=True)
    cache = ImageCache(cache_base())
    report = import_spec_image(spec, cache, session)
    state = session.state(wanted=None)
    wanted = wanted_of(state, spec, report, templates=templates)
    missing = _without_value(session, state, wanted)
    files = _file_changes(session, state, wanted)
    policy = compare_policies(wanted.previous, wanted.policy)
    release = compare_releases(wanted.running, wanted.release)
    old = None
    if wanted.running is not None:
        try:
            old = cache.manifest(wanted.running.images["main"].manifest)
        except NotFound:
            old = None
    images = compare_images(old, report.manifest)
    if out.json_wanted:
        out.document(
            {
                "service": spec.name,
                "release": wanted.release.counter,
                "policy": [str(one) for one in policy],
                "widens": [str(one) for one in policy if one.widens],
                "changes": [str(one) for one in release],
                "image": str(images),
                "secrets_without_value": missing,
                "files": [one.plain() for one in files],
            }
        )
        return 0
    out.say(f"release {wanted.release.counter} of {spec.name} would be signed")
    for one in release:
        out.say(f"  release: {one}")
    for one in policy:
        out.say(out.paint(f"  policy, widens: {one}", "yellow") if one.widens else f"  policy: {one}")
    out.say(f"  image: {images}" if old is not None or wanted.running is None else f"  image: {report.digest[:12]}")
    for file in files:
        out.say(f"  file {harmless(str(file))}")
    if not policy:
        out.say("  policy: as signed")
    for key in missing:
        out.say(out.paint(f"  no value yet: nebh secret set {key}", "yellow"))
    out.say(f"deploy with: nebh deploy {os.path.relpath(options.spec)}")
    return 0


def _file_changes(session: Session, state: State, wanted: Wanted) -> tuple[FileChange, ...]:
    """Return how the service's files differ from those of the newest release, on the nodes that may run it."""
    nodes = nodes_of(state, wanted.policy)
    new = render_all(wanted.config, nodes) if wanted.config is not None else ()
    if wanted.running is None or wanted.running.config is None:
        return compare_files((), new)
    changes = compare_files(render_loosely(fetch_bundle(session, wanted.running), nodes), new)
    return say_what_follows(changes, wanted.running, wanted.release, same_policy=wanted.policy == wanted.previous)
