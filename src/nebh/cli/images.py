"""`nebh image`: building images from declarations, and what is done with the images on this computer."""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nebh import __version__
from nebh.cli.output import Output, harmless
from nebh.cli.session import cache_base
from nebh.images.cache import ImageCache
from nebh.images.records import ImageRecord, Records, render_cyclonedx, render_provenance, render_spdx
from nebh.model.build import ImageDeclaration
from nebh.model.errors import BadInput, Failed, NotFound
from nebh.model.image import EntryType, LintRule, TreeEntry
from nebh.model.quantities import parse_duration, render_size
from nebh.planning.lint import lint_entry, lint_manifest

if TYPE_CHECKING:
    from nebh.images.declared.builder import Builder, Built

_LEFT_OUT = {LintRule.SHELL, LintRule.PACKAGE_MANAGER, LintRule.COMPILER, LintRule.DIAGNOSTIC}


def is_unwanted(entry: TreeEntry) -> bool:
    """Tell whether a reduction leaves a path away because lint would find it."""
    return any(one.rule in _LEFT_OUT for one in lint_entry(entry))


def read_declaration(path: Path) -> ImageDeclaration:
    """Return a declaration. Raises SpecErrors with every problem, NotFound, BadInput."""
    from nebh.spec.image import parse_image

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        hint = "name an image declaration: nebh image build image.yaml"
        raise NotFound(f"cannot read {path}: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read {path}: it is not UTF-8 text") from error
    return parse_image(text, file=str(path), base=str(path.resolve().parent))


