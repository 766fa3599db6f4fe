"""The registry door: /v2, as the OCI distribution specification 1.1 has it, for push and for pull of what was pushed.

It is an ASGI application of its own below the controller's: its paths, headers and statuses are the specification's, not
ours, so the OpenAPI document leaves it out. ROUTES is what it answers; errors are ours, as JSON, which clients print.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from nebh.api.access import find_caller
from nebh.api.object_routes import from_loop
from nebh.controller.core import Core
from nebh.controller.door import MANIFEST_LIMIT, Door, Entrance, OutOfRange, entrance_of, in_scope
from nebh.controller.entering import ci_services
from nebh.controller.identity import Caller, Unidentified
from nebh.model import errors
from nebh.model.event import Severity
from nebh.wire import codec, failures

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_STATUS: Final[dict[type[errors.NebhError], int]] = {
    Unidentified: 401,
    OutOfRange: 416,
    errors.BadInput: 400,
    errors.Refused: 403,
    errors.NotFound: 404,
    errors.Conflict: 429,
    errors.Failed: 507,
    errors.Unreachable: 400,
}
_RANGE: Final = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})\Z")
_CONTENT_RANGE: Final = re.compile(r"(?:bytes )?([0-9]{1,15})-([0-9]{1,15})\Z")


@dataclass(frozen=True)
class Call:
    """One request: query values and headers (lower-case names) by name, the last of each."""

    core: Core
    who: Entrance
    repository: str
    rest: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Callable[[], AsyncIterator[bytes]]

    @property
    def door(self) -> Door:
        """The door."""
        return self.core.door

    @property
    def now(self) -> int:
        """Unix ms."""
        return self.core.now()


@dataclass(frozen=True)
class Answer:
    """chunks are made in worker threads."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunks: Iterator[bytes] | None = None


async def _off(work: Callable[..., Any], *words: Any, **more: Any) -> Any:
    """Run in a worker thread."""
    return await asyncio.to_thread(work, *words, **more)


async def ping(_: Call) -> Answer:
    """Whether this is a registry that lets the caller in."""
    return Answer(200, body=b"{}")


async def list_tags(call: Call) -> Answer:
    """The tags of a repository."""
    tags = await _off(call.door.tags, call.repository)
    after, most = call.query.get("last", ""), call.query.get("n", "")
    tags = [tag for tag in tags if tag > after][: int(most) if most.isdigit() and len(most) < 9 else None]
    return Answer(200, body=codec.encode({"name": call.repository, "tags": tags}))


async def head_blob(call: Call) -> Answer:
    """Whether a blob is here."""
    size = await _off(call.door.has_blob, call.repository, call.rest)
    return Answer(200, {**_blob_headers(call.rest), "content-length": str(size)})


async def get_blob(call: Call) -> Answer:
    """A blob, or a range of it."""
    size = await _off(call.door.has_blob, call.repository, call.rest)
    found = _RANGE.match(call.headers.get("range", ""))
    begin, end = (int(found[1]), int(found[2] or size - 1) + 1) if found else (0, size)
    if found and not 0 <= begin < min(end, size):
        raise OutOfRange(f"cannot read bytes {found[0][6:]} of {size}")
    end = min(end, size)
    headers = {**_blob_headers(call.rest), "content-length": str(end - begin)}
    if found:
        headers["content-range"] = f"bytes {begin}-{end - 1}/{size}"
    return Answer(206 if found else 200, headers, chunks=call.door.read(call.rest, start=begin, end=end))


def _blob_headers(digest: str) -> dict[str, str]:
    return {"content-type": "application/octet-stream", "docker-content-digest": digest}


async def begin_upload(call: Call) -> Answer:
    """Begin to push a blob, take over one of another repository, or push one in a single request."""
    digest, source = call.query.get("mount", ""), call.query.get("from", "")
    mounts = bool(digest and source and in_scope(call.who.scopes, source))
    if mounts and await _off(call.door.mount, call.repository, digest, source=source, now=call.now):
        return _stored(call, digest)
    name = await _off(call.door.begin_upload, call.repository, now=call.now)
    if "digest" in call.query:
        return await _finish(call, name)
    return _under_way(call, name, 0, status=202)


async def look_upload(call: Call) -> Answer:
    """How much of a blob is here."""
    return _under_way(call, call.rest, call.door.upload(call.repository, call.rest).size, status=204)


