"""Signing layers, and with them one release for each service whose rendered files change."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nebh.cli.config_bundles import (
    FileChange,
    Prepared,
    compare_files,
    fetch_bundle,
    nodes_of,
    render_all,
    render_loosely,
    renew_bundle,
    say_what_follows,
    send_bundle,
)
from nebh.cli.output import Output, harmless
from nebh.cli.rollout import roll_out
from nebh.cli.services import standing_of
from nebh.cli.session import Session, now_seconds
from nebh.model.config_layer import ConfigLayer, NodeFacts
from nebh.model.errors import NebhError, NotFound
from nebh.model.policy import Policy, ServiceState
from nebh.model.release import Release
from nebh.model.statement import Phase

if TYPE_CHECKING:
    from nebh.signing.repository import State
    from nebh.signing.wish import Wish

Layers = dict[str, ConfigLayer]
Change = Callable[["State", Layers], tuple[ConfigLayer, ...]]


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """A service whose files change. base: the release that runs; release: the next one, which differs in its bundle
    alone."""

    base: Release
    release: Release
    prepared: Prepared
    changes: tuple[FileChange, ...]
    replicas: int


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """What signing layers would do. left_out: services that get no release by themselves, with the reason."""

    layers: tuple[ConfigLayer, ...]
    renewals: tuple[Renewal, ...]
    left_out: dict[str, str]


def plan_layers(session: Session, state: State, new: tuple[ConfigLayer, ...]) -> LayerPlan:
    """Return what new versions of layers change. state: read with every release. Raises SpecErrors with what would be
    wrong with any service that runs."""
    from nebh.signing.layers import newest_layers

    layers = {**newest_layers(state), **{one.part.layer: one for one in new}}
    renewals, left_out = [], {}
    for service, policy in sorted(state.trusted.policies.items()):
        newest = _newest(state, service, policy)
        if newest is None or newest.config is None:
            continue
        old = fetch_bundle(session, newest)
        fresh = renew_bundle(old.bundle, newest, layers.values())
        if fresh.ref == old.ref:
            continue
        nodes = nodes_of(state, policy)
        changes = compare_files(render_loosely(old, nodes), render_all(fresh, nodes))
        if not changes:
            continue
        running, replicas = _running(session, service)
        if policy.state is ServiceState.STOPPED:
            left_out[service] = "it is stopped; its next deploy takes the layer"
        elif running and running != newest.counter:
            left_out[service] = f"release {running} of it runs, not {newest.counter}; its next deploy takes the layer"
        else:
            release = _next(newest, policy, fresh, new, counter=_next_counter(state, service))
            told = say_what_follows(changes, newest, release)
            renewals.append(Renewal(base=newest, release=release, prepared=fresh, changes=told, replicas=replicas))
    return LayerPlan(layers=new, renewals=tuple(renewals), left_out=left_out)


def _newest(state: State, service: str, policy: Policy) -> Release | None:
    mine = [one for one in state.trusted.releases.values() if (one.service, one.epoch) == (service, policy.epoch)]
    return max(mine, key=lambda one: one.counter, default=None)


def _next_counter(state: State, service: str) -> int:
    from nebh.signing.wish import listed_counters

    return listed_counters(state, service)[-1] + 1


def _running(session: Session, service: str) -> tuple[int, int]:
    """Return (the release that runs, 0 = none, its replicas)."""
    try:
        standing = standing_of(session, service)
    except NotFound:
        return 0, 1
    return standing.counter, standing.replicas or 1


def _next(base: Release, policy: Policy, fresh: Prepared, layers: tuple[ConfigLayer, ...], *, counter: int) -> Release:
    said = ", ".join(f"{one.part.layer} version {one.part.version}" for one in layers)
    made_by = {"source": f"config {said}", "host": platform.node(), "author": getpass.getuser()}
    return replace(
        base,
        counter=counter,
        signed_at=now_seconds(),
        config=fresh.ref,
        policy_min_version=policy.version,
        built_from=made_by,
    )


def sign_layers(session: Session, change: Change, *, with_releases: bool) -> tuple[State, LayerPlan]:
    """Sign what `change` makes of the newest layers and, with_releases, the releases it asks for; nothing when it makes
    none. Returns what was signed, and the state it was built upon."""
    from nebh.signing.layers import newest_layers
    from nebh.signing.wish import Wish

    made: list[LayerPlan] = []

    def make(state: State) -> Wish | None:
        new = change(state, newest_layers(state))
        plan = plan_layers(session, state, new) if new else LayerPlan(layers=(), renewals=(), left_out={})
        made.append(plan if with_releases else replace(plan, renewals=()))
        if not new:
            return None
        for one in made[-1].renewals:
            send_bundle(session, one.prepared)
        return Wish(layers=new, releases=tuple(one.release for one in made[-1].renewals))

    state = session.publish(make, wanted=None)
    return state, made[-1]


def show_plan(out: Output, plan: LayerPlan, *, signed: bool) -> None:
    """Say what changes, service by service."""
    verb = "signed" if signed else "would be signed"
    for layer in plan.layers:
        out.say(f"{layer.part.layer} version {layer.part.version} {verb}")
    for one in plan.renewals:
        out.say(f"{one.release.service}: release {one.release.counter} {verb}")
        for change in one.changes:
            out.say(f"  file {harmless(str(change))}")
            if not signed:
                for line in change.lines[2:]:
                    out.say(f"    {harmless(line)}")
    for service, reason in plan.left_out.items():
        out.say(f"{service}: its files change, but it is left out: {harmless(reason)}")
    if plan.layers and not plan.renewals and not plan.left_out:
        out.say("no service's files change")


def plan_document(plan: LayerPlan) -> dict[str, Any]:
    """Return a plan for JSON."""
    return {
        "layers": [{"layer": one.part.layer, "version": one.part.version} for one in plan.layers],
        "releases": [
            {
                "service": one.release.service,
                "release": one.release.counter,
                "base": one.base.counter,
                "files": [change.plain() for change in one.changes],
            }
            for one in plan.renewals
        ],
        "left_out": plan.left_out,
    }


class _Kept(Output):
    """Takes the JSON documents of several roll-outs, to make them one."""

    def __init__(self, model: Output) -> None:
        super().__init__(json_wanted=model.json_wanted, quiet=model.quiet)
        self.documents: list[object] = []

    def document(self, value: object) -> None:
        """Keep a document instead of writing it."""
        self.documents.append(value)


def roll_all(session: Session, state: State, plan: LayerPlan) -> int:
    """Roll the releases out, one after another, or together where they say so; what comes after one that fails is not
    begun. Returns the exit status."""
    out, kept, status = session.out, _Kept(session.out), 0
    left = list(plan.renewals)
    try:
        if out.json_wanted:
            session.out = kept
        while left and status == 0:
            batch = together_with(left[0], left)
            status = roll_together(session, state, batch) if len(batch) > 1 else _roll(session, state, batch[0])
            left = [one for one in left if one not in batch]
    except NebhError as error:
        begun = together_with(left[0], left)
        later = ", ".join(one.release.service for one in left if one not in begun)
        if later and not out.json_wanted:
            out.note(
                f"not begun, after that: {later}; `nebh deploy` or the next change of config takes the layer there"
            )
        if not out.json_wanted:
            raise
        kept.documents.append({"error": error.message, "hint": error.hint})
        status = error.exit_status
    finally:
        session.out = out
    if out.json_wanted:
        out.document({**plan_document(plan), "rolled": kept.documents, "ok": status == 0})
    return status


def _roll(session: Session, state: State, one: Renewal, *, phase: Phase = Phase.RUN) -> int:
    undo = f"nebh rollback {one.release.service} --to {one.base.counter}" if phase is Phase.RUN else ""
    return roll_out(session, state, one.release, replicas=one.replicas, phase=phase, undo=undo)


def together_with(one: Renewal, others: Iterable[Renewal]) -> tuple[Renewal, ...]:
    """Return the renewals that move together with one, itself among them."""
    word = one.release.update.together
    return tuple(other for other in others if other is one or (word and other.release.update.together == word))


def roll_together(session: Session, state: State, batch: tuple[Renewal, ...]) -> int:
    """Prepare every release; when all are, switch one after another; where one fails, bring back those that have
    switched and drop those that have not. Returns the exit status; raises what failed."""
    session.out.note(f"together: {', '.join(one.release.service for one in batch)}")
    try:
        for one in batch:
            status = _roll(session, state, one, phase=Phase.PREPARE)
            if status != 0:
                break
        else:
            for one in batch:
                status = _roll(session, state, one)
                if status != 0:
                    break
    except NebhError:
        _bring_back(session, state, batch)
        raise
    if status != 0:
        _bring_back(session, state, batch)
    return status


def _bring_back(session: Session, state: State, batch: tuple[Renewal, ...]) -> None:
    """To the releases before, whatever each has come to; one that cannot be brought back is said, and the rest is."""
    for one in reversed(batch):
        session.out.note(f"{one.release.service}: back to release {one.base.counter}, as it moves together")
        try:
            roll_out(session, state, one.base, replicas=one.replicas, supersede=True)
        except NebhError as error:
            hint = f"`nebh rollback {one.release.service} --to {one.base.counter}`"
            session.out.note(f"{one.release.service}: cannot be brought back: {harmless(error.message)}; {hint}")


def facts_on(state: State, policy: Policy, name: str) -> NodeFacts:
    """Return the facts of one node that a policy admits: the named one, else the first. Raises NotFound."""
    nodes = nodes_of(state, policy)
    for one in nodes:
        if name in {"", one.name}:
            return one
    known = ", ".join(one.name for one in nodes) or "none"
    what = f"node {name!r}" if name else "a node"
    raise NotFound(f"cannot find {what} that may run {policy.service}", hint=f"its policy admits: {known}")
