"""Deployments: the scheduler's choice, signed as one assignment per node, stored until each node has answered."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from nebh.controller.core import Core
from nebh.controller.entering import decode_envelope
from nebh.controller.identity import Caller
from nebh.model.api import Deployment, DeploymentRequest, DeploymentState, NodeReport, Relayed
from nebh.model.errors import BadInput, Conflict, Failed, NotFound, Refused
from nebh.model.policy import Policy
from nebh.model.statement import Assignment, Order, Phase
from nebh.model.trust import TrustedSet
from nebh.signing.statements import sign_statement, verify_statement
from nebh.state import deployments as store
from nebh.state.history import add_history
from nebh.state.nodes import read_nodes
from nebh.state.orders import add_order
from nebh.wire.codec import MAX_INTEGER

_NONCE = re.compile(r"[0-9a-f]{16,64}\Z")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The scheduler's choice: replicas by node id (0 = none here), and why."""

    replicas: dict[str, int]
    reasons: tuple[str, ...]


Schedule = Callable[[TrustedSet, Policy, int, dict[str, tuple[int, NodeReport | None]], int], Choice]
"""(published set, policy, replicas wanted, (last seen, report) by node id, now) -> choice."""


def deploy(core: Core, *, service: str, request: DeploymentRequest, caller: Caller, schedule: Schedule) -> Deployment:
    """Turn a request into assignments; the same nonce again returns the same deployment.

    Raises NotFound (no policy, no such release), Conflict (another is open), BadInput, Failed (no place for it).
    """
    if not _NONCE.match(request.nonce):
        raise BadInput("cannot deploy: the nonce is not 16 to 64 hex digits")
    if not all(0 <= number < MAX_INTEGER for number in (request.counter, request.epoch, request.replicas)):
        raise BadInput("cannot deploy: a number is negative or too large")
    with core.database.begin() as connection:
        known = store.find_deployment(connection, nonce=request.nonce)
        if known is None:
            policy = _check_wish(core, service=service, request=request)
            _make_room(core, connection, service=service, request=request)
            _assign(core, connection, policy=policy, request=request, by=caller.name, schedule=schedule)
            known = store.find_deployment(connection, nonce=request.nonce)
    assert known is not None
    if known.service != service or known.counter != request.counter or known.phase != request.phase:
        raise Conflict("cannot deploy: this nonce was used for another deployment")
    for node_id in known.nodes:
        core.node_bell(node_id).ring()
    return name_nodes(core, known)


def name_nodes(core: Core, deployment: Deployment) -> Deployment:
    """Return a deployment with the names of its nodes in the place of their ids."""
    return replace(deployment, nodes={core.node_name(node): state for node, state in deployment.nodes.items()})


def _check_wish(core: Core, *, service: str, request: DeploymentRequest) -> Policy:
    trusted = core.standing()
    policy = trusted.policies.get(service)
    if policy is None:
        raise NotFound(f"cannot deploy {service}: it has no policy", hint="`nebh status` lists the services")
    if f"release/{service}/{request.counter}.json" not in trusted.releases and request.phase is not Phase.WITHDRAW:
        listed = sorted(one.counter for one in trusted.releases.values() if one.service == service)
        raise NotFound(
            f"cannot deploy {service} release {request.counter}: it is not listed",
            hint=f"listed are {', '.join(map(str, listed)) or 'none'}",
        )
    if request.epoch != policy.epoch:
        raise Conflict(f"cannot deploy {service}: epoch {request.epoch} was asked for, the policy is at {policy.epoch}")
    if request.replicas > policy.replicas.max:
        raise Conflict(
            f"cannot deploy {service}: {request.replicas} replicas, the policy allows at most {policy.replicas.max}",
            hint="raise `replicas.max` in the spec and deploy",
        )
    return policy


def _make_room(core: Core, connection: Connection, *, service: str, request: DeploymentRequest) -> None:
    for other in store.open_deployments(connection, service=service):
        going_back = request.counter < other.counter or request.phase is Phase.WITHDRAW
        if not (request.supersede or going_back or other.phase is Phase.PREPARE):
            raise Conflict(
                f"cannot deploy {service}: release {other.counter} is being deployed by {other.by} "
                f"since {(core.now() - other.at) // 1000} s",
                hint=f"wait for it, or end it: `nebh abort {service}`",
            )
        store.end_deployment(connection, deployment=other.id, state=DeploymentState.SUPERSEDED, at=core.now())


def _assign(
    core: Core, connection: Connection, *, policy: Policy, request: DeploymentRequest, by: str, schedule: Schedule
) -> None:
    now = core.now()
    wanted = 0 if request.phase is Phase.WITHDRAW else request.replicas
    choice = schedule(core.standing(), policy, wanted, read_nodes(connection), now)
    if not choice.replicas:
        raise Failed(f"cannot deploy {policy.service}: no node for it", hint="; ".join(choice.reasons))
    deployment = store.add_deployment(
        connection, service=policy.service, request=request, by=by, at=now, reasons=choice.reasons
    )
    for node_id, replicas in sorted(choice.replicas.items()):
        seq = store.next_seq(connection, node_id=node_id, now=now)
        statement = Assignment(
            cluster_id=policy.cluster_id,
            node_id=node_id,
            seq=seq,
            assignment_id=secrets.token_hex(16),
            nonce=request.nonce,
            service=policy.service,
            epoch=request.epoch,
            counter=request.counter,
            replicas=replicas,
            phase=request.phase if replicas else Phase.WITHDRAW,
        )
        envelope = sign_statement("assignment", statement, core.signer)
        stored = store.StoredAssignment(
            node_id=node_id, seq=seq, service=policy.service, nonce=request.nonce, envelope=envelope
        )
        store.add_assignment(connection, deployment=deployment, assignment=stored)
    detail = f"{request.phase.value} release {request.counter}, {request.replicas} replicas"
    add_history(connection, at=now, by=by, what="deployed", service=policy.service, detail=detail)


def relay_order(core: Core, envelope: str, *, caller: Caller) -> Relayed:
    """Keep an operator's order for the nodes it names; they verify it themselves. Raises BadInput, Refused."""
    trusted = core.standing()
    try:
        data = decode_envelope(envelope)
        order = verify_statement(data, "order", Order, keys=trusted.operator_keys, cluster_id=trusted.nodes.cluster_id)
    except BadInput as error:
        raise Refused(f"cannot relay this order: {error.message}", rule="order.signer", alarm=False) from error
    now = core.now()
    with core.database.begin() as connection:
        number = add_order(
            connection, nonce=order.nonce, nodes=order.nodes, not_after=order.not_after * 1000, envelope=data, at=now
        )
        detail = f"{order.action.value} on {', '.join(map(core.node_name, order.nodes))}"
        add_history(connection, at=now, by=caller.name, what="ordered", service=order.service, detail=detail)
    for node_id in order.nodes:
        core.node_bell(node_id).ring()
    return Relayed(order=number, nodes=tuple(core.node_name(node) for node in order.nodes))
