"""Does an image have the program that its release starts? Pure: from the manifest alone."""

from __future__ import annotations

import difflib

from nebh.images.follow import Stop, follow
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry, TreeManifest


def check_entrypoint(manifest: TreeManifest, argv0: str) -> BadInput | None:
    """Return why the absolute path `argv0` cannot be started from this image by a user who is not its owner, or None.
    Links are followed inside the image. The hint names paths that may be meant."""
    what = f"cannot start {argv0[:300]!r}"
    if not argv0.startswith("/"):
        return BadInput(f"{what}: it is not an absolute path inside the image", hint=_suggest(manifest, argv0))
    entries = {entry.path: entry for entry in manifest.entries}
    found = _resolve(entries, argv0)
    if isinstance(found, str):
        return BadInput(f"{what}: {found}", hint=_suggest(manifest, argv0))
    if found.type is not EntryType.FILE:
        return BadInput(f"{what}: it is a directory", hint=_suggest(manifest, argv0))
    if not found.mode & 0o001:
        return BadInput(
            f"{what}: /{found.path} has mode {found.mode:03o}, not executable for everybody",
            hint="chmod o+rx it in the source of the image: containers run as a user of their own, not as its owner",
        )
    return None


def _resolve(entries: dict[str, TreeEntry], path: str) -> TreeEntry | str:
    """Return the entry that `path` leads to, or why it leads nowhere."""
    found = follow(entries, path)
    for name in found.folders:
        if not entries[name].mode & 0o001:
            return f"the directory /{name} has mode {entries[name].mode:03o}, closed for everybody but its owner"
    match found.stop:
        case Stop.MISSING:
            return f"the image has no /{found.at}"
        case Stop.CIRCLE:
            return f"/{found.at} is a link that leads round in a circle"
        case Stop.FILE:
            return f"/{found.at} is not a directory"
        case _:
            return entries.get(found.path) or "it is a directory"


def _suggest(manifest: TreeManifest, argv0: str) -> str:
    """Return a hint with up to three executables of the image that have the same or a like name."""
    programs = [entry.path for entry in manifest.entries if entry.type is EntryType.FILE and entry.mode & 0o111]
    programs += [entry.path for entry in manifest.entries if entry.type is EntryType.LINK and "bin/" in entry.path]
    name = argv0.rpartition("/")[2]
    same = sorted(path for path in programs if path.rpartition("/")[2] == name)
    near = same or difflib.get_close_matches(argv0.lstrip("/"), programs[:20_000], n=3, cutoff=0.6)
    if not near:
        names = {path.rpartition("/")[2]: path for path in programs}
        near = [names[found] for found in difflib.get_close_matches(name, list(names)[:20_000], n=3, cutoff=0.7)]
    if near:
        return "did you mean " + " or ".join(f"/{path}" for path in near[:3]) + "?"
    if not programs:
        return "the image holds no executable file at all"
    return "write the absolute path of a program inside the image"
