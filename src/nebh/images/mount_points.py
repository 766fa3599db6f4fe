"""Empty directories that a service needs in its image, added on the computer that signs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nebh.images.manifest import FORMAT, encode_manifest, find_problem, refer_to
from nebh.images.report import ImportReport
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry, TreeManifest

_MODE = 0o755


def add_mount_points(report: ImportReport, folders: Iterable[str], *, what: str) -> ImportReport:
    """Return the image with each of `folders` (absolute) as an empty directory, itself where it has them already.

    what: for people, such as `secrets`. Raises BadInput for a folder that is something else in the image, lies below
    what is no directory, or is not empty there: what is mounted on it would hide that.
    """
    manifest = report.manifest
    kinds = {entry.path: entry.type for entry in manifest.entries}
    added: dict[str, TreeEntry] = {}
    for folder in sorted({one.strip("/") for one in folders}):
        parts = folder.split("/")
        for path in ("/".join(parts[:count]) for count in range(1, len(parts) + 1)):
            kind = kinds.get(path)
            if kind is None:
                added[path] = TreeEntry(path=path, type=EntryType.DIRECTORY, mode=_MODE)
            elif kind is not EntryType.DIRECTORY:
                raise BadInput(
                    f"cannot put {what} into /{folder}: /{path} of the image is a {kind.value}",
                    hint="choose another folder, such as /run/secrets",
                )
        held = next((path for path in kinds if path.startswith(f"{folder}/")), "")
        if held:
            raise BadInput(
                f"cannot put {what} into /{folder}: the image has /{held}, which they would hide",
                hint="choose a folder of their own, such as /run/secrets",
            )
    if not added:
        return report
    entries = tuple(sorted((*manifest.entries, *added.values()), key=lambda one: one.path))
    made = TreeManifest(format=FORMAT, entries=entries)
    problem = find_problem(made)
    if problem:
        raise BadInput(f"cannot put {what} into the image: {problem}")
    data = encode_manifest(made)
    ref = refer_to(made, data=data)
    lines = tuple(f"/{path}: added, {what} are mounted there" for path in sorted(added))
    return replace(report, digest=ref.manifest, ref=ref, manifest=made, normalised=(*report.normalised, *lines))
