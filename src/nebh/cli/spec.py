"""Specs and images on this computer alone: schema for editors, checking, importing, looking. Nothing is sent."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nebh.cli.output import Output, harmless
from nebh.cli.session import Session, cache_base
from nebh.model.errors import BadInput, Failed, SpecErrors
from nebh.model.image import EntryType
from nebh.model.names import is_digest
from nebh.model.quantities import render_size
from nebh.model.service import ImageSource, SourceKind
from nebh.planning.lint import lint_manifest

if TYPE_CHECKING:
    from nebh.images.report import ImportReport

_PREFIXES = {
    "dir": SourceKind.DIRECTORY,
    "tar": SourceKind.TAR,
    "oci": SourceKind.OCI_LAYOUT,
    "docker-archive": SourceKind.DOCKER_ARCHIVE,
    "registry": SourceKind.REGISTRY,
    "door": SourceKind.DOOR,
    "manifest": SourceKind.MANIFEST,
}
_LARGEST = 10


def schema(options: argparse.Namespace, out: Output) -> int:  # noqa: ARG001 - the shape of a command
    """Print the JSON Schema of spec files."""
    from nebh.spec.schema import export_schema

    out.document(export_schema())
    return 0


def check(options: argparse.Namespace, out: Output) -> int:
    """Read spec files and say everything that is wrong with them."""
    from nebh.cli.deploy import read_spec

    problems: list[Any] = []
    good: list[str] = []
    for file in options.files:
        try:
            read_spec(file)
            good.append(file)
        except SpecErrors as error:
            problems += error.problems
    if out.json_wanted:
        rows = [
            {"file": one.file, "line": one.line, "column": one.column, "path": one.path, "message": one.message}
            for one in problems
        ]
        out.document({"ok": not problems, "problems": rows})
        return SpecErrors.exit_status if problems else 0
    for file in good:
        out.say(f"{file}: good")
    if problems:
        raise SpecErrors(tuple(problems))
    return 0


def source_of(text: str) -> ImageSource:
    """Return what `dir:PATH`, `tar:PATH`, `oci:PATH`, `docker-archive:PATH`, `registry:REF`, `door:NAME:TAG`, a digest or a bare path
    means. Raises BadInput."""
    prefix, colon, rest = text.partition(":")
    if colon and prefix in _PREFIXES:
        kind = _PREFIXES[prefix]
        local = kind not in (SourceKind.REGISTRY, SourceKind.DOOR, SourceKind.MANIFEST)
        return ImageSource(kind=kind, location=str(Path(rest).resolve()) if local else rest)
    if is_digest(text):
        return ImageSource(kind=SourceKind.MANIFEST, location=text)
    path = Path(text)
    if path.is_dir():
        kind = SourceKind.OCI_LAYOUT if (path / "oci-layout").is_file() else SourceKind.DIRECTORY
        return ImageSource(kind=kind, location=str(path.resolve()))
    if path.is_file():
        return ImageSource(kind=SourceKind.TAR, location=str(path.resolve()))
    raise BadInput(
        f"cannot find an image at {text!r}",
        hint="write a path, a digest, or " + ", ".join(f"{name}:..." for name in _PREFIXES if name != "manifest"),
    )


def _import(options: argparse.Namespace, out: Output) -> ImportReport:
    from nebh.cli.door import import_any
    from nebh.images.cache import ImageCache

    source = source_of(options.source)
    out.progress(f"importing {source.kind.value} {source.location}")
    cache_base().mkdir(parents=True, exist_ok=True)
    return import_any(source, cache=ImageCache(cache_base()), session=Session(options, out))


def image_import(options: argparse.Namespace, out: Output) -> int:
    """Import an image into this computer's cache and say what it is."""
    report = _import(options, out)
    findings = (*lint_manifest(report.manifest), *report.findings)
    if out.json_wanted:
        out.document({**_summary(report), "lint": [_plain(one) for one in findings]})
        return 0
    out.say(report.digest)
    _say_summary(out, report)
    for line in report.normalised:
        out.say(f"changed: {harmless(line)}")
    if findings:
        out.say(f"{len(findings)} lint findings: nebh image lint {report.digest}")
    return 0


def _summary(report: ImportReport) -> dict[str, Any]:
    entries = report.manifest.entries
    return {
        "digest": report.digest,
        "origin": report.origin,
        "files": sum(1 for one in entries if one.type is EntryType.FILE),
        "entries": len(entries),
        "bytes": report.ref.bytes,
    }


def _say_summary(out: Output, report: ImportReport) -> None:
    held = _summary(report)
    out.say(
        f"{held['files']} files, {held['entries']} entries, {render_size(held['bytes'])}; {harmless(held['origin'])}"
    )


def _plain(finding: Any) -> dict[str, str]:
    return {"rule": finding.rule.value, "path": finding.path, "message": finding.message}


def image_inspect(options: argparse.Namespace, out: Output) -> int:
    """Show what an image holds and what it proposes."""
    report = _import(options, out)
    defaults = report.defaults
    proposed = {
        "argv": [*defaults.entrypoint, *defaults.cmd],
        "env": list(defaults.env),
        "user": defaults.user,
        "workdir": defaults.workdir,
    }
    files = [one for one in report.manifest.entries if one.type is EntryType.FILE]
    shown = files if options.files else sorted(files, key=lambda one: -one.size)[:_LARGEST]
    if out.json_wanted:
        rows = [{"path": f"/{one.path}", "mode": f"{one.mode:03o}", "size": one.size} for one in shown]
        out.document({**_summary(report), "proposes": proposed, "files_shown": rows})
        return 0
    out.say(report.digest)
    _say_summary(out, report)
    for name, value in proposed.items():
        if value:
            text = " ".join(value) if isinstance(value, list) else str(value)
            out.say(f"proposes {name}: {harmless(text)}")
    out.table(("MODE", "SIZE", "PATH"), [(f"{one.mode:03o}", render_size(one.size), f"/{one.path}") for one in shown])
    return 0


def image_lint(options: argparse.Namespace, out: Output) -> int:
    """Show everything in an image that its process should not need."""
    report = _import(options, out)
    findings = (*lint_manifest(report.manifest), *report.findings)
    if out.json_wanted:
        out.document({"digest": report.digest, "findings": [_plain(one) for one in findings]})
        return Failed.exit_status if findings else 0
    for one in findings:
        out.say(f"{one.rule.value}: {harmless(one.path)}: {harmless(one.message)}")
    if findings:
        raise Failed(
            f"{len(findings)} findings in {report.digest[:12]}",
            hint="leave these out of the image, or except them in the spec: policy: {lint_exceptions: [rule:path]}",
        )
    out.say(f"{report.digest[:12]} holds nothing that a minimal image should not")
    return 0
