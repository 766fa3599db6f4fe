"""What changes a running service without a new release: rollback, stop, start, restart, scale, pin, unpin."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nebh.cli.output import Output
from nebh.cli.rollout import Ask, carry_out, patience_for, roll_out
from nebh.cli.session import Session, now_seconds
from nebh.model import api
from nebh.model.errors import BadInput, NotFound
from nebh.model.policy import Policy, ServiceState
from nebh.model.statement import Phase

if TYPE_CHECKING:
    from nebh.model.release import Release
    from nebh.signing.repository import State
    from nebh.signing.wish import Wish


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A service as nodes report it. counter: its committed release, 0 = none; replicas: over all nodes; deploying: a
    deployment or transaction is open."""

    view: api.ServiceView
    counter: int
    replicas: int
    deploying: bool


def standing_of(session: Session, service: str) -> Standing:
    """Return how a service stands. Raises NotFound."""
    view = session.client.service(service)
    last = view.deployment
    opened = last is not None and last.state is api.DeploymentState.OPEN
    return Standing(
        view=view,
        counter=max((one.running.counter for one in view.allocations), default=0),
        replicas=sum(one.running.replicas for one in view.allocations),
        deploying=opened or any(one.running.transaction for one in view.allocations),
    )


def policy_of(state: State, service: str) -> Policy:
    """Return the signed policy of a service. Raises NotFound."""
    policy = state.trusted.policies.get(service)
    if policy is None:
        known = ", ".join(sorted(state.trusted.policies)) or "none"
        raise NotFound(f"cannot find the service {service!r} in what is signed", hint=f"signed are: {known}")
    return policy


def release_of(state: State, service: str, counter: int) -> Release | None:
    """Return a listed release that the state was read with, None when it is not listed."""
    return state.trusted.releases.get(f"release/{service}/{counter}.json")


def wanted_path(service: str, counter: int) -> tuple[str, ...]:
    """Return what `Session.state` is to read for one release."""
    return (f"release/{service}/{counter}.json",)


def rollback(options: argparse.Namespace, out: Output) -> int:
    """Make an older release the running one, or end the open deployment by going back."""
    session = Session(options, out)
    standing = standing_of(session, options.service)
    if options.data == "restore":
        from nebh.cli.volumes import restore

        held = standing.deploying and not options.to
        return restore(session, options, out, counter=0 if held else options.to or earlier_release(session, standing))
    counter = options.to or earlier_release(session, standing)
    if counter == standing.counter and not standing.deploying:
        raise BadInput(
            f"cannot roll back {options.service}: release {counter} is the one that runs",
            hint=f"`nebh releases {options.service}` shows the others",
        )
    state = session.state(wanted=wanted_path(options.service, counter))
    policy = policy_of(state, options.service)
    release = release_of(state, options.service, counter)
    if release is None:
        raise NotFound(
            f"cannot roll back {options.service} to release {counter}: it is not listed",
            hint=f"`nebh releases {options.service}` shows what is; on a node that kept it, root may run "
            f"`nebh-executor rollback {options.service} --to {counter}`",
        )
    out.note(f"{options.service}: release {standing.counter or 'none'} -> {counter}")
    forward = standing.counter if standing.counter and standing.counter != counter else 0
    return roll_out(
        session,
        state,
        release,
        replicas=_replicas(standing, policy),
        supersede=True,
        undo=f"nebh rollback {options.service} --to {forward}" if forward else "",
    )


def earlier_release(session: Session, standing: Standing) -> int:
    """Return the release to go back to when none was named."""
    service, last = standing.view.service, standing.view.deployment
    if standing.deploying and (last is None or last.counter != standing.counter):
        if standing.counter:
            return standing.counter
        raise NotFound(
            f"cannot roll back {service}: its first deployment is under way, there is nothing to go back to",
            hint=f"`nebh abort {service}` ends it",
        )
    earlier = [
        one.counter
        for one in session.client.releases(service)
        if one.committed_at and one.epoch == standing.view.epoch and one.counter < standing.counter
    ]
    if not earlier:
        raise NotFound(
            f"cannot roll back {service}: no earlier release was committed",
            hint=f"`nebh releases {service}` lists them; --to N names one",
        )
    return max(earlier)


