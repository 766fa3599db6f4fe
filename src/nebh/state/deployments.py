"""Deployments and the signed assignments they became."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from nebh.model.api import Deployment, DeploymentRequest, DeploymentState
from nebh.model.statement import Outcome, Phase
from nebh.state.tables import assignments, deployments

ENDINGS: dict[Outcome, DeploymentState] = {
    Outcome.COMMITTED: DeploymentState.DONE,
    Outcome.STOPPED: DeploymentState.DONE,
    Outcome.REMOVED: DeploymentState.DONE,
    Outcome.ROLLED_BACK: DeploymentState.ROLLED_BACK,
    Outcome.REFUSED: DeploymentState.REFUSED,
    Outcome.FAILED: DeploymentState.FAILED,
}


@dataclass(frozen=True, kw_only=True)
class StoredAssignment:
    """A signed assignment as it waits for its node."""

    node_id: str
    seq: int
    service: str
    nonce: str
    envelope: bytes


def find_deployment(connection: Connection, *, nonce: str) -> Deployment | None:
    """Return the deployment that was asked for with `nonce`."""
    row = connection.execute(select(deployments).where(deployments.c.nonce == nonce)).first()
    return _deployment(connection, row) if row else None


def newest_deployment(connection: Connection, *, service: str) -> Deployment | None:
    """Return the newest deployment of a service."""
    query = select(deployments).where(deployments.c.service == service).order_by(deployments.c.id.desc()).limit(1)
    row = connection.execute(query).first()
    return _deployment(connection, row) if row else None


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A deployment in short. committed: every node that was asked has committed it."""

    epoch: int
    counter: int
    phase: Phase
    state: DeploymentState
    ended_at: int
    committed: bool


def deployments_of(connection: Connection, *, service: str) -> tuple[Tried, ...]:
    """Return every deployment of a service, oldest first."""
    others = assignments.c.deployment == deployments.c.id, assignments.c.outcome != Outcome.COMMITTED.value
    open_ones = select(func.count()).select_from(assignments).where(*others).scalar_subquery()
    query = select(deployments, open_ones.label("others")).where(deployments.c.service == service)
    return tuple(
        Tried(
            epoch=row.epoch,
            counter=row.counter,
            phase=Phase(row.phase),
            state=DeploymentState(row.state),
            ended_at=row.ended_at,
            committed=row.others == 0 and row.phase != Phase.WITHDRAW and bool(row.ended_at),
        )
        for row in connection.execute(query.order_by(deployments.c.id))
    )


def open_deployments(connection: Connection, *, service: str) -> tuple[Deployment, ...]:
    """Return the deployments of a service whose nodes have not all ended."""
    query = select(deployments).where(deployments.c.service == service, deployments.c.state == DeploymentState.OPEN)
    return tuple(_deployment(connection, row) for row in connection.execute(query).all())


def add_deployment(
    connection: Connection, *, service: str, request: DeploymentRequest, by: str, at: int, reasons: tuple[str, ...]
) -> int:
    """Store an open deployment; returns its id."""
    done = connection.execute(
        insert(deployments).values(
            service=service,
            epoch=request.epoch,
            counter=request.counter,
            replicas=request.replicas,
            phase=request.phase.value,
            nonce=request.nonce,
            at=at,
            by=by,
            state=DeploymentState.OPEN.value,
            ended_at=0,
            reasons=json.dumps(reasons),
        )
    )
    return int(done.inserted_primary_key[0]) if done.inserted_primary_key else 0


def end_deployment(connection: Connection, *, deployment: int, state: DeploymentState, at: int) -> None:
    """Close a deployment."""
    connection.execute(update(deployments).where(deployments.c.id == deployment).values(state=state.value, ended_at=at))


def next_seq(connection: Connection, *, node_id: str, now: int) -> int:
    """Return the number for a node's next assignment: above every one before, and at least `now`, so that numbers go
    on rising even when this database was lost and made anew."""
    newest = connection.execute(select(func.max(assignments.c.seq)).where(assignments.c.node_id == node_id)).scalar()
    return max(int(newest or 0) + 1, now)


