"""Objects as patches on what the other side holds, and the rest of one that was cut off."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream

from nebh.api.access import DEPLOYING, KNOWN, allow
from nebh.api.document import DELTA, ZSTD
from nebh.api.object_routes import from_loop
from nebh.controller import collecting, patching, scrubbing
from nebh.controller.core import Core
from nebh.model.api import Collected, Digests, Stored, Who

Offset = Annotated[int, QueryParameter(ge=0, lt=2**53, description="byte to begin at")]


@post("/v1/objects/deltas", opt=allow(*DEPLOYING), status_code=200, request_max_body_size=None)
async def upload_deltas(core: NamedDependency[Core], request: Request[Any, Any, State]) -> Stored:
    """Store a delta pack: objects whole or as patches on objects that are here. What a patch makes is hashed before it
    has a name; one that does not fit is left out."""
    chunks = from_loop(request.stream(), asyncio.get_running_loop())
    return await asyncio.to_thread(patching.store_deltas, core, chunks)


@post(
    "/v1/objects/patches",
    opt=allow(*KNOWN),
    status_code=200,
    media_type=DELTA,
    responses={200: ResponseSpec(bytes, generate_examples=False, media_type=DELTA, description="a delta pack")},
)
async def patches(core: NamedDependency[Core], data: JSONBody[Digests]) -> Stream:
    """The patches that make these objects, where there are any."""
    return Stream(await asyncio.to_thread(patching.make_patches, core, data), media_type=DELTA)


@get(
    "/v1/objects/{digest:str}",
    opt=allow(*KNOWN, fails=(404,)),
    media_type=ZSTD,
    responses={200: ResponseSpec(bytes, generate_examples=False, media_type=ZSTD, description="a zstd frame")},
)
async def rest(core: NamedDependency[Core], digest: FromPath[str], offset: Offset = 0) -> Stream:
    """One object's bytes from an offset on: what a broken download goes on with."""
    return Stream(await asyncio.to_thread(patching.make_rest, core, digest, offset=offset), media_type=ZSTD)


@get("/v1/images/{digest:str}/missing", opt=allow(*DEPLOYING, fails=(404,)))
async def missing_of_image(core: NamedDependency[Core], digest: FromPath[str]) -> Digests:
    """Contents that the controller lacks, 10,000 at most, of an image whose manifest it holds; the manifest's own digest
    when what lay under it was something else."""
    found = await asyncio.to_thread(patching.find_missing_of, core, digest)
    if digest in found.digests:
        scrubbing.report_removed(core, digest)
    return found


@post("/v1/objects/collect", opt=allow(Who.OPERATOR), status_code=200)
async def collect(core: NamedDependency[Core]) -> Collected:
    """Remove what no release that is kept needs, and nobody asked for within a day, now instead of in a few hours."""
    return await collecting.collect_now(core)


HANDLERS = (upload_deltas, patches, rest, missing_of_image, collect)
