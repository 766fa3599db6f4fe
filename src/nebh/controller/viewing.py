"""What people and programs may look at: status, nodes, services, events, receipts, history, logs."""

from __future__ import annotations

import asyncio
import base64

from nebh.controller.core import Core, poll
from nebh.controller.deploying import name_nodes
from nebh.model.api import (
    Allocation,
    DeploymentState,
    Events,
    Health,
    History,
    LogPage,
    LogRequest,
    NodeReceipt,
    Nodes,
    NodeView,
    Receipts,
    Releases,
    ReleaseView,
    Services,
    ServiceView,
    Status,
)
from nebh.model.errors import BadInput, Failed, NotFound, Unreachable
from nebh.model.policy import Policy
from nebh.model.statement import Phase
from nebh.state.deployments import deployments_of, newest_deployment
from nebh.state.events import events_after, latest_events
from nebh.state.history import read_history
from nebh.state.nodes import read_nodes
from nebh.state.receipts import receipts_after
from nebh.wire import codec

PAGE = 200
CONNECTED_MS = 90_000
LOG_WAIT = 20.0
LOG_LOOK = 1.0  # only while a person follows


def view_health(core: Core) -> Health:
    """Return that the controller is alive, and what it holds."""
    cluster_id = core.trusted.nodes.cluster_id if core.trusted else ""
    return Health(version=core.version, cluster_id=cluster_id, snapshot=core.snapshot, now=core.now())


def view_nodes(core: Core) -> Nodes:
    """Return the signed nodes with what they last reported."""
    if core.trusted is None:
        return Nodes(nodes=())
    with core.database.begin() as connection:
        seen = read_nodes(connection)
    now = core.now()
    return Nodes(
        nodes=tuple(
            NodeView(
                node_id=node.node_id,
                name=node.name,
                groups=node.groups,
                status=node.status.value,
                last_seen=seen.get(node.node_id, (0, None))[0],
                connected=core.node_bell(node.node_id).waiting > 0
                or now - seen.get(node.node_id, (0, None))[0] < CONNECTED_MS,
                report=seen.get(node.node_id, (0, None))[1],
            )
            for node in sorted(core.trusted.nodes.nodes, key=lambda one: one.name)
        )
    )


def view_services(core: Core) -> Services:
    """Return every service that has a policy."""
    if core.trusted is None:
        return Services(services=())
    nodes = view_nodes(core)
    return Services(
        services=tuple(_view_service(core, policy, nodes) for _, policy in sorted(core.trusted.policies.items()))
    )


def view_service(core: Core, service: str) -> ServiceView:
    """Return one service. Raises NotFound."""
    return _view_service(core, _policy(core, service), view_nodes(core))


def _policy(core: Core, service: str) -> Policy:
    policy = core.trusted.policies.get(service) if core.trusted else None
    if policy is None:
        raise NotFound(f"cannot find service {service[:64]!r}", hint="`nebh status` lists the services")
    return policy


def _view_service(core: Core, policy: Policy, nodes: Nodes) -> ServiceView:
    with core.database.begin() as connection:
        deployment = newest_deployment(connection, service=policy.service)
    return ServiceView(
        service=policy.service,
        state=policy.state.value,
        epoch=policy.epoch,
        policy_version=policy.version,
        releases=tuple(one.counter for one in view_releases(core, policy.service).releases),
        allocations=tuple(
            Allocation(node=node.name, running=running)
            for node in nodes.nodes
            for running in (node.report.running if node.report else ())
            if running.service == policy.service
        ),
        deployment=name_nodes(core, deployment) if deployment else None,
    )


def view_releases(core: Core, service: str) -> Releases:
    """Return a service's listed releases, newest first. Raises NotFound."""
    _policy(core, service)
    found = [one for one in core.standing().releases.values() if one.service == service]
    outcomes, commits = _deployed(core, service)
    return Releases(
        releases=tuple(
            ReleaseView(
                epoch=one.epoch,
                counter=one.counter,
                signed_at=one.signed_at,
                images=one.images,
                built_from=one.built_from,
                outcome=outcomes.get((one.epoch, one.counter), ""),
                committed_at=commits.get((one.epoch, one.counter), 0),
            )
            for one in sorted(found, key=lambda one: (one.epoch, one.counter), reverse=True)
        )
    )


def _deployed(core: Core, service: str) -> tuple[dict[tuple[int, int], str], dict[tuple[int, int], int]]:
    """Return, by (epoch, counter), how the newest deployment stands and when the last one was committed."""
    outcomes: dict[tuple[int, int], str] = {}
    commits: dict[tuple[int, int], int] = {}
    with core.database.begin() as connection:
        for one in deployments_of(connection, service=service):
            key = one.epoch, one.counter
            if one.committed:
                commits[key] = one.ended_at
            if one.phase is not Phase.WITHDRAW:
                prepared = one.phase is Phase.PREPARE and one.state is DeploymentState.DONE and not one.committed
                outcomes[key] = "prepared" if prepared else one.state.value
    return outcomes, commits


