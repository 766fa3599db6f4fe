"""Any source becomes a tree manifest and objects in the operator's cache.

Parsing happens in a confined child that holds descriptors of the source and of a scratch folder, nothing else. Its
answer - a manifest and a report - is untrusted: the manifest is validated and every content hashed again here.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass, field
from typing import Final

from nebh.host.confine import Confinement, Ended, ordinary_user, run_confined
from nebh.images.cache import ImageCache
from nebh.images.intake import Intake, Sink
from nebh.images.layers import ImageTree
from nebh.images.manifest import MAX_MANIFEST, decode_manifest, encode_manifest, refer_to
from nebh.images.opening import Opened, open_source
from nebh.images.report import ImageDefaults, ImportLimits, ImportReport
from nebh.model.errors import BadInput, Broken, Failed, NebhError
from nebh.model.image import LintFinding, TreeManifest
from nebh.model.service import ImageSource, SourceKind
from nebh.wire import codec

_LIMITS: Final = ImportLimits()
_ANSWER: Final = MAX_MANIFEST + (16 << 20)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What the child says: a manifest and what goes with it, or an error (`failed`: not the input's fault)."""

    manifest: TreeManifest | None = None
    origin: str = ""
    normalised: tuple[str, ...] = ()
    findings: tuple[LintFinding, ...] = ()
    defaults: ImageDefaults = field(default_factory=ImageDefaults)
    error: str = ""
    hint: str = ""
    failed: bool = False


def import_image(
    source: ImageSource, *, cache: ImageCache, limits: ImportLimits = _LIMITS, architecture: str = "amd64"
) -> ImportReport:
    """Import `source` into `cache`. `architecture` (OCI's word) chooses from an image for several.

    Raises BadInput naming the path for anything in the source that an image cannot hold or that is over a limit,
    NotFound when the source is not there, Failed when it cannot be read. Nothing of the source's naming is ever
    created on disk; a failed import leaves nothing but contents under their hashes.
    """
    if source.kind is SourceKind.MANIFEST:
        manifest = cache.manifest(source.location)
        return ImportReport(
            digest=source.location,
            ref=refer_to(manifest),
            manifest=manifest,
            origin=f"manifest:{source.location}",
            findings=cache.findings(source.location),
        )
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_source(source, cache=cache, architecture=architecture))
        scratch = stack.enter_context(cache.scratch())
        user = ordinary_user() if opened.confined else None
        scratch.give_to(user)
        sink = stack.enter_context(scratch.sink())
        ended = run_confined(
            lambda: codec.encode(_work(opened, sink, limits)),
            confinement=Confinement(cpu=limits.cpu, memory=limits.memory, file=limits.bytes, user=user),
            limit=_ANSWER,
        )
        answer = _read_answer(ended, opened, limits)
        if answer.manifest is None:
            raise (Failed if answer.failed else BadInput)(answer.error, hint=answer.hint)
        data = encode_manifest(answer.manifest)
        manifest = decode_manifest(data)
        scratch.adopt(cache.objects)
    _check_whole(manifest, cache)
    digest = cache.add_manifest(data)
    cache.keep_findings(digest, answer.findings)
    return ImportReport(
        digest=digest,
        ref=refer_to(manifest, data=data),
        manifest=manifest,
        origin=answer.origin,
        normalised=answer.normalised,
        findings=answer.findings,
        defaults=answer.defaults,
    )


def _work(opened: Opened, sink: Sink, limits: ImportLimits) -> _Answer:
    """Run in the child: whatever happens becomes an answer."""
    intake = Intake(what=opened.what, sink=sink, limits=limits)
    try:
        tree = ImageTree(intake)
        origin, defaults = opened.read(tree, intake)
        manifest = tree.manifest()
    except NebhError as error:
        return _Answer(error=error.message, hint=error.hint, failed=not isinstance(error, BadInput))
    except MemoryError:
        return _Answer(error=f"cannot import {opened.what}: it needs too much memory")
    except OSError as error:
        return _Answer(error=f"cannot import {opened.what}: {error.strerror or error}", failed=True)
    except Exception as error:  # the parent must hear of it: it parsed hostile bytes
        return _Answer(error=f"cannot import {opened.what}: {type(error).__name__}: {error}", failed=True)
    return _Answer(
        manifest=manifest,
        origin=origin,
        normalised=intake.report(),
        findings=tuple(intake.findings),
        defaults=defaults,
    )


def _read_answer(ended: Ended, opened: Opened, limits: ImportLimits) -> _Answer:
    if ended.signal == signal.SIGXCPU or (ended.signal == signal.SIGKILL and not ended.answer):
        raise BadInput(f"cannot import {opened.what}: it takes more than {limits.cpu} s of CPU or too much memory")
    if ended.signal or ended.status:
        raise Failed(
            f"cannot import {opened.what}: the importer ended with "
            + (f"signal {ended.signal}" if ended.signal else f"status {ended.status}")
        )
    try:
        return codec.decode_loose(ended.answer, _Answer, what="the importer's answer", limit=_ANSWER)
    except BadInput as error:
        raise Broken(error.message) from error


def _check_whole(manifest: TreeManifest, cache: ImageCache) -> None:
    lacking = cache.objects.missing(entry.sha256 for entry in manifest.entries if entry.size)
    if lacking:
        raise Broken(f"cannot keep the image: the importer did not store {len(lacking)} contents, first {lacking[0]}")
