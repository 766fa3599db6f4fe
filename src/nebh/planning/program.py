"""Whether an image holds the program that a release starts."""

from __future__ import annotations

import posixpath

from nebh.model.image import EntryType, TreeEntry, TreeManifest

MOST_LINKS = 40
_MODE_OTHERS_EXECUTE = 0o001


def find_program_problem(manifest: TreeManifest, program: str) -> str:
    """Return why `program` (absolute) cannot be executed by an ordinary user in this image, or ""."""
    if not program.startswith("/"):
        return f"{program!r} is not an absolute path"
    entries = {entry.path: entry for entry in manifest.entries}
    found = resolve(entries, program)
    if found is None:
        return f"there is no {program} in it"
    if found.type is not EntryType.FILE:
        return f"{program} is a directory"
    if not found.mode & _MODE_OTHERS_EXECUTE:
        return f"{program} has mode {found.mode:03o}: others may not execute it"
    return ""


def resolve(entries: dict[str, TreeEntry], path: str) -> TreeEntry | None:
    """Return the entry that `path` leads to inside the image, following links; None = nothing, or a loop."""
    pending = [part for part in path.split("/") if part not in {"", "."}]
    here, links = "", 0
    while pending:
        part = pending.pop(0)
        if part == "..":
            here = posixpath.dirname(here)
            continue
        if part in {"", "."}:
            continue
        step = f"{here}/{part}" if here else part
        entry = entries.get(step)
        if entry is None:
            return None
        if entry.type is EntryType.LINK:
            links += 1
            if links > MOST_LINKS:
                return None
            pending = entry.target.split("/") + pending
            here = "" if entry.target.startswith("/") else here
            continue
        if entry.type is EntryType.FILE and pending:
            return None
        here = step
    return entries.get(here)
