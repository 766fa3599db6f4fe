"""Scrub: objects are hashed again while nothing else is to do; what decayed is replaced from a mirror, with an event."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Final

from nebh.client.mirror import parse_mirror
from nebh.controller.core import Core
from nebh.host.throttle import Throttle
from nebh.images.objects import read_chunks
from nebh.model.errors import BadInput, NebhError, NotFound
from nebh.model.event import Severity

RATE: Final = 8 << 20
"""Bytes a second that are read to be hashed."""
FIRST_S: Final = 3600.0
EVERY_S: Final = 7 * 86_400.0


def find_damaged(core: Core, throttle: Throttle) -> Iterator[tuple[str, int]]:
    """Yield (digest, size) of every object whose bytes are not its own any more. In a worker thread."""
    import hashlib

    for digest in core.objects.digests():
        hasher = hashlib.sha256()
        try:
            descriptor = core.objects.open(digest)
        except NotFound:
            continue  # collected meanwhile
        size = os.fstat(descriptor).st_size
        for chunk in throttle.passing(read_chunks(descriptor)):
            hasher.update(chunk)
        if hasher.hexdigest() != digest:
            yield digest, size


def mend(core: Core, digest: str, size: int, mirrors: tuple[str, ...]) -> str:
    """Replace a damaged object from the first mirror that has it; return that mirror, "" when none has: then the object
    is gone, and the next push brings it. In a worker thread."""
    core.objects.remove(digest)
    for url in mirrors:
        try:
            source = parse_mirror(url, pins=())
            core.objects.put(digest, size, source.rest((digest, size), 0))
            core.objects.sync()
            return url
        except NebhError:
            continue
    return ""


async def scrub_now(core: Core, *, rate: int = RATE) -> tuple[int, int]:
    """Hash everything once; return how many objects were damaged, and how many of them mended."""
    throttle, count, mended = Throttle(rate), 0, 0
    found = find_damaged(core, throttle)
    while (one := await asyncio.to_thread(next, found, None)) is not None:
        mirrors = core.trusted.settings.mirrors if core.trusted else ()
        source = await asyncio.to_thread(mend, core, *one, mirrors)
        count, mended = count + 1, mended + bool(source)
        if source:
            core.report_event(
                "object.mended",
                Severity.WARNING,
                f"object {one[0][:12]} had decayed and was fetched anew from {source}",
            )
        else:
            report_removed(core, one[0])
    return count, mended


def report_removed(core: Core, digest: str) -> None:
    """Say that an object whose bytes were not its own any more is gone."""
    core.report_event(
        "object.damaged",
        Severity.ALARM,
        f"object {digest[:12]} had decayed and was removed",
        hint="push its image again: `nebh image push`; is the disk failing?",
    )


async def keep_sound(core: Core) -> None:
    """Scrub every week, for ever."""
    await asyncio.sleep(FIRST_S)
    while True:
        try:
            await scrub_now(core)
        except (BadInput, OSError) as error:
            core.report_event("object.scrub-failed", Severity.WARNING, f"cannot scrub the objects: {error}")
        await asyncio.sleep(EVERY_S)
