"""An image's tree in memory: layers are laid over each other here, whiteouts resolved, mount points added."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nebh.images.intake import WHITEOUT, Intake, Item
from nebh.images.manifest import (
    EMPTY_SHA256,
    FORMAT,
    KERNEL_DIRECTORIES,
    MOUNT_DIRECTORIES,
    MOUNT_FILES,
    find_problem,
)
from nebh.model.image import EntryType, TreeEntry, TreeManifest

OPAQUE = ".wh..wh..opq"
_IMPLIED_MODE = 0o755


class _Node:
    """One path. `layer`: the newest layer that named it or something below it."""

    __slots__ = ("children", "item", "layer")

    def __init__(self, item: Item, layer: int) -> None:
        self.item, self.layer = item, layer
        self.children: dict[str, _Node] = {}


class ImageTree:
    """Layers, lowest first. A plain root file system is one layer without whiteouts."""

    def __init__(self, intake: Intake) -> None:
        """Errors and counts go through `intake`."""
        self._intake = intake
        self._root = _Node(Item("", EntryType.DIRECTORY, _IMPLIED_MODE), 0)
        self._layer = 0

    def add_layer(self, items: Iterable[Item], *, whiteouts: bool) -> None:
        """Lay `items` over what is there. With `whiteouts`, `.wh.x` hides x and `.wh..wh..opq` hides all of its
        directory, in lower layers only and whatever their place in the layer; without, such names are refused."""
        self._layer += 1
        plain: list[Item] = []
        for item in items:
            last = item.path.rpartition("/")[2]
            if not last.startswith(WHITEOUT):
                plain.append(item)
            elif not whiteouts:
                raise self._intake.refuse(
                    item.path, "this is a whiteout of an image layer", hint="import the whole OCI image, not one layer"
                )
            else:
                self._hide(item)
        for item in plain:
            self._put(item)

    def manifest(self) -> TreeManifest:
        """Return the tree as a valid manifest, mount points added. Raises BadInput naming a path that cannot be."""
        for path in MOUNT_DIRECTORIES:
            self._add_directory(path)
        for path in MOUNT_FILES:
            self._add_file(path)
        self._settle_modes()
        manifest = TreeManifest(
            format=FORMAT, entries=tuple(sorted(self._entries(), key=lambda entry: entry.path.encode()))
        )
        problem = find_problem(manifest)
        if problem:
            raise self._intake.refuse("/", problem)
        return manifest

    def entries(self) -> tuple[TreeEntry, ...]:
        """Return what was laid so far, sorted by path, without anything added."""
        return tuple(sorted(self._entries(), key=lambda entry: entry.path.encode()))

    def _put(self, item: Item) -> None:
        if item.path == "":
            if item.type is not EntryType.DIRECTORY:
                raise self._intake.refuse("/", "the root is not a directory")
            return
        if item.path in KERNEL_DIRECTORIES and item.type is not EntryType.DIRECTORY:
            raise self._intake.refuse(item.path, "this must be a directory: it is a mount point")
        parent = self._parent(item)
        name = item.path.rpartition("/")[2]
        old = parent.children.get(name)
        if item.type is None:
            item = self._resolve_hard_link(item)
        if old is not None and old.item.type is EntryType.DIRECTORY and item.type is EntryType.DIRECTORY:
            old.item, old.layer = item, self._layer
            return
        if old is not None and old.layer == self._layer:
            raise self._intake.refuse(item.path, "it stands twice, as different things")
        parent.children[name] = _Node(item, self._layer)

    def _parent(self, item: Item) -> _Node:
        node, walked = self._root, ""
        for part in item.path.split("/")[:-1]:
            walked = f"{walked}/{part}" if walked else part
            child = node.children.get(part)
            if child is None:
                child = node.children[part] = _Node(Item(walked, EntryType.DIRECTORY, _IMPLIED_MODE), self._layer)
                self._intake.counts["parent directories the source does not list were added"] += 1
            if child.item.type is not EntryType.DIRECTORY:
                what = "link" if child.item.type is EntryType.LINK else "file"
                raise self._intake.refuse(item.path, f"it lies below /{walked}, which is a {what}")
            child.layer = self._layer
            node = child
        return node

    def _resolve_hard_link(self, item: Item) -> Item:
        node: _Node | None = self._root
        for part in item.target.split("/"):
            node = node.children.get(part) if node is not None else None
        if node is None or node.item.type is EntryType.DIRECTORY:
            raise self._intake.refuse(item.path, f"a hard link to {item.target!r}, which is no file before it")
        found = node.item
        return Item(item.path, found.type, found.mode, found.size, found.target, found.sha256)

    def _hide(self, item: Item) -> None:
        folder, _, last = item.path.rpartition("/")
        name = last.removeprefix(WHITEOUT)
        if last != OPAQUE and (name in ("", ".", "..") or name.startswith(WHITEOUT)):
            raise self._intake.refuse(item.path, "this is no whiteout that an image may carry")
        if item.type is not EntryType.FILE and item.type is not None:
            raise self._intake.refuse(item.path, "a whiteout must be a file")
        node: _Node | None = self._root
        for part in filter(None, folder.split("/")):
            node = node.children.get(part) if node is not None else None
            if node is not None and node.item.type is EntryType.LINK:
                raise self._intake.refuse(item.path, f"the whiteout lies below the link /{node.item.path}")
        if node is None:
            return
        if last == OPAQUE:
            node.children.clear()
        else:
            node.children.pop(name, None)

    def _add_directory(self, path: str) -> None:
        node = self._root.children.get(path)
        if node is None:
            self._root.children[path] = _Node(Item(path, EntryType.DIRECTORY, _IMPLIED_MODE), self._layer)
            self._intake.lines.append(f"/{path}: added, it is a mount point")
        elif node.item.type is not EntryType.DIRECTORY:
            raise self._intake.refuse(path, "this must be a directory: it is a mount point")

    def _add_file(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        children = self._root.children[folder].children
        node = children.get(name)
        if node is not None and node.item.type is EntryType.FILE:
            return
        if node is not None and node.item.type is EntryType.DIRECTORY:
            raise self._intake.refuse(path, "this must be a file: it is a mount point")
        children[name] = _Node(Item(path, EntryType.FILE, 0o644, 0, "", EMPTY_SHA256), self._layer)
        how = "added, it is a mount point" if node is None else f"was a link to {node.item.target!r}, now an empty file"
        self._intake.lines.append(f"/{path}: {how}")

    def _settle_modes(self) -> None:
        """Give 0755 to the directories that are always mounted over: their own mode is never seen."""
        for name in {*KERNEL_DIRECTORIES, "tmp"}:
            node = self._root.children.get(name)
            if node is not None and node.item.mode != _IMPLIED_MODE:
                self._intake.lines.append(f"/{name}: mode {node.item.mode:o} is now 755, it is always mounted over")
                node.item = Item(name, EntryType.DIRECTORY, _IMPLIED_MODE)

    def _entries(self) -> Iterator[TreeEntry]:
        stack = [self._root]
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            item = node.item
            if node is not self._root and item.type is not None:
                yield TreeEntry(
                    path=item.path,
                    type=item.type,
                    mode=item.mode,
                    size=item.size,
                    target=item.target,
                    sha256=item.sha256,
                )
