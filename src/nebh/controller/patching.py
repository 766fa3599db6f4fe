"""Delta packs in and out, and the rest of an object that was cut off. These run in worker threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator

import zstandard

from nebh.controller.core import Core
from nebh.controller.storing import AT_MOST, LIMITS, check_digests
from nebh.images.delta import apply_patch
from nebh.images.delta_pack import Outgoing, Packed, decode_delta_pack, encode_delta_pack
from nebh.images.manifest import MAX_MANIFEST, decode_manifest, digest_manifest
from nebh.model.api import Digests, Stored
from nebh.model.errors import BadInput, NotFound

ANSWER = 4 << 20
"""Bytes of patches in one answer: whoever asks keeps them in memory."""
# One patch at a time: each takes up to `images.delta.MEMORY`.
_APPLYING = threading.Lock()


def store_deltas(core: Core, chunks: Iterable[bytes]) -> Stored:
    """Store every object of a delta pack, durably on return, and keep the patches for nodes. An object whose base is
    not here, or whose patch makes something else, is left out. Raises BadInput for what is no delta pack, and for a
    whole object with another hash; what came before it stays."""
    count = size = 0
    for packed in decode_delta_pack(chunks, limits=LIMITS):
        if core.objects.has(packed.digest):
            continue
        if not packed.base:
            core.objects.put(packed.digest, packed.size, packed.chunks)
        elif not _store_patched(core, packed):
            continue
        count, size = count + 1, size + packed.size
    core.objects.sync()
    return Stored(objects=count, bytes=size)


def _store_patched(core: Core, packed: Packed) -> bool:
    try:
        base = core.objects.open(packed.base)
    except NotFound:
        return False
    try:
        with _APPLYING:
            made = apply_patch(lambda offset, length: os.pread(base, length, offset), packed.patch, size=packed.size)
            core.objects.put(packed.digest, packed.size, made)
    except BadInput:
        return False
    finally:
        os.close(base)
    core.deltas.put(packed.digest, packed.base, packed.patch)
    return True


def make_patches(core: Core, asked: Digests) -> Iterator[bytes]:
    """Return a delta pack of the patches that make these objects, ANSWER bytes at most. Raises BadInput."""
    return encode_delta_pack(_patches(core, check_digests(asked)), lambda _: ())


def _patches(core: Core, digests: tuple[str, ...]) -> Iterator[Outgoing]:
    left = ANSWER
    for digest in digests:
        for base in core.deltas.bases(digest) if core.objects.has(digest) else ():
            patch = core.deltas.read(digest, base)
            left -= len(patch)
            if left < 0:
                return
            if patch:
                yield Outgoing(digest, core.objects.size(digest), base=base, patch=patch)


def make_rest(core: Core, digest: str, *, offset: int) -> Iterator[bytes]:
    """Return an object's bytes from `offset` on as one zstd frame. Raises NotFound before the first byte, also when it ends before
    `offset`; BadInput."""
    size = core.objects.size(digest)
    if not 0 <= offset <= size:
        raise NotFound(f"cannot read object {digest} from byte {offset} on: it has {size}")
    return _compress_rest(core.objects.open(digest), offset)


def _compress_rest(descriptor: int, offset: int) -> Iterator[bytes]:
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    try:
        while chunk := os.pread(descriptor, 1 << 20, offset):
            offset += len(chunk)
            yield from filter(None, (compressor.compress(chunk),))
        yield compressor.flush()
    finally:
        os.close(descriptor)


def find_missing_of(core: Core, digest: str) -> Digests:
    """Return the first contents that are not here of an image whose manifest is; the manifest itself when its bytes are
    not its own any more, and then they are removed. Raises NotFound, BadInput."""
    if core.objects.size(digest) > MAX_MANIFEST:
        raise BadInput(f"cannot read image {digest[:12]}: a manifest has at most {MAX_MANIFEST} bytes")
    with _APPLYING:
        data = b"".join(core.objects.read(digest))
        if digest_manifest(data) != digest:
            core.objects.remove(digest)
            return Digests(digests=(digest,))
        manifest = decode_manifest(data)
        contents = frozenset(entry.sha256 for entry in manifest.entries if entry.size)
        missing = core.objects.missing(sorted(contents))
        core.objects.renew(({digest} | contents) - frozenset(missing))
    return Digests(digests=missing[:AT_MOST])
