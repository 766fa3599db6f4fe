"""What one file's content says about the files it will ask for: ELF headers, Python imports, `#!` lines. Pure.

Read once for each content, in the confined child, and kept with the layer: the closure never opens a file again.
"""

from __future__ import annotations

import ast
import io
import re
from dataclasses import dataclass
from typing import Final

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

VERSION: Final = 1
_MOST_PYTHON: Final = 8 << 20
_MOST_NAMES: Final = 4000
# A whole string of a library's name: what a program hands to dlopen, as libgcc_s.so.1 by the C library.
_LIBRARY: Final = re.compile(rb"(?<=\x00)lib[A-Za-z0-9_+.-]{1,80}\.so(?:\.[0-9]{1,4}){0,3}(?=\x00)")
_DLOPEN_NOTE: Final = re.compile(rb'"soname"\s*:\s*\[([^\]]{1,400})\]')


@dataclass(frozen=True, kw_only=True)
class ElfFacts:
    """needed: libraries the loader wants; rpath, runpath: where it looks first; hints: names that may be opened
    later (dlopen notes and strings that look like a library's name); machine: as pyelftools calls it."""

    machine: str
    interpreter: str = ""
    soname: str = ""
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """imports: modules as a Python source names them, leading dots for relative ones. script: words of a `#!` line."""

    elf: ElfFacts | None = None
    imports: tuple[str, ...] = ()
    script: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.elf or self.imports or self.script)


def read_facts(path: str, data: bytes) -> FileFacts:
    """Return what `data`, the content of the file `path`, asks for. Damaged input asks for nothing."""
    if data.startswith(b"\x7fELF"):
        return FileFacts(elf=_read_elf(data))
    script = _read_script(data)
    python = path.endswith(".py") or (script and "python" in script[0])
    return FileFacts(script=script, imports=_read_imports(data) if python else ())


def is_telling(path: str, start: bytes) -> bool:
    """Tell whether a file with these first bytes may have facts at all."""
    return start.startswith((b"\x7fELF", b"#!")) or path.endswith(".py")


def _read_script(data: bytes) -> tuple[str, ...]:
    if not data.startswith(b"#!"):
        return ()
    line = data[2:400].split(b"\n", 1)[0].decode(errors="replace").strip()
    words = tuple(line.split(None, 1))
    if words and words[0].endswith("/env") and len(words) > 1:
        return tuple(f"/usr/bin/{word}" if index == 0 else word for index, word in enumerate(words[1].split()))
    return words


def _read_elf(data: bytes) -> ElfFacts | None:
    try:
        elf = ELFFile(io.BytesIO(data))
        found: dict[str, list[str]] = {"needed": [], "rpath": [], "runpath": [], "soname": []}
        interpreter = ""
        for segment in elf.iter_segments():
            if isinstance(segment, InterpSegment):
                interpreter = segment.get_interp_name()
            elif isinstance(segment, DynamicSegment):
                for tag in segment.iter_tags():
                    name = str(tag.entry.d_tag).removeprefix("DT_").lower()
                    if name in found and len(found[name]) < _MOST_NAMES:
                        found[name].append(str(getattr(tag, name)))
        hints = _hints(data, set(found["needed"]) | set(found["soname"])) if interpreter or found["needed"] else ()
        return ElfFacts(
            machine=str(elf.header.e_machine),
            interpreter=interpreter,
            soname="".join(found["soname"][:1]),
            needed=tuple(found["needed"]),
            rpath=_folders(found["rpath"]),
            runpath=_folders(found["runpath"]),
            hints=hints,
        )
    except (ELFError, UnicodeError, ValueError, KeyError, AttributeError, TypeError, OSError, AssertionError):
        return None


def _folders(texts: list[str]) -> tuple[str, ...]:
    return tuple(folder for text in texts for folder in text.split(":") if folder)


def _hints(data: bytes, known: set[str]) -> tuple[str, ...]:
    names = {one.decode() for one in _LIBRARY.findall(data)}
    for listed in _DLOPEN_NOTE.findall(data):
        names |= {one.strip(b' "').decode(errors="replace") for one in listed.split(b",")}
    return tuple(sorted(names - known)[:_MOST_NAMES])


def _read_imports(data: bytes) -> tuple[str, ...]:
    if len(data) > _MOST_PYTHON:
        return ()
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            names.add(start)
            joined = start if start.endswith(".") else f"{start}."
            names |= {joined + alias.name for alias in node.names if alias.name != "*"}
        elif isinstance(node, ast.Call) and (name := _imported_by_name(node)):
            names.add(name)
    return tuple(sorted(names)[:_MOST_NAMES])


def _imported_by_name(node: ast.Call) -> str:
    """Return the module that a call names in a literal, of importlib or of the function behind `import`."""
    function = node.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if called not in {"import_module", "__import__"} or not node.args:
        return ""
    first = node.args[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