async def patch_upload(call: Call) -> Answer:
    """The next part of a blob."""
    return _under_way(call, call.rest, await _take_part(call, call.rest), status=202)


async def put_upload(call: Call) -> Answer:
    """The last part of a blob, and its digest."""
    return await _finish(call, call.rest)


async def _take_part(call: Call, name: str) -> int:
    upload = call.door.upload(call.repository, name)
    told = call.headers.get("content-range", "")
    found = _CONTENT_RANGE.match(told)
    if told and (found is None or int(found[2]) < int(found[1])):
        raise errors.BadInput(f"cannot read the content range {told[:80]!r}")
    chunks = from_loop(call.body(), asyncio.get_running_loop())
    size: int = await _off(call.door.add, upload, chunks, start=int(found[1]) if found else None)
    return size


async def _finish(call: Call, name: str) -> Answer:
    digest = call.query.get("digest", "")
    await _take_part(call, name)
    upload = call.door.upload(call.repository, name)
    await _off(call.door.finish, name, upload, digest, now=call.now)
    return _stored(call, digest)


async def cancel_upload(call: Call) -> Answer:
    """Give a push up."""
    call.door.upload(call.repository, call.rest)
    await _off(call.door.cancel, call.rest)
    return Answer(204)


def _under_way(call: Call, name: str, size: int, *, status: int) -> Answer:
    place = f"/v2/{call.repository}/blobs/uploads/{name}"
    return Answer(status, {"location": place, "range": f"0-{max(0, size - 1)}", "docker-upload-uuid": name})


def _stored(call: Call, digest: str) -> Answer:
    return Answer(201, {"location": f"/v2/{call.repository}/blobs/{digest}", "docker-content-digest": digest})


async def get_manifest(call: Call) -> Answer:
    """An image's manifest by tag or digest."""
    digest, media_type, data = await _off(call.door.manifest, call.repository, call.rest)
    headers = {"content-type": media_type, "docker-content-digest": digest, "content-length": str(len(data))}
    return Answer(200, headers, data)


async def put_manifest(call: Call) -> Answer:
    """Name an image whose blobs were pushed. It is kept; nothing of it runs."""
    data = bytearray()
    async for chunk in call.body():
        data += chunk
        if len(data) > MANIFEST_LIMIT:
            raise TooLarge(f"cannot keep the manifest: it has more than {MANIFEST_LIMIT} bytes")
    media_type = call.headers.get("content-type", "").partition(";")[0].strip()
    digest = await _off(
        call.door.put_manifest,
        call.repository,
        call.rest,
        bytes(data),
        media_type=media_type,
        by=call.who.name,
        now=call.now,
    )
    call.core.report_event("door.pushed", Severity.INFO, f"{call.repository}:{call.rest} was pushed by {call.who.name}")
    place = f"/v2/{call.repository}/manifests/{digest}"
    return Answer(201, {"location": place, "docker-content-digest": digest})


async def delete_manifest(call: Call) -> Answer:
    """Take a tag away."""
    await _off(call.door.delete_manifest, call.repository, call.rest)
    return Answer(202)


class TooLarge(errors.BadInput):
    """A manifest over the limit."""


Act = Callable[[Call], Awaitable[Answer]]
_NAME: Final = r"(?P<name>[^?#]{1,400})"
ROUTES: Final[tuple[tuple[str, str, str, bool, Act], ...]] = (
    ("GET", "/v2/", r"/\Z", False, ping),
    ("GET", "/v2/{name}/tags/list", rf"/{_NAME}/tags/list\Z", False, list_tags),
    ("POST", "/v2/{name}/blobs/uploads/", rf"/{_NAME}/blobs/uploads/?\Z", True, begin_upload),
    ("GET", "/v2/{name}/blobs/uploads/{upload}", rf"/{_NAME}/blobs/uploads/(?P<rest>[^/]+)\Z", True, look_upload),
    ("PATCH", "/v2/{name}/blobs/uploads/{upload}", rf"/{_NAME}/blobs/uploads/(?P<rest>[^/]+)\Z", True, patch_upload),
    ("PUT", "/v2/{name}/blobs/uploads/{upload}", rf"/{_NAME}/blobs/uploads/(?P<rest>[^/]+)\Z", True, put_upload),
    ("DELETE", "/v2/{name}/blobs/uploads/{upload}", rf"/{_NAME}/blobs/uploads/(?P<rest>[^/]+)\Z", True, cancel_upload),
    ("HEAD", "/v2/{name}/blobs/{digest}", rf"/{_NAME}/blobs/(?P<rest>[^/]+)\Z", False, head_blob),
    ("GET", "/v2/{name}/blobs/{digest}", rf"/{_NAME}/blobs/(?P<rest>[^/]+)\Z", False, get_blob),
    ("HEAD", "/v2/{name}/manifests/{reference}", rf"/{_NAME}/manifests/(?P<rest>[^/]+)\Z", False, get_manifest),
    ("GET", "/v2/{name}/manifests/{reference}", rf"/{_NAME}/manifests/(?P<rest>[^/]+)\Z", False, get_manifest),
    ("PUT", "/v2/{name}/manifests/{reference}", rf"/{_NAME}/manifests/(?P<rest>[^/]+)\Z", True, put_manifest),
    ("DELETE", "/v2/{name}/manifests/{reference}", rf"/{_NAME}/manifests/(?P<rest>[^/]+)\Z", True, delete_manifest),
)
"""(method, path, the same as a pattern below /v2, whether it takes a token that may push, what answers it)."""


