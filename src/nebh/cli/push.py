"""`nebh image push`: an image to the controller, ahead of a deploy."""

from __future__ import annotations

import argparse

from nebh.cli.door import import_any
from nebh.cli.moving import send_image
from nebh.cli.output import Output
from nebh.cli.session import Session, cache_base
from nebh.cli.spec import source_of
from nebh.images.cache import ImageCache
from nebh.images.report import ImportReport
from nebh.model.quantities import render_size


def push(options: argparse.Namespace, out: Output) -> int:
    """Import an image, have the controller hold it, say what it took."""
    source = source_of(options.source)
    out.progress(f"importing {source.kind.value} {source.location}")
    cache_base().mkdir(parents=True, exist_ok=True)
    cache = ImageCache(cache_base())
    report = import_any(source, cache=cache, session=Session(options, out))
    if options.to:
        return _fill(options, out, report, cache)
    moved = send_image(Session(options, out), report.manifest, cache, rate=options.limit_rate)
    if out.json_wanted:
        out.document(
            {
                "digest": report.digest,
                "objects": moved.objects,
                "bytes": moved.bytes,
                "patched": moved.patched,
                "sent": moved.sent,
            }
        )
        return 0
    out.say(report.digest)
    out.say(f"{moved.objects} objects, {render_size(moved.bytes)}, sent as {render_size(moved.sent)}")
    return 0


def _fill(options: argparse.Namespace, out: Output, report: ImportReport, cache: ImageCache) -> int:
    from nebh.cli.mirrors import fill

    out.progress(f"writing what {options.to} lacks")
    objects, size = fill(options.to, report.manifest, cache)
    if out.json_wanted:
        out.document({"digest": report.digest, "objects": objects, "bytes": size})
        return 0
    out.say(report.digest)
    out.say(f"{objects} objects, {render_size(size)}, written to {options.to}")
    return 0


def collect(options: argparse.Namespace, out: Output) -> int:
    """Have the controller remove what nobody needs."""
    done = Session(options, out).client.collect()
    if out.json_wanted:
        out.document({"objects": done.objects, "blobs": done.blobs, "bytes": done.bytes})
        return 0
    out.say(f"{done.objects} objects and {done.blobs} pushed blobs removed, {render_size(done.bytes)}")
    return 0