def add_assignment(connection: Connection, *, deployment: int, assignment: StoredAssignment) -> None:
    """Store an assignment for its node to fetch."""
    connection.execute(
        insert(assignments).values(
            node_id=assignment.node_id,
            seq=assignment.seq,
            deployment=deployment,
            service=assignment.service,
            nonce=assignment.nonce,
            envelope=assignment.envelope,
            outcome="",
        )
    )


def waiting_assignments(connection: Connection, *, node_id: str, after: int) -> tuple[StoredAssignment, ...]:
    """Return a node's assignments newer than `after` that it has not answered and that no later one of the same
    service replaced, oldest first."""
    query = (
        select(assignments)
        .where(assignments.c.node_id == node_id, assignments.c.seq > after)
        .order_by(assignments.c.seq)
    )
    newest: dict[str, StoredAssignment] = {}
    for row in connection.execute(query):
        newest.pop(row.service, None)
        if not row.outcome:
            newest[row.service] = StoredAssignment(
                node_id=row.node_id, seq=row.seq, service=row.service, nonce=row.nonce, envelope=bytes(row.envelope)
            )
    return tuple(newest.values())


def record_outcome(connection: Connection, *, node_id: str, nonce: str, outcome: Outcome, at: int) -> bool:
    """Note what a node's receipt says of `nonce`; closes the deployment when every node has ended. True: one of ours."""
    row = connection.execute(
        select(assignments).where(assignments.c.node_id == node_id, assignments.c.nonce == nonce)
    ).first()
    if row is None:
        return False
    connection.execute(
        update(assignments)
        .where(assignments.c.node_id == node_id, assignments.c.nonce == nonce)
        .values(outcome=outcome.value)
    )
    _close_if_ended(connection, deployment=row.deployment, at=at)
    return True


def _close_if_ended(connection: Connection, *, deployment: int, at: int) -> None:
    row = connection.execute(select(deployments).where(deployments.c.id == deployment)).one()
    if row.state != DeploymentState.OPEN:
        return
    found = [
        Outcome(text) if text else None
        for text in connection.execute(
            select(assignments.c.outcome).where(assignments.c.deployment == deployment)
        ).scalars()
    ]
    endings = {**ENDINGS, Outcome.PREPARED: DeploymentState.DONE} if row.phase == Phase.PREPARE else ENDINGS
    states = [endings.get(outcome) if outcome else None for outcome in found]
    if None in states:
        return
    worst = next((state for state in states if state not in (None, DeploymentState.DONE)), DeploymentState.DONE)
    end_deployment(connection, deployment=deployment, state=worst or DeploymentState.DONE, at=at)


def prune_assignments(connection: Connection, *, keep_after: int) -> None:
    """Forget answered assignments with a seq below `keep_after`; each node's newest stays, numbers go on from it."""
    newest = select(func.max(assignments.c.seq)).group_by(assignments.c.node_id)
    connection.execute(
        assignments.delete().where(
            assignments.c.seq < keep_after, assignments.c.outcome != "", assignments.c.seq.not_in(newest)
        )
    )


def _deployment(connection: Connection, row: Row[Any]) -> Deployment:
    nodes = connection.execute(
        select(assignments.c.node_id, assignments.c.outcome).where(assignments.c.deployment == row.id)
    ).all()
    return Deployment(
        id=row.id,
        service=row.service,
        epoch=row.epoch,
        counter=row.counter,
        replicas=row.replicas,
        phase=Phase(row.phase),
        nonce=row.nonce,
        at=row.at,
        by=row.by,
        state=DeploymentState(row.state),
        ended_at=row.ended_at,
        nodes={row.node_id: row.outcome for row in nodes},
        reasons=tuple(json.loads(row.reasons)),
    )