class DoorApp:
    """The ASGI application."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method = str(scope["method"])
        try:
            answer = await self._answer(scope, receive, method)
        except errors.NebhError as error:
            answer = _failure(error)
        except Exception as error:  # nothing of our own insides reaches who knocks
            answer = _failure(errors.Broken(f"cannot answer: {type(error).__name__}"), status=500)
        headers = {
            "docker-distribution-api-version": "registry/2.0",
            "content-type": "application/json",
            "content-length": str(len(answer.body)),
            **answer.headers,
        }
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        if answer.chunks is not None and method != "HEAD":
            while (chunk := await asyncio.to_thread(next, answer.chunks, None)) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})

    async def _answer(self, scope: Scope, receive: Receive, method: str) -> Answer:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        who = await asyncio.to_thread(enter, self._core, headers.get("authorization", ""))
        path = str(scope["path"]).rstrip("/") or "/"  # below /v2; Litestar adds a slash at the end
        fits = [(one, found) for one in ROUTES if (found := re.match(one[2], path))]
        if not fits:
            raise errors.NotFound("cannot find that path at the registry door")
        chosen = next(((one, found) for one, found in fits if one[0] == method), None)
        if chosen is None:
            allowed = ", ".join(sorted({one[0] for one, _ in fits}))
            return Answer(405, {"allow": allowed}, codec.encode({"error": f"{method} is not for this path"}))
        (_, _, _, push, act), found = chosen
        words = found.groupdict()
        repository = words.get("name", "")
        if act is not ping:
            self._core.door.check(who, repository, push=push)
        query = {name: values[-1] for name, values in parse_qs(_text(scope["query_string"])).items()}
        call = Call(self._core, who, repository, words.get("rest", ""), query, headers, lambda: _body(receive))
        return await act(call)


def enter(core: Core, header: str) -> Entrance:
    """Return who knocks: the password of Basic, or the bearer token, is a door token or an operator's. Raises
    Unidentified, Refused."""
    scheme, _, text = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            password = base64.b64decode(text, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError) as error:
            raise Unidentified("cannot let you in: the Authorization header is broken", again=False) from error
        return core.door.enter(password, now=core.now())
    if scheme.lower() == "bearer" and "~" in text:
        return _entrance(core, find_caller(core, header))
    if scheme.lower() == "bearer":
        return core.door.enter(text, now=core.now())
    raise Unidentified(
        "cannot let you in without a token", again=False, hint="`nebh image door-token` makes one; log in with it"
    )


def _entrance(core: Core, caller: Caller) -> Entrance:
    return entrance_of(caller, services=ci_services(core, caller.key) if caller.key else frozenset())


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise errors.Unreachable("the connection broke")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


def _failure(error: errors.NebhError, *, status: int = 0) -> Answer:
    if isinstance(error, TooLarge):
        status = 413
    status = status or next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    headers = {"www-authenticate": 'Basic realm="nebh door"'} if status == 401 else {}
    plain = failures.to_plain(error)
    code = {401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN", 429: "TOOMANYREQUESTS"}.get(status, "UNSUPPORTED")
    listed = [{"code": code, "message": error.message, "detail": error.hint}]
    return Answer(status, headers, msgspec.json.encode({**plain, "errors": listed}))


def _text(data: bytes) -> str:
    return data.decode("latin-1")
