"""Operations for operators: look, deploy, order."""

from __future__ import annotations

from typing import Annotated

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from nebh.api.access import DEPLOYING, allow
from nebh.controller import asking, deploying, viewing
from nebh.controller.core import Core
from nebh.controller.entering import check_service, ci_services
from nebh.controller.identity import Caller
from nebh.controller.placing import schedule
from nebh.model.api import (
    Deployment,
    DeploymentRequest,
    Events,
    History,
    LogPage,
    Nodes,
    Receipts,
    Relayed,
    Releases,
    Sealed,
    Services,
    ServiceView,
    Signed,
    Status,
    Who,
)

OPERATOR = allow(Who.OPERATOR, fails=(404,))
FOLLOWING = allow(*DEPLOYING, fails=(404,))
"""404: no such service, or nothing was published yet."""
Cursor = Annotated[int, QueryParameter(ge=-1, lt=2**53)]
Wait = Annotated[int, QueryParameter(ge=0, le=60_000, description="ms to wait for the first answer")]
Limit = Annotated[int, QueryParameter(ge=1, le=200)]
Text = Annotated[str, QueryParameter(max_length=200)]


@get("/v1/status", opt=OPERATOR, sync_to_thread=False)
def status(core: NamedDependency[Core]) -> Status:
    """The cloud at a glance."""
    return viewing.view_status(core)


@get("/v1/nodes", opt=OPERATOR, sync_to_thread=False)
def nodes(core: NamedDependency[Core]) -> Nodes:
    """The signed nodes with what they last reported."""
    return viewing.view_nodes(core)


@get("/v1/services", opt=OPERATOR, sync_to_thread=False)
def services(core: NamedDependency[Core]) -> Services:
    """Every service that has a policy."""
    return viewing.view_services(core)


@get("/v1/services/{service:str}", opt=FOLLOWING, sync_to_thread=False)
def service_view(core: NamedDependency[Core], caller: NamedDependency[Caller], service: FromPath[str]) -> ServiceView:
    """One service: its releases, where it runs, its newest deployment."""
    check_service(core, caller, service)
    return viewing.view_service(core, service)


@get("/v1/services/{service:str}/releases", opt=OPERATOR, sync_to_thread=False)
def releases(core: NamedDependency[Core], service: FromPath[str]) -> Releases:
    """A service's listed releases, newest first."""
    return viewing.view_releases(core, service)


@post(
    "/v1/services/{service:str}/deployments",
    opt=allow(*DEPLOYING, fails=(404, 409, 422)),
    status_code=200,
    sync_to_thread=False,
)
def deployments(
    core: NamedDependency[Core],
    caller: NamedDependency[Caller],
    service: FromPath[str],
    data: JSONBody[DeploymentRequest],
) -> Deployment:
    """Choose nodes, sign an assignment for each, wake them. The same nonce again gives the same answer."""
    check_service(core, caller, service)
    return deploying.deploy(core, service=service, request=data, caller=caller, schedule=schedule)


@post("/v1/orders", opt=OPERATOR, status_code=200, sync_to_thread=False)
def orders(core: NamedDependency[Core], caller: NamedDependency[Caller], data: JSONBody[Signed]) -> Relayed:
    """Relay an operator's signed order to the nodes it names."""
    return deploying.relay_order(core, data.envelope, caller=caller)


@post("/v1/questions", opt=allow(Who.OPERATOR, fails=(404, 422, 503)), status_code=200)
async def questions(core: NamedDependency[Core], data: JSONBody[Signed]) -> Sealed:
    """Relay an operator's signed question about data to its node; the answer is sealed for whoever asked."""
    return await asking.relay_question(core, data.envelope)


@post("/v1/hints", opt=OPERATOR, status_code=204, sync_to_thread=False)
def hints(core: NamedDependency[Core]) -> None:
    """Wake every node, so that it looks at the published set now."""
    core.wake_nodes()


@get("/v1/events", opt=FOLLOWING)
async def events(
    core: NamedDependency[Core],
    caller: NamedDependency[Caller],
    after: Cursor = -1,
    service: Text = "",
    wait: Wait = 0,
) -> Events:
    """Events after a cursor, oldest first; -1 begins 50 before the newest. A long poll when `wait` is given. A CI key
    sees those of its own services."""
    found = await viewing.view_events(core, after=after, service=service, wait=wait / 1000)
    if caller.kind is not Who.CI:
        return found
    mine = ci_services(core, caller.key)
    return Events(cursor=found.cursor, events=tuple(one for one in found.events if one.service in mine))


@get("/v1/receipts", opt=FOLLOWING)
async def receipts(core: NamedDependency[Core], nonce: Text = "", after: Cursor = 0, wait: Wait = 0) -> Receipts:
    """Nodes' signed receipts after a cursor, untouched. A long poll when `wait` is given."""
    return await viewing.view_receipts(core, nonce=nonce, after=after, wait=wait / 1000)


@get("/v1/history", opt=OPERATOR, sync_to_thread=False)
def history(core: NamedDependency[Core], service: Text = "", before: Cursor = 0, limit: Limit = 50) -> History:
    """What was asked of this controller, newest first."""
    return viewing.view_history(core, service=service, before=before, limit=limit)


@get("/v1/services/{service:str}/logs", opt=allow(Who.OPERATOR, fails=(404, 422, 503)))
async def logs(
    core: NamedDependency[Core],
    service: FromPath[str],
    node: Text = "",
    instance: Text = "",
    cursor: Annotated[str, QueryParameter(max_length=8000)] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 500,
    tail: Annotated[int, QueryParameter(ge=0, le=1000)] = 0,
    follow: Annotated[int, QueryParameter(ge=0, le=30_000, description="ms to wait for a line")] = 0,
) -> LogPage:
    """Log lines, relayed through the poll of a node that runs the service."""
    return await viewing.view_logs(
        core,
        service=service,
        node=node,
        instance=instance,
        cursor=cursor,
        limit=limit,
        tail=tail,
        wait=follow / 1000,
    )


HANDLERS = (
    status,
    nodes,
    services,
    service_view,
    releases,
    deployments,
    orders,
    questions,
    hints,
    events,
    receipts,
    history,
    logs,
)
