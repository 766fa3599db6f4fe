"""Who may come to the registry door, what was brought there, and the door itself (`api.door`)."""

from __future__ import annotations

from typing import Any

from litestar import asgi, delete, get, post
from litestar.di import NamedDependency
from litestar.handlers import ASGIRouteHandler
from litestar.params import FromPath, JSONBody
from litestar.types import Receive, Scope, Send

from nebh.api.access import EVERYBODY, allow
from nebh.api.door import DoorApp
from nebh.controller.core import Core
from nebh.controller.identity import Caller
from nebh.model.api import DoorImages, DoorSecret, DoorTokenRequest, DoorTokens, Who

OPERATOR = allow(Who.OPERATOR)


@post("/v1/door/tokens", opt=OPERATOR, status_code=200, sync_to_thread=True)
def make_token(
    core: NamedDependency[Core], caller: NamedDependency[Caller], data: JSONBody[DoorTokenRequest]
) -> DoorSecret:
    """A token to push to, or pull from, some repositories of the registry door. Its secret is shown this once."""
    return core.door.make_token(data, caller=caller, now=core.now())


@get("/v1/door/tokens", opt=OPERATOR, sync_to_thread=True)
def list_tokens(core: NamedDependency[Core]) -> DoorTokens:
    """The tokens of the registry door."""
    return core.door.tokens()


@delete("/v1/door/tokens/{number:str}", opt=OPERATOR, status_code=200, sync_to_thread=True)
def drop_token(core: NamedDependency[Core], number: FromPath[str]) -> DoorTokens:
    """End a token, if it is there; the answer is what is left."""
    return core.door.drop_token(number)


@get("/v1/door/images", opt=OPERATOR, sync_to_thread=True)
def list_images(core: NamedDependency[Core]) -> DoorImages:
    """What was pushed, newest first. Nothing of it runs before a release that names it is signed."""
    return core.door.images()


def make_door(core: Core) -> ASGIRouteHandler:
    """Return the handler of everything below /v2. It looks at who comes itself: clients speak Basic there."""
    app: Any = DoorApp(core)

    @asgi("/v2", is_mount=True, copy_scope=True, opt={**allow(*EVERYBODY), "door": True})
    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        """The registry door."""
        await app(scope, receive, send)

    return door


HANDLERS = (make_token, list_tokens, drop_token, list_images)