def lock(options: argparse.Namespace, out: Output) -> int:
    """Pin every source of a declaration."""
    from nebh.images.declared.builder import lock_path
    from nebh.images.declared.lock import make_lock, write_lock

    path = Path(options.declaration)
    declared = read_declaration(path)
    builder = _builder(_cache(), out)
    made = make_lock(declared, layers=builder.layers, downloads=builder.downloads, progress=out.progress)
    write_lock(lock_path(path), made)
    counts = {"packages": len(made.packages), "wheels": len(made.wheels), "npm": len(made.npm)}
    counts["files"] = len(made.files)
    if out.json_wanted:
        out.document({"lock": str(lock_path(path)), **counts})
        return 0
    out.say(f"{lock_path(path)}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    return 0


def build(options: argparse.Namespace, out: Output) -> int:
    """Build an image and say what it is."""
    built = build_declared(Path(options.declaration), _cache(), out, refresh=options.refresh, on_node=options.on_node)
    manifest = built.report.manifest
    findings = (*lint_manifest(manifest), *built.report.findings)
    files = sum(1 for one in manifest.entries if one.type is EntryType.FILE)
    missing = list(built.reduced.closure.missing) if built.reduced.closure is not None else []
    if out.json_wanted:
        out.document(
            {
                "digest": built.report.digest,
                "files": files,
                "bytes": built.report.ref.bytes,
                "lint": [{**asdict(one), "rule": one.rule.value} for one in findings],
                "unreduced": {"entries": built.whole[0], "bytes": built.whole[1]},
                "missing": missing,
                "idle": list(built.reduced.idle),
            }
        )
        return 0
    out.say(built.report.digest)
    out.say(
        f"{files} files, {render_size(built.report.ref.bytes)}; "
        f"all sources: {built.whole[0]} entries, {render_size(built.whole[1])}"
    )
    for glob in built.reduced.idle:
        out.say(f"nothing matches {harmless(glob)}")
    for line in missing[:10]:
        out.say(f"not there: {harmless(line)}")
    if findings:
        out.say(f"{len(findings)} lint findings: nebh image lint {built.report.digest}")
    return 0


def build_declared(
    path: Path, cache: ImageCache, out: Output, *, refresh: bool = False, on_node: bool = False
) -> Built:
    """Build the image of a declaration file by the lock beside it, and keep its record."""
    from nebh.images.declared.builder import lock_path
    from nebh.images.declared.lock import read_lock, refresh_files, write_lock
    from nebh.images.pruning import prune_sources

    declared = read_declaration(path)
    place = lock_path(path)
    builder = _builder(cache, out, may_run=on_node or not is_serving())
    locked = read_lock(place)
    if refresh:
        fresh = refresh_files(locked, declared, builder.layers)
        if fresh != locked:
            write_lock(place, fresh)
        locked = fresh
    built = builder.build(declared, locked, name=str(place))
    Records(cache).write(_record(path, declared, built))
    prune_sources(cache, builder.downloads)
    return built


def verify(options: argparse.Namespace, out: Output) -> int:
    """Build again from nothing and compare."""
    from nebh.images.declared.builder import Builder, lock_path
    from nebh.images.declared.lock import read_lock

    path = Path(options.declaration)
    cache = _cache()
    records = Records(cache)
    wanted = records.find(options.against or _name(path))
    with cache.folder() as folder:
        builder = Builder(
            ImageCache(folder),
            progress=out.progress,
            unwanted=is_unwanted,
            downloads=_builder(cache, out).downloads,
            kept=cache,
            may_run=options.on_node or not is_serving(),
        )
        found = builder.build(read_declaration(path), read_lock(lock_path(path)), name=str(lock_path(path)))
        digest = found.report.digest
        if digest != wanted:
            lines = _differences(cache.manifest(wanted).entries, found.report.manifest.entries)
            shown = "\n".join(f"  {sign} {harmless(where)}" for sign, where in lines[:20])
            raise Failed(f"cannot make {wanted[:12]} again: this time it is {digest}\n{shown}")
    if out.json_wanted:
        out.document({"digest": digest, "same": True})
    else:
        out.say(f"{digest}: built again, the same")
    return 0


def show_list(options: argparse.Namespace, out: Output) -> int:  # noqa: ARG001 - the shape of a command
    """List the images on this computer."""
    from nebh.images.manifest import refer_to

    cache = _cache()
    records = Records(cache)
    rows = []
    for digest in records.digests():
        record = records.read(digest)
        ref = refer_to(cache.manifest(digest))
        rows.append(
            {
                "digest": digest,
                "name": record.name if record is not None else "",
                "bytes": ref.bytes,
                "entries": ref.entries,
                "made_at": record.made_at if record is not None else 0,
            }
        )
    if out.json_wanted:
        out.document({"images": rows})
        return 0
    lines = [(row["digest"][:12], row["name"], render_size(row["bytes"]), row["entries"]) for row in rows]  # type: ignore[index,arg-type]
    out.table(("IMAGE", "NAME", "SIZE", "ENTRIES"), lines)
    return 0


def remove(options: argparse.Namespace, out: Output) -> int:
    """Remove an image, and the contents that no other image and no kept source needs."""
    from nebh.images.pruning import remove_image

    cache = _cache()
    digest = Records(cache).find(options.image)
    gone = remove_image(cache, digest)
    if out.json_wanted:
        out.document({"digest": digest, "objects": gone.contents, "bytes": gone.bytes})
    else:
        out.say(f"removed {digest[:12]}, {gone.contents} contents, {render_size(gone.bytes)}")
    return 0


def prune(options: argparse.Namespace, out: Output) -> int:
    """Remove kept sources that no build used for a while."""
    from nebh.images.pruning import prune_sources

    cache = _cache()
    gone = prune_sources(cache, _builder(cache, out).downloads, kept_s=parse_duration(options.older_than) / 1000)
    if out.json_wanted:
        out.document(asdict(gone))
    else:
        out.say(
            f"removed {gone.layers} unpacked and {gone.downloads} fetched sources, {gone.contents} contents, "
            f"{render_size(gone.bytes)}"
        )
    return 0


def diff(options: argparse.Namespace, out: Output) -> int:
    """Show what differs between two images."""
    cache = _cache()
    records = Records(cache)
    old, new = (cache.manifest(records.find(one)) for one in (options.old, options.new))
    lines = _differences(old.entries, new.entries)
    have = {entry.sha256 for entry in old.entries}
    fresh = {entry.sha256: entry.size for entry in new.entries if entry.sha256 and entry.sha256 not in have}
    if out.json_wanted:
        rows = [{"change": sign, "path": path} for sign, path in lines]
        out.document({"changes": rows, "new_bytes": sum(fresh.values()), "new_objects": len(fresh)})
        return 0
    for sign, path in lines:
        out.say(f"{sign} {harmless(path)}")
    out.say(f"{len(lines)} differences; {render_size(sum(fresh.values()))} of new content")
    return 0


def sbom(options: argparse.Namespace, out: Output) -> int:
    """Print the bill of materials."""
    record = _find_record(options.image)
    out.document(render_spdx(record) if options.format == "spdx" else render_cyclonedx(record))
    return 0


def provenance(options: argparse.Namespace, out: Output) -> int:
    """Print how an image was built."""
    out.document(render_provenance(_find_record(options.image)))
    return 0


def export(options: argparse.Namespace, out: Output) -> int:
    """Write an image for other programs."""
    from nebh.images.export import ExportSettings, export_layout
    from nebh.images.sources.registry import copy_layout

    kind, colon, place = options.to.partition(":")
    if not colon or not place or kind not in {"oci", "docker-archive"}:
        raise BadInput(f"cannot export to {options.to!r}", hint="write oci:FOLDER or docker-archive:FILE")
    cache = _cache()
    digest = Records(cache).find(options.image)
    record = Records(cache).read(digest)
    settings = ExportSettings(
        architecture=record.architecture if record is not None else "amd64",
        entrypoint=record.entrypoint if record is not None else (),
        user=str(record.user) if record is not None else "",
        name=record.name if record is not None else "latest",
        labels={"net.nebh.image": digest},
    )
    target = Path(place).resolve()
    if kind == "oci":
        found = export_layout(cache.manifest(digest), cache.objects, target, settings=settings)
    else:
        if target.exists():
            raise BadInput(f"cannot export to {target}: it exists", hint="name a new file")
        with cache.folder() as folder:
            layout = folder / "layout"
            found = export_layout(cache.manifest(digest), cache.objects, layout, settings=settings)
            copy_layout(f"{layout}:{settings.name}", f"docker-archive:{target}:{settings.name}:latest")
    if out.json_wanted:
        out.document({"digest": digest, "oci_digest": found, "to": f"{kind}:{target}"})
    else:
        out.say(f"{kind}:{target}: {found}")
    return 0


def _cache() -> ImageCache:
    cache_base().mkdir(parents=True, exist_ok=True)
    return ImageCache(cache_base())


def is_serving() -> bool:
    """Tell whether an executor of a cloud works on this machine."""
    return Path("/run/nebh/executor.sock").exists()


def _builder(cache: ImageCache, out: Output, *, may_run: bool = True) -> Builder:
    from nebh.images.declared.builder import Builder

    return Builder(cache, progress=out.progress, unwanted=is_unwanted, may_run=may_run)


def _name(path: Path) -> str:
    """Return what an image is called: its declaration's file, or its folder where that is called image.yaml."""
    path = path.resolve()
    return path.parent.name if path.stem == "image" else path.stem


def _record(path: Path, declared: ImageDeclaration, built: Built) -> ImageRecord:
    from nebh.images.declared.builder import lock_path

    return ImageRecord(
        digest=built.report.digest,
        name=_name(path),
        made_at=int(time.time()),
        builder=__version__,
        declaration=str(path.resolve()),
        declared=hashlib.sha256(path.read_bytes()).hexdigest(),
        lock=hashlib.sha256(lock_path(path).read_bytes()).hexdigest(),
        architecture=declared.architecture,
        entrypoint=declared.entrypoint,
        user=declared.user,
        reduce=declared.reduce.value,
        sources=built.sources,
        whole_entries=built.whole[0],
        whole_bytes=built.whole[1],
        commands=declared.build.run if declared.build is not None else (),
    )


def _find_record(text: str) -> ImageRecord:
    cache = _cache()
    digest = Records(cache).find(text)
    record = Records(cache).read(digest)
    if record is None:
        raise NotFound(
            f"cannot say what {digest[:12]} is made of: it was imported, not built here",
            hint="`nebh image inspect` shows what it holds",
        )
    return record


def _differences(old: tuple[TreeEntry, ...], new: tuple[TreeEntry, ...]) -> list[tuple[str, str]]:
    before, after = ({entry.path: entry for entry in entries} for entries in (old, new))
    found: list[tuple[str, Any]] = []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            sign = "-" if path not in after else "+" if path not in before else "~"
            found.append((sign, f"/{path}"))
    return found
