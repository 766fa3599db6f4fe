"""Operations that need no token: health, nonces, tokens, and the signed metadata, which is not secret."""

from __future__ import annotations

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nebh.api.access import EVERYBODY, allow
from nebh.controller import entering, publishing, viewing
from nebh.controller.core import Core
from nebh.controller.identity import Caller
from nebh.controller.repository import TIMESTAMP
from nebh.model.api import Health, Nonce, Published, PublishRequest, Token, TokenRequest, Who
from nebh.model.errors import NotFound


@get("/v1/health", opt=allow(*EVERYBODY), sync_to_thread=False)
def health(core: NamedDependency[Core]) -> Health:
    """Whether the controller answers, and which snapshot it serves."""
    return viewing.view_health(core)


@post("/v1/nonces", opt=allow(*EVERYBODY), status_code=200, sync_to_thread=False)
def nonces(core: NamedDependency[Core]) -> Nonce:
    """A nonce to sign within a minute."""
    return entering.give_nonce(core)


@post("/v1/tokens", opt=allow(*EVERYBODY, fails=(403, 404)), status_code=200, sync_to_thread=False)
def tokens(core: NamedDependency[Core], data: JSONBody[TokenRequest]) -> Token:
    """A token for 15 minutes, for whoever signs the nonce with an operator's, a CI or a node's transport key."""
    return entering.give_token(core, data)


@get("/v1/metadata/{name:str}", opt=allow(*EVERYBODY, fails=(404,)), sync_to_thread=False)
def metadata(core: NamedDependency[Core], name: FromPath[str]) -> Response[bytes]:
    """A signed metadata file, such as `timestamp.json` or `7.targets.json`."""
    if name == TIMESTAMP and not core.timestamp:
        raise NotFound("cannot find timestamp.json: nothing was published yet")
    return _file(core.timestamp if name == TIMESTAMP else core.repository.metadata(name))


@get("/v1/targets/{path:path}", opt=allow(*EVERYBODY, fails=(404,)), sync_to_thread=False)
def targets(core: NamedDependency[Core], path: FromPath[str]) -> Response[bytes]:
    """A target file by its path, hash prefix included."""
    return _file(core.repository.target(path.lstrip("/")))


@post("/v1/publish", opt=allow(Who.NOBODY, Who.OPERATOR, Who.CI, fails=(403, 409)), status_code=200)
async def publish(
    core: NamedDependency[Core], caller: NamedDependency[Caller], data: JSONBody[PublishRequest]
) -> Published:
    """Replace the published set, if it is still the one that was built upon. Operators only, once there is one; or a service's CI key, with a release: then this controller signs the snapshot, where
    it may."""
    return await publishing.publish(core, data, caller=caller)


def _file(data: JSONBody[bytes]) -> Response[bytes]:
    return Response(data, media_type="application/json")


HANDLERS = (health, nonces, tokens, metadata, targets, publish)
