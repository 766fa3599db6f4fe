"""Who may call an operation: declared beside it, checked before anything of the request is read."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler

from nebh.controller.core import Core
from nebh.controller.entering import still_known
from nebh.controller.identity import NOBODY, Caller, Unidentified
from nebh.model.api import Who
from nebh.model.errors import Refused

EVERYBODY = (Who.NOBODY, Who.NODE, Who.OPERATOR, Who.CI)
KNOWN = (Who.NODE, Who.OPERATOR)
DEPLOYING = (Who.OPERATOR, Who.CI)
"""A CI key reaches its own services only; the use cases look."""
_SCHEMA = "/schema"


def allow(*who: Who, fails: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return the `opt` of an operation that `who` may call. fails: statuses it may end with, beside 400 for what cannot
    be read and 401 and 403 for who asks."""
    return {"who": who, "fails": fails}


def failures_of(handler: BaseRouteHandler) -> tuple[int, ...]:
    """Return the `fails` of an operation."""
    found = handler.opt.get("fails", ())
    assert isinstance(found, tuple)
    return found


def allowed(handler: BaseRouteHandler) -> tuple[Who, ...]:
    """Return who may call an operation. Raises TypeError when it does not say so."""
    who = handler.opt.get("who")
    if not isinstance(who, tuple):
        if any(path.startswith(_SCHEMA) for path in handler.paths) or handler.opt.get("schema"):
            return EVERYBODY
        raise TypeError(f"{handler} does not say who may call it")
    return who


def make_guard(core: Core) -> Any:
    """Return the guard that finds out who calls and turns away whoever may not."""

    def guard(connection: ASGIConnection[Any, Any, Any, State], handler: BaseRouteHandler) -> None:
        if handler.opt.get("door"):
            return  # it has tokens of its own
        caller = find_caller(core, connection.headers.get("authorization", ""))
        who = handler.opt.get("who", EVERYBODY)
        if caller.kind not in who:
            wanted = " or ".join(one.value for one in who)
            message = f"cannot do this as {caller.kind.value}: it takes a token of {wanted}"
            hint = "POST /v1/nonces, sign the nonce, POST /v1/tokens"
            if caller.kind is Who.NOBODY:
                raise Unidentified(message, again=True, hint=hint)
            raise Refused(message, rule="identity", hint=hint)
        connection.scope["state"]["caller"] = caller

    return guard


def find_caller(core: Core, header: str) -> Caller:
    """Return whom an Authorization header names. Raises Unidentified."""
    if not header:
        return NOBODY
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise Unidentified("cannot accept the authorization: it is no bearer token", again=False)
    caller = core.identity.caller(token)
    if not still_known(core, caller):
        raise Unidentified(
            f"cannot accept the token: the published metadata no longer names its {caller.kind.value}", again=True
        )
    return caller


def get_caller(request: Request[Any, Any, State]) -> Caller:
    """Return whom the guard found."""
    caller = request.scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller
