"""Where Python finds a module inside an image. Pure; paths of the tree only."""

from __future__ import annotations

import posixpath
import re

from nebh.images.declared.assembly import Tree
from nebh.model.image import EntryType

_STDLIB = re.compile(r"usr/lib/python3\.\d+\Z")
_SITES = re.compile(r"usr/(?:local/)?lib/python3(?:\.\d+)?/(?:dist|site)-packages\Z")


class PythonModules:
    """The search path of the image's Python: declared folders, standard library, installed packages."""

    def __init__(self, tree: Tree, *, path: tuple[str, ...] = ()) -> None:
        self.tree = tree
        folders = [one for one, entry in tree.entries.items() if entry.type is EntryType.DIRECTORY]
        stdlib = sorted(one for one in folders if _STDLIB.match(one))
        self.folders = [
            *(one.strip("/") for one in path),
            *stdlib,
            *(f"{one}/lib-dynload" for one in stdlib),
            *sorted((one for one in folders if _SITES.match(one)), reverse=True),
        ]
        self._extensions: dict[str, dict[str, str]] = {}
        """By folder with any module in it: files of extensions by the name they are imported by."""
        self._found: dict[str, tuple[str, ...]] = {}
        for one in tree.entries:
            folder, _, name = one.rpartition("/")
            if name.endswith((".so", ".py")):
                extensions = self._extensions.setdefault(folder, {})
                if name.endswith(".so"):
                    extensions.setdefault(name.split(".", maxsplit=1)[0], one)

    def add_folder(self, folder: str) -> None:
        """Search `folder` first, as Python does with a script's own."""
        if folder not in self.folders:
            self.folders.insert(0, folder)
            self._found.clear()

    def find(self, name: str, importer: str) -> tuple[str, ...]:
        """Return the files of the module `name`, packages above it included; relative names start at `importer`."""
        if name.startswith("."):
            level = len(name) - len(name.lstrip("."))
            folder = posixpath.dirname(importer)
            for _ in range(level - 1):
                folder = posixpath.dirname(folder)
            rest = name.lstrip(".")
            return self._below(folder, rest.split(".") if rest else []) if folder else ()
        if name not in self._found:
            parts = name.split(".")
            self._found[name] = next((found for one in self.folders if (found := self._below(one, parts))), ())
        return self._found[name]

    def _below(self, folder: str, parts: list[str]) -> tuple[str, ...]:
        found: list[str] = []
        for part in parts:
            if not part:
                return tuple(found)
            here = f"{folder}/{part}"
            start = f"{here}/__init__.py"
            if start in self.tree.entries:
                found.append(start)
            elif f"{here}.py" in self.tree.entries:
                return (*found, f"{here}.py")
            elif extension := self._extensions.get(folder, {}).get(part):
                return (*found, extension)
            elif here not in self._extensions:
                return tuple(found)  # an attribute of the package, or something that is not here
            folder = here
        return tuple(found)
