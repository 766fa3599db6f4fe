"""What of a tree is needed: beginning at the entrypoint, everything that something needed will ask for. Pure.

Followed: links, `#!` lines, the ELF loader, needed libraries with rpath and runpath, names that look like arguments of
dlopen, Python's imports, and what slices declare. Whatever a program computes only while it runs, only `keep` can say.
"""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nebh.images.declared.assembly import Tree, parents
from nebh.images.declared.facts import ElfFacts, FileFacts
from nebh.images.declared.globs import Globs
from nebh.images.declared.modules import PythonModules
from nebh.images.declared.slices import Slice, SliceRule
from nebh.model.image import EntryType

_TRIPLES = {"EM_X86_64": "x86_64-linux-gnu", "EM_AARCH64": "aarch64-linux-gnu"}


@dataclass(kw_only=True)
class Closure:
    """kept: paths, links on the way included. missing: what was asked for and is not there, one line each.
    rules: of slices, those that hold."""

    kept: set[str] = field(default_factory=set)
    missing: dict[str, None] = field(default_factory=dict)
    rules: list[SliceRule] = field(default_factory=list)


class Finder:
    """One search. `facts`: by SHA-256 of contents."""

    def __init__(
        self,
        tree: Tree,
        facts: dict[str, FileFacts],
        *,
        slices: Iterable[Slice],
        python_path: tuple[str, ...] = (),
        whole: Callable[[str], bool] = lambda _: False,
        own: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """whole: of an origin, whether everything that it brought is kept once a part is; own: whether it is the
        project's code, whose imports should all be there (packages try many that need not be)."""
        self.tree, self.facts, self.whole, self.own = tree, facts, whole, own
        self.closure = Closure()
        self._loaded: list[str] = []
        self._todo: list[tuple[str, tuple[str, ...]]] = []
        self._rules = [(Globs((rule.when,)), rule) for one in slices for rule in one.rules]
        self._modules = PythonModules(tree, path=python_path)
        self._by_origin: dict[str, list[str]] = {}
        for path, origin in tree.origin.items():
            if path in tree.entries:
                self._by_origin.setdefault(origin, []).append(path)

    def add_command(self, argv: tuple[str, ...]) -> None:
        """Begin at a command: its program, and the arguments that are files or Python modules."""
        if argv:
            self.need(argv[0], by="the entrypoint")
        for index, word in enumerate(argv[1:], start=1):
            if word.startswith("/") and self.tree.walk(word).path:
                self._modules.add_folder(posixpath.dirname(word.strip("/")))
                self.need(word, by="the entrypoint")
            if argv[index - 1] == "-m":
                self._need_module(word, "", by="the entrypoint")

    def add_globs(self, globs: Iterable[str]) -> tuple[str, ...]:
        """Begin at every path that the globs mean; return the globs that mean nothing."""
        wanted = Globs(globs)
        for path in sorted(self.tree.entries):
            if wanted.match(path) and self.tree.walk(path).path:
                self.need(path, by="keep")
        return wanted.unmatched()

    def run(self) -> Closure:
        """Follow everything to its end."""
        while self._todo:
            self._follow(*self._todo.pop())
        return self.closure

    def need(self, path: str, *, by: str, inherited: tuple[str, ...] = ()) -> bool:
        """Keep what `path` leads to and look at it later. Return whether it is there."""
        found = self.tree.walk(path)
        if not found.path:
            self.closure.missing[f"{path}, wanted by {by}"] = None
            return False
        for one in (*found.links, found.path):
            if one not in self.closure.kept:
                self.closure.kept.add(one)
                self.closure.kept.update(parents(one))
                self._todo.append((one, inherited))
        return True

    def _follow(self, path: str, inherited: tuple[str, ...]) -> None:
        for globs, rule in self._rules:
            if rule not in self.closure.rules and globs.match(path):
                self._hold(rule, path)
        entry = self.tree.entries[path]
        origin = self.tree.origin[path]
        if self.whole(origin):
            for other in self._by_origin.pop(origin, ()):
                self.need(other, by=origin)
        if entry.type is not EntryType.FILE:
            return
        facts = self.facts.get(entry.sha256)
        if facts is None:
            return
        if facts.script:
            self.need(facts.script[0], by=f"/{path}")
        if facts.elf is not None:
            self._follow_elf(path, facts.elf, inherited)
        for name in facts.imports:
            self._need_module(name, path, by=f"/{path}")

    def _hold(self, rule: SliceRule, path: str) -> None:
        self.closure.rules.append(rule)
        self._loaded.extend(rule.libraries)
        self.add_globs(rule.keep)
        for name in rule.modules:
            self._need_module(name, "", by=f"the slice of /{path}")

    def _follow_elf(self, path: str, elf: ElfFacts, inherited: tuple[str, ...]) -> None:
        if elf.interpreter:
            self.need(elf.interpreter, by=f"/{path}")
        triple = _TRIPLES.get(elf.machine, "")
        origin = posixpath.dirname(path)
        rpath, runpath = ([_expand(one, origin, triple) for one in folders] for folders in (elf.rpath, elf.runpath))
        # An rpath counts for what is loaded from here on, too; with a runpath nothing but that counts.
        passed = (*inherited, *(() if elf.runpath else rpath))
        folders = (*(runpath or (*rpath, *inherited)), *_system_folders(triple), *self._loaded)
        for name in (*elf.needed, *elf.hints):
            if found := self._find_library(name, folders, elf):
                self.need(found, by=f"/{path}", inherited=passed)
            elif name in elf.needed:
                self.closure.missing[f"{name}, wanted by /{path}"] = None

    def _find_library(self, name: str, folders: tuple[str, ...], elf: ElfFacts) -> str:
        if "/" in name:
            return name if self.tree.walk(name).path else ""
        for folder in folders:
            found = self.tree.walk(f"{folder}/{name}")
            if found.path and self._is_like(found.path, elf):
                return f"{folder}/{name}"
        return ""

    def _is_like(self, path: str, elf: ElfFacts) -> bool:
        facts = self.facts.get(self.tree.entries[path].sha256)
        return facts is not None and facts.elf is not None and facts.elf.machine == elf.machine

    def _need_module(self, name: str, importer: str, *, by: str) -> None:
        found = self._modules.find(name, importer)
        for path in found:
            self.need(path, by=by)
        if not found and importer and self.own(self.tree.origin[importer]) and not name.startswith("."):
            top = name.split(".", maxsplit=1)[0]
            if top not in sys.builtin_module_names and not self._modules.find(top, importer):
                self.closure.missing[f"the module {top}, wanted by {by}"] = None


def _system_folders(triple: str) -> tuple[str, ...]:
    system = (f"lib/{triple}", f"usr/lib/{triple}") if triple else ()
    return (*system, "lib64", "usr/lib64", "lib", "usr/lib", "usr/local/lib")


def _expand(folder: str, origin: str, triple: str) -> str:
    for old, new in (("$ORIGIN", f"/{origin}"), ("${ORIGIN}", f"/{origin}"), ("$LIB", f"lib/{triple}")):
        folder = folder.replace(old, new)
    return folder.replace("${LIB}", f"lib/{triple}")