def _replicas(standing: Standing, policy: Policy) -> int:
    """Return how many replicas to ask for: as many as run, within the policy; else what its spec wished."""
    if not standing.replicas:
        return policy.replicas.count
    return min(max(standing.replicas, policy.replicas.min), policy.replicas.max)


def _set_state(session: Session, service: str, wanted: ServiceState, *, read: tuple[str, ...] = ()) -> State:
    """Sign and publish a policy that says stopped or running, unless it says so already."""

    def make(state: State) -> Wish | None:
        from nebh.planning.release import revise_policy
        from nebh.signing.wish import Wish

        old = policy_of(state, service)
        new = revise_policy(old, now=now_seconds(), state=wanted)
        return None if new == old else Wish(policies=(new,))

    return session.publish(make, wanted=read)


def stop(options: argparse.Namespace, out: Output) -> int:
    """Sign a policy that says stopped, and wait for the nodes to confirm."""
    session = Session(options, out)
    standing = standing_of(session, options.service)
    events_after = session.client.events(wait=0).cursor
    was_stopped = policy_of(session.state(), options.service).state is ServiceState.STOPPED
    state = _set_state(session, options.service, ServiceState.STOPPED)
    if not standing.deploying and (not standing.counter or (was_stopped and not standing.replicas)):
        return _nothing_ran(out, options.service)
    ask = Ask(
        service=options.service,
        counter=standing.counter,
        epoch=policy_of(state, options.service).epoch,
        replicas=0,
        what=f"stopping {options.service}",
        phase=Phase.WITHDRAW,
        supersede=True,
        undo=f"nebh start {options.service}",
    )
    return carry_out(session, state, ask, events_after=events_after)


def _nothing_ran(out: Output, service: str) -> int:
    if out.json_wanted:
        out.document({"service": service, "ok": True, "receipts": [], "undo": f"nebh start {service}"})
    else:
        out.say(f"{service} is stopped by its policy; it runs nowhere")
    return 0


def start(options: argparse.Namespace, out: Output) -> int:
    """Sign a policy that says running, and have the release that ran last run again."""
    session = Session(options, out)
    standing = standing_of(session, options.service)
    counter = standing.counter or max(
        (one.counter for one in session.client.releases(options.service) if one.committed_at),
        default=max(standing.view.releases, default=0),
    )
    if not counter:
        raise NotFound(f"cannot start {options.service}: it has no release", hint="`nebh deploy SPEC.yaml`")
    events_after = session.client.events(wait=0).cursor
    read = wanted_path(options.service, counter)
    state = _set_state(session, options.service, ServiceState.RUNNING, read=read)
    policy = policy_of(state, options.service)
    ask = Ask(
        service=options.service,
        counter=counter,
        epoch=policy.epoch,
        replicas=_replicas(standing, policy),
        what=f"starting release {counter} of {options.service}",
        undo=f"nebh stop {options.service}",
        patience=patience_for(release_of(state, options.service, counter)),
    )
    return carry_out(session, state, ask, events_after=events_after)


def restart(options: argparse.Namespace, out: Output) -> int:
    """Put new instances of the running release in the place of those that run."""
    session = Session(options, out)
    standing, state, policy = _running(session, options.service)
    ask = Ask(
        service=options.service,
        counter=standing.counter,
        epoch=policy.epoch,
        replicas=_replicas(standing, policy),
        what=f"restarting {options.service}",
        phase=Phase.RESTART,
        patience=patience_for(release_of(state, options.service, standing.counter)),
    )
    return carry_out(session, state, ask)


def scale(options: argparse.Namespace, out: Output) -> int:
    """Change how many replicas run, within what the policy allows."""
    session = Session(options, out)
    standing, state, policy = _running(session, options.service)
    _check_bounds(state, policy, options.replicas)
    ask = Ask(
        service=options.service,
        counter=standing.counter,
        epoch=policy.epoch,
        replicas=options.replicas,
        what=f"{options.replicas} replicas of {options.service}",
        undo=f"nebh scale {options.service} {standing.replicas}" if standing.replicas else "",
        patience=patience_for(release_of(state, options.service, standing.counter)),
    )
    return carry_out(session, state, ask)


