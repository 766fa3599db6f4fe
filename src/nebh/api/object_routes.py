"""Objects by their SHA-256, many at a time, in one compressed stream (`images.pack`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from litestar import Request, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from litestar.response import Stream

from nebh.api.access import DEPLOYING, KNOWN, allow
from nebh.api.document import PACK as MEDIA
from nebh.controller import storing
from nebh.controller.core import Core
from nebh.model.api import Digests, Stored

SENDER = allow(*DEPLOYING)


@post("/v1/objects/missing", opt=SENDER, status_code=200)
async def missing(core: NamedDependency[Core], data: JSONBody[Digests]) -> Digests:
    """Which of these objects the controller lacks."""
    return await asyncio.to_thread(storing.find_missing, core, data)


@post("/v1/objects", opt=SENDER, status_code=200, request_max_body_size=None)
async def upload(core: NamedDependency[Core], request: Request[Any, Any, State]) -> Stored:
    """Store a pack of objects; each is hashed before it has a name."""
    chunks = from_loop(request.stream(), asyncio.get_running_loop())
    return await asyncio.to_thread(storing.store_pack, core, chunks)


@post(
    "/v1/objects/batch",
    opt=allow(*KNOWN, fails=(404,)),
    status_code=200,
    media_type=MEDIA,
    responses={200: ResponseSpec(bytes, generate_examples=False, media_type=MEDIA, description="a pack")},
)
async def batch(core: NamedDependency[Core], data: JSONBody[Digests]) -> Stream:
    """A pack of these objects, in this order."""
    return Stream(await asyncio.to_thread(storing.make_pack, core, data), media_type=MEDIA)


def from_loop(stream: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    """Yield in a worker thread what arrives in the loop: one chunk at a time, so that a slow disk slows the sender."""

    async def next_chunk() -> bytes | None:
        return await anext(stream, None)

    while (chunk := asyncio.run_coroutine_threadsafe(next_chunk(), loop).result()) is not None:
        yield chunk


HANDLERS = (missing, upload, batch)