def view_allocations(core: Core, service: str) -> tuple[Allocation, ...]:
    """Return where a service runs, as the nodes reported it. Raises NotFound."""
    return view_service(core, service).allocations


def view_status(core: Core) -> Status:
    """Return the cloud at a glance. Raises NotFound before the first publication."""
    trusted = core.standing()
    return Status(
        cluster_id=trusted.nodes.cluster_id,
        name=trusted.settings.name,
        version=core.version,
        now=core.now(),
        snapshot=core.snapshot,
        versions=trusted.versions,
        expires=trusted.expires,
        nodes=view_nodes(core).nodes,
        services=view_services(core).services,
    )


async def view_events(core: Core, *, after: int, service: str, wait: float) -> Events:
    """Return events after a cursor, waiting for the first at most `wait` s; after -1: the newest 50."""
    if after < 0:
        with core.database.begin() as connection:
            after = latest_events(connection, service=service, limit=50)
    answer = Events(cursor=after, events=())

    def look() -> bool:
        nonlocal answer
        with core.database.begin() as connection:
            page = events_after(connection, cursor=after, service=service, limit=PAGE)
        answer = Events(cursor=page[-1][0] if page else after, events=tuple(event for _, event in page))
        return bool(page)

    await poll(core.events, wait, look)
    return answer


async def view_receipts(core: Core, *, nonce: str, after: int, wait: float) -> Receipts:
    """Return receipts after a cursor, untouched, waiting for the first at most `wait` s; "" = of every nonce."""
    answer = Receipts(cursor=after, receipts=())

    def look() -> bool:
        nonlocal answer
        with core.database.begin() as connection:
            page = receipts_after(connection, cursor=after, nonce=nonce, limit=PAGE)
        answer = Receipts(
            cursor=page[-1].id if page else after,
            receipts=tuple(
                NodeReceipt(
                    cursor=one.id,
                    node_id=one.node_id,
                    node=core.node_name(one.node_id),
                    envelope=base64.b64encode(one.envelope).decode(),
                )
                for one in page
            ),
        )
        return bool(page)

    await poll(core.receipts, wait, look)
    return answer


def view_history(core: Core, *, service: str, before: int, limit: int) -> History:
    """Return what was asked of this controller, newest first."""
    if not 1 <= limit <= PAGE:
        raise BadInput(f"cannot list {limit} entries: 1 to {PAGE} are allowed")
    with core.database.begin() as connection:
        return History(entries=read_history(connection, service=service, before=before, limit=limit))


async def view_logs(
    core: Core, *, service: str, node: str, instance: str, cursor: str, limit: int, tail: int, wait: float
) -> LogPage:
    """Return log lines of a service, relayed through the poll of a node that runs it ("" = the first that does).
    wait: s to look again for a first line. Raises BadInput, NotFound, Unreachable, Failed."""
    node_id = _log_node(core, service=service, node=node)
    loop = asyncio.get_running_loop()
    end = loop.time() + wait
    while True:
        page = await _ask_logs(core, node_id, service=service, instance=instance, cursor=cursor, limit=limit, tail=tail)
        if page.lines or loop.time() + LOG_LOOK >= end:
            return page
        cursor = page.cursor
        await asyncio.sleep(LOG_LOOK)


async def _ask_logs(
    core: Core, node_id: str, *, service: str, instance: str, cursor: str, limit: int, tail: int
) -> LogPage:
    desk = core.logs
    desk.number += 1
    cursors = codec.decode_loose(cursor.encode(), dict[str, str], what="the cursor") if cursor else {}
    request = LogRequest(
        id=desk.number, service=service, instance=instance, cursors=cursors, limit=limit, tail=0 if cursor else tail
    )
    desk.waiting[node_id].append(request)
    desk.answers[(node_id, request.id)] = future = asyncio.get_running_loop().create_future()
    core.node_bell(node_id).ring()
    try:
        async with asyncio.timeout(LOG_WAIT):
            reply = await future
    except (TimeoutError, asyncio.CancelledError):
        raise Unreachable(f"cannot read logs of {service}: the node did not answer", hint="is its agent up?") from None
    finally:
        del desk.answers[(node_id, request.id)]
    if reply.error:
        raise Failed(f"cannot read logs of {service}: {reply.error}")
    return LogPage(cursor=codec.encode(reply.cursors).decode(), lines=reply.lines, lost=reply.lost)


def _log_node(core: Core, *, service: str, node: str) -> str:
    _policy(core, service)
    running = {one.node for one in view_allocations(core, service)}
    nodes = [one for one in view_nodes(core).nodes if one.status == "active"]
    wanted = [one for one in nodes if (one.name == node if node else one.name in running)] or (
        nodes[:1] if len(nodes) == 1 and not node else []
    )
    if not wanted:
        raise NotFound(f"cannot read logs of {service}: no node runs it", hint="`nebh status` shows where it runs")
    return wanted[0].node_id
