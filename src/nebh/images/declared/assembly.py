"""Layers laid over each other into one tree of names, as dpkg would: later ones win, links to folders are followed.

Pure: everything happens to names in memory. `bin`, `sbin`, `lib*` lead to `usr/...`, as on every Debian since 12.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from nebh.images.follow import Found, follow
from nebh.images.manifest import (
    EMPTY_SHA256,
    FORMAT,
    KERNEL_DIRECTORIES,
    MOUNT_DIRECTORIES,
    MOUNT_FILES,
    find_problem,
)
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry, TreeManifest

MERGED: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


@dataclass(kw_only=True)
class Tree:
    """entries by path; origin: which source brought a path."""

    entries: dict[str, TreeEntry] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)

    def add_merged_links(self) -> None:
        """Make /bin, /lib and so on links into /usr; those that lead nowhere are taken away by `prune`."""
        for name in MERGED:
            self._set(TreeEntry(path=name, type=EntryType.LINK, mode=0o777, target=f"usr/{name}"), "base")

    def add(self, entries: Iterable[TreeEntry], *, origin: str) -> None:
        """Lay `entries` (parents before children) over what is here. Raises BadInput for a file in place of a folder."""
        for entry in entries:
            folder, _, name = entry.path.rpartition("/")
            where = self._folder(folder, origin)
            path = f"{where}/{name}" if where else name
            old = self.entries.get(path)
            if path in KERNEL_DIRECTORIES and entry.type is not EntryType.DIRECTORY:
                raise BadInput(f"cannot lay {origin} over the image: /{path} must be a folder, it is a mount point")
            if old is not None and old.type is not entry.type:
                if entry.type is EntryType.DIRECTORY and old.type is EntryType.LINK:
                    self._folder(path, origin)
                    continue
                if old.type is EntryType.DIRECTORY:
                    raise BadInput(
                        f"cannot lay {origin} over the image: /{path} is a folder of {self.origin[path]}, here a "
                        f"{entry.type.value}"
                    )
            if old is not None and old.type is EntryType.DIRECTORY:
                continue
            self._set(replace(entry, path=path), origin)

    def walk(self, path: str) -> Found:
        """Follow an absolute or relative path through links, inside the tree."""
        return follow(self.entries, path)

    def remove(self, paths: Iterable[str]) -> None:
        """Take paths away; what stands below a folder goes with it."""
        gone = set(paths)
        for path in [one for one in self.entries if one in gone or any(up in gone for up in parents(one))]:
            del self.entries[path]

    def keep_only(self, paths: set[str]) -> None:
        """Take away what is neither in `paths` nor above one of them."""
        kept = paths | {up for path in paths for up in parents(path)}
        for path in [one for one in self.entries if one not in kept]:
            del self.entries[path]

    def prune(self) -> None:
        """Take away links that lead nowhere and folders that only held what is gone; declared folders are files of
        nobody and stay."""
        for name in MERGED:
            entry = self.entries.get(name)
            if entry is not None and entry.type is EntryType.LINK and entry.target not in self.entries:
                del self.entries[name]

    def files(self) -> Iterator[TreeEntry]:
        """Yield the files in the order of their paths."""
        for path in sorted(self.entries):
            if self.entries[path].type is EntryType.FILE:
                yield self.entries[path]

    def manifest(self) -> TreeManifest:
        """Return the tree as a manifest with its mount points. Raises BadInput naming a path that cannot be."""
        entries = dict(self.entries)
        for path in MOUNT_DIRECTORIES:
            entries[path] = TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755)
        for path in MOUNT_FILES:
            if path not in entries or entries[path].type is not EntryType.FILE:
                entries[path] = TreeEntry(path=path, type=EntryType.FILE, mode=0o644, sha256=EMPTY_SHA256)
        for path in list(entries):
            for up in parents(path):
                entries.setdefault(up, TreeEntry(path=up, type=EntryType.DIRECTORY, mode=0o755))
        ordered = tuple(sorted(entries.values(), key=lambda entry: entry.path.encode()))
        manifest = TreeManifest(format=FORMAT, entries=ordered)
        problem = find_problem(manifest)
        if problem:
            raise BadInput(f"cannot make an image of this: {problem}")
        return manifest

    def _folder(self, path: str, origin: str) -> str:
        """Return where the folder `path` really is, made when it is missing."""
        here = ""
        for part in filter(None, path.split("/")):
            current = f"{here}/{part}" if here else part
            entry = self.entries.get(current)
            if entry is not None and entry.type is EntryType.LINK:
                found = self.walk(current)
                current = found.path or self._target(current)
                if not found.path:
                    current = self._folder(current, origin)
                entry = self.entries.get(current)
            if entry is None and current:
                self._set(TreeEntry(path=current, type=EntryType.DIRECTORY, mode=0o755), origin)
            elif entry is not None and entry.type is EntryType.FILE:
                raise BadInput(
                    f"cannot lay {origin} over the image: /{path} lies below /{current}, a file of "
                    f"{self.origin[current]}"
                )
            here = current
        return here

    def _target(self, link: str) -> str:
        """Return the folder that a link names, whether it is there or not. Raises BadInput for one that cannot be."""
        target = self.entries[link].target
        parts = [] if target.startswith("/") else link.split("/")[:-1]
        for part in target.split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part not in {"", "."}:
                parts.append(part)
        found = "/".join(parts)
        if not found or found == link or found.startswith(f"{link}/") or self._leads_through(found, link):
            raise BadInput(f"cannot lay a folder over /{link}: the link leads nowhere")
        return found

    def _leads_through(self, path: str, link: str) -> bool:
        return any(
            (entry := self.entries.get(up)) is not None and entry.type is EntryType.LINK and up not in MERGED
            for up in (*parents(path), path)
            if up != link
        )

    def _set(self, entry: TreeEntry, origin: str) -> None:
        self.entries[entry.path] = entry
        self.origin[entry.path] = origin


def parents(path: str) -> Iterator[str]:
    """Yield the folders above `path`, nearest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
