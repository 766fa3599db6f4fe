"""The controller's HTTP interface, put together."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from nebh.api import door_routes, mail_routes, moving_routes, node_routes, object_routes, operator_routes, public_routes
from nebh.api.access import allowed, get_caller, make_guard
from nebh.api.document import Document
from nebh.controller.core import Core
from nebh.controller.identity import Unidentified
from nebh.model import errors
from nebh.model.api import Who
from nebh.wire import codec, failures

BODY_LIMIT = 96 << 20


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON body is read once, as exactly the shape that the operation takes: `1` is no `true` here."""

    async def json(self) -> Any:
        """Return the body as the type of the handler's `data`. Raises BadInput."""
        field = self.route_handler.parsed_data_field
        assert field is not None
        return codec.decode_loose(await self.body(), field.annotation, what="the request", limit=BODY_LIMIT)


HANDLERS: tuple[HTTPRouteHandler, ...] = (
    *public_routes.HANDLERS,
    *operator_routes.HANDLERS,
    *object_routes.HANDLERS,
    *moving_routes.HANDLERS,
    *node_routes.HANDLERS,
    *door_routes.HANDLERS,
    *mail_routes.HANDLERS,
)
STATUS: dict[type[errors.NebhError], int] = {
    Unidentified: 401,
    errors.BadInput: 400,
    errors.Refused: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Failed: 422,
    errors.Unreachable: 503,
    errors.Unconfirmed: 504,
    errors.Broken: 500,
}


def make_app(core: Core) -> Litestar:
    """Return the application. Raises TypeError when an operation does not say who may call it."""
    for handler in HANDLERS:
        allowed(handler)
    return Litestar(
        route_handlers=(*HANDLERS, door_routes.make_door(core)),
        guards=[make_guard(core)],
        dependencies={
            "core": Provide(lambda: core, sync_to_thread=False),
            "caller": Provide(get_caller, sync_to_thread=False),
        },
        exception_handlers={Exception: _answer_error},
        request_class=StrictRequest,
        openapi_config=OpenAPIConfig(
            title="Nebh controller",
            version=core.version,
            description="What the command line and the nodes speak to. No call here is authority for a node.",
            path="/schema",
            use_handler_docstrings=True,
            render_plugins=[Document(HANDLERS)],
            components=Components(
                security_schemes={"token": SecurityScheme(type="http", scheme="bearer", description="POST /v1/tokens")}
            ),
        ),
        request_max_body_size=BODY_LIMIT,
        logging_config=None,
    )


def access_table() -> tuple[tuple[str, str, tuple[Who, ...]], ...]:
    """Return (method, path, who may call) of every operation, by path."""
    rows = [
        (method, path, allowed(handler))
        for handler in HANDLERS
        for method in sorted(handler.http_methods)
        for path in sorted(handler.paths)
    ]
    return tuple(sorted(rows, key=lambda row: (row[1], row[0])))


def _answer_error(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Turn any error into {error, hint, kind, rule}."""
    if isinstance(error, HTTPException):
        status, known = error.status_code, _explain_http(error)
    elif isinstance(error, errors.NebhError):
        status = next(code for kind, code in STATUS.items() if isinstance(error, kind))
        known = error
    else:
        status = 500
        known = errors.Broken(
            f"cannot answer: {type(error).__name__}", hint="this is a defect of Nebh: please report it"
        )
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, HTTPException):
        headers |= error.headers or {}  # Allow, where the method is not one of the operation's
    return Response(
        codec.encode(failures.to_plain(known)), status_code=status, media_type="application/json", headers=headers
    )


def _explain_http(error: HTTPException) -> errors.NebhError:
    detail = error.detail
    if isinstance(error.extra, list) and error.extra:
        first = error.extra[0]
        if isinstance(first, dict):
            detail = f"{first.get('key', '')}: {first.get('message', '')}"
    kind = errors.NotFound if error.status_code == 404 else errors.BadInput
    return kind(f"cannot read the request: {detail}")
