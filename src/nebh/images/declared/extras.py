"""What no source brings and every image needs: names of users, and what maintainer scripts would have made."""

from __future__ import annotations

import hashlib
from typing import Final

from nebh.images.declared.assembly import Tree
from nebh.images.declared.closure import Closure
from nebh.images.declared.globs import Globs
from nebh.images.declared.slices import JoinForm, SliceRule, load_slices
from nebh.images.declared.truststore import render_truststore
from nebh.images.objects import ObjectFolder
from nebh.model.build import ImageDeclaration
from nebh.model.image import EntryType, TreeEntry

_ORIGIN: Final = "base"
_USERS: Final = """root:x:0:0:root:/:/nonexistent
app:x:{user}:{user}:app:/:/nonexistent
nobody:x:65534:65534:nobody:/:/nonexistent
"""
_GROUPS: Final = "root:x:0:\napp:x:{user}:\nnogroup:x:65534:\n"
_NAMES: Final = "passwd: files\ngroup: files\nhosts: files dns\n"


def add_extras(tree: Tree, declared: ImageDeclaration, closure: Closure | None, objects: ObjectFolder) -> None:
    """Add folders, user names and what slices make. Nothing that a source brought is changed."""
    rules = closure.rules if closure is not None else _matching(tree)
    for rule in rules:
        for path in rule.directories:
            _add_folder(tree, path)
        for join in rule.joins:
            wanted = Globs((join.files,))
            parts = [entry for entry in tree.files() if wanted.match(entry.path)]
            if parts and not tree.walk(join.to).path:
                held = [b"".join(objects.read(entry.sha256)) for entry in parts if entry.size]
                _add_file(tree, join.to, _join(held, join.form), objects)
        for path, target in (rule.links or {}).items():
            if not tree.walk(path).path and tree.walk(target).path:
                entry = TreeEntry(path=path.strip("/"), type=EntryType.LINK, mode=0o777, target=target)
                tree.add([entry], origin=_ORIGIN)
    for path in declared.directories:
        _add_folder(tree, path)
    for path, text in (("/etc/passwd", _USERS), ("/etc/group", _GROUPS), ("/etc/nsswitch.conf", _NAMES)):
        if not tree.walk(path).path:
            _add_file(tree, path, text.format(user=declared.user).encode(), objects)


def _join(parts: list[bytes], form: JoinForm) -> bytes:
    return b"".join(parts) if form is JoinForm.BYTES else render_truststore(parts)


def _matching(tree: Tree) -> list[SliceRule]:
    rules = [(Globs((rule.when,)), rule) for one in load_slices() for rule in one.rules]
    return [rule for globs, rule in rules if any(globs.match(path) for path in tree.entries)]


def _add_folder(tree: Tree, path: str) -> None:
    if not tree.walk(path).path:
        tree.add([TreeEntry(path=path.strip("/"), type=EntryType.DIRECTORY, mode=0o755)], origin=_ORIGIN)


def _add_file(tree: Tree, path: str, data: bytes, objects: ObjectFolder) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if data and not objects.has(digest):
        objects.put(digest, len(data), [data])
    entry = TreeEntry(path=path.strip("/"), type=EntryType.FILE, mode=0o644, size=len(data), sha256=digest)
    tree.add([entry], origin=_ORIGIN)