def _running(session: Session, service: str) -> tuple[Standing, State, Policy]:
    standing = standing_of(session, service)
    state = session.state(wanted=wanted_path(service, standing.counter))
    policy = policy_of(state, service)
    if policy.state is ServiceState.STOPPED or not standing.counter:
        why = "its policy says stopped" if policy.state is ServiceState.STOPPED else "no release of it runs"
        hint = f"`nebh start {service}`" if policy.state is ServiceState.STOPPED else "`nebh deploy SPEC.yaml`"
        raise BadInput(f"cannot change what runs of {service}: {why}", hint=hint)
    return standing, state, policy


def _check_bounds(state: State, policy: Policy, wanted: int) -> None:
    from nebh.model.node import NodeStatus
    from nebh.planning.schedule import is_placed_on

    if wanted == 0:
        raise BadInput(f"cannot scale {policy.service} to 0", hint=f"`nebh stop {policy.service}`")
    bounds = policy.replicas
    if not bounds.min <= wanted <= bounds.max:
        which = "replicas.max" if wanted > bounds.max else "replicas.min"
        raise BadInput(
            f"cannot scale {policy.service} to {wanted}: its policy allows {bounds.min} to {bounds.max} ({which})",
            hint=f"change {which} in its spec and `nebh deploy` it: that signs a new policy",
        )
    nodes = [one for one in state.trusted.nodes.nodes if one.status is NodeStatus.ACTIVE and is_placed_on(policy, one)]
    room = len(nodes) * policy.placement.max_per_node
    if wanted > room:
        raise BadInput(
            f"cannot scale {policy.service} to {wanted}: {len(nodes)} nodes of its placement hold "
            f"{policy.placement.max_per_node} each (placement.max_per_node)",
            hint="raise max_per_node in its spec and deploy, or add a node",
        )


def pin(options: argparse.Namespace, out: Output) -> int:
    """Keep a release for going back to, however old it gets."""
    return _set_pin(options, out, pinned=True)


def unpin(options: argparse.Namespace, out: Output) -> int:
    """Let a release age again like any other."""
    return _set_pin(options, out, pinned=False)


def _set_pin(options: argparse.Namespace, out: Output, *, pinned: bool) -> int:
    from nebh.planning.release import revise_policy
    from nebh.signing.wish import Wish, listed_counters

    service, counter = options.service, options.counter

    def make(state: State) -> Wish | None:
        old = policy_of(state, service)
        if pinned and counter not in listed_counters(state, service):
            raise NotFound(
                f"cannot pin release {counter} of {service}: it is not listed",
                hint=f"`nebh releases {service}` shows what is",
            )
        pins = {*old.pins, counter} if pinned else {*old.pins} - {counter}
        new = revise_policy(old, now=now_seconds(), pins=tuple(sorted(pins)))
        return None if new == old else Wish(policies=(new,))

    session = Session(options, out)
    standing = standing_of(session, service)
    state = session.publish(make)
    back = f"nebh {'unpin' if pinned else 'pin'} {service} {counter}"
    more = {"release": counter, "pinned": pinned}
    out.note(f"release {counter} of {service} is {'pinned' if pinned else 'no longer pinned'}")
    if session.snapshot and _can_be_asked(standing, policy_of(state, service)):
        # What runs is asked for once more: the node answers that it is so already, by a receipt that names the new set.
        ask = Ask(
            service=service,
            counter=standing.counter,
            epoch=standing.view.epoch,
            replicas=standing.replicas,
            what=f"the {'pin' if pinned else 'unpinning'} of release {counter} of {service}",
            undo=back,
        )
        return carry_out(session, state, ask, more=more)
    if out.json_wanted:
        out.document({"service": service, **more, "ok": True, "receipts": [], "undo": back})
    else:
        out.say("nodes hear of it when they look next: no receipt was asked for")
        out.say(f"undo with: {back}")
    return 0


def _can_be_asked(standing: Standing, policy: Policy) -> bool:
    """Tell whether asking for what runs would change nothing."""
    return (
        policy.state is ServiceState.RUNNING
        and not standing.deploying
        and standing.counter in standing.view.releases
        and _replicas(standing, policy) == standing.replicas
    )
