"""Objects: what is missing, and packs in and out. These run in worker threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nebh.controller.core import Core
from nebh.images.pack import PackLimits, decode_pack, encode_pack
from nebh.model.api import Digests, Stored
from nebh.model.errors import BadInput
from nebh.model.names import is_digest

AT_MOST = 10_000
LIMITS = PackLimits()


def find_missing(core: Core, asked: Digests) -> Digests:
    """Return those that are not here. Raises BadInput."""
    digests = check_digests(asked)
    missing = core.objects.missing(digests)
    # Whoever asks relies on the others being here until a release that names them is signed.
    core.objects.renew(frozenset(digests) - frozenset(missing))
    return Digests(digests=missing)


def store_pack(core: Core, chunks: Iterable[bytes]) -> Stored:
    """Store every object of a pack, durably on return. Raises BadInput; what came whole before it stays."""
    count = size = 0
    for packed in decode_pack(chunks, limits=LIMITS):
        if core.objects.has(packed.digest):
            continue
        core.objects.put(packed.digest, packed.size, packed.chunks)
        count, size = count + 1, size + packed.size
    core.objects.sync()
    return Stored(objects=count, bytes=size)


def make_pack(core: Core, asked: Digests) -> Iterator[bytes]:
    """Return a pack as it is made. Raises BadInput, NotFound before the first byte."""
    items = [(digest, core.objects.size(digest)) for digest in check_digests(asked)]
    return encode_pack(items, core.objects.read)


def check_digests(asked: Digests) -> tuple[str, ...]:
    """Return what is asked for. Raises BadInput for too many, and for what is no SHA-256."""
    if len(asked.digests) > AT_MOST:
        raise BadInput(f"cannot look up {len(asked.digests)} objects at once: at most {AT_MOST}")
    wrong = next((digest for digest in asked.digests if not is_digest(digest)), None)
    if wrong is not None:
        raise BadInput(f"cannot look up object {wrong[:80]!r}: it is not a SHA-256")
    return asked.digests
