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
from nebh.model.errors import BadInput, NotFound
from nebh.model.quantities import render_size


def push(options: argparse.Namespace, out: Output) -> int:
    """Import an image, have the controller hold it, say what it took."""
    if options.config_of and not options.to:
        raise BadInput("cannot push configs alone: `--config-of` goes with `--to MIRROR`")
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
    for service in options.config_of:
        more, bytes_more = _fill_configs(options, out, service)
        objects, size = objects + more, size + bytes_more
    if out.json_wanted:
        out.document({"digest": report.digest, "objects": objects, "bytes": size})
        return 0
    out.say(report.digest)
    out.say(f"{objects} objects, {render_size(size)}, written to {options.to}")
    return 0


def _fill_configs(options: argparse.Namespace, out: Output, service: str) -> tuple[int, int]:
    """Have a mirror hold what the files of a service's listed releases are rendered from."""
    from nebh.cli.config_bundles import fetch_bundle
    from nebh.cli.mirrors import fill_with

    session = Session(options, out)
    releases = session.state(wanted=None).trusted.releases.values()
    mine = [one for one in releases if one.service == service and one.config is not None]
    if not mine:
        raise NotFound(f"cannot find a release of {service} with files", hint=f"`nebh releases {service}` lists them")
    data = {one.ref.digest: one.data for one in (fetch_bundle(session, release) for release in mine)}
    return fill_with(options.to, [(digest, len(one)) for digest, one in data.items()], lambda digest: (data[digest],))


def collect(options: argparse.Namespace, out: Output) -> int:
    """Have the controller remove what nobody needs."""
    done = Session(options, out).client.collect()
    if out.json_wanted:
        out.document({"objects": done.objects, "blobs": done.blobs, "bytes": done.bytes})
        return 0
    out.say(f"{done.objects} objects and {done.blobs} pushed blobs removed, {render_size(done.bytes)}")
    return 0
