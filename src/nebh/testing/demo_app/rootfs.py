"""A root file system with what a service runs and nothing else: chosen by allow-list, not cleaned by deny-list.

Kept of the packages: the programs named, Python's library where Python is one of them, and the shared libraries that
these need, found by following DT_NEEDED. So there is no shell, package manager, documentation or setuid file to remove.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import py_compile
import re
import shutil
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nebh.testing.demo_app.debian import MERGED, fetch_packages, read_members
from nebh.testing.demo_app.elf import is_elf, needed_libraries

RECIPE = "1"
PYTHON = "usr/lib/python3"
_UNUSED = re.compile(
    r"usr/lib/python3[.\d]*/("
    r"(dist-packages/.*/|)(tests?|testing)/|(idlelib|lib2to3|tkinter|turtledemo|ensurepip|pydoc_data|distutils|venv|curses"
    r"|dbm|sqlite3|config-[^/]+)/|lib-dynload/(nis|_dbm|_gdbm|_curses|_curses_panel|readline|_tkinter|_sqlite3|_test\w*"
    r"|xx\w+|_crypt|audioop|ossaudiodev)\.)"
)
_LIBRARY = re.compile(r"usr/lib(?:64)?/(?:[^/]+-linux-gnu/)?[^/]+\.so(?:\.[^/]*)?\Z")
_SKIPPED = ("perl", "libperl", "dpkg_", "tar_", "debconf_", "gcc-")
_FOLDERS = ("dev", "etc", "proc", "run", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64")
_FILES = {
    "etc/passwd": b"root:x:0:0:root:/:/nonexistent\napp:x:10001:10001:app:/:/nonexistent\n",
    "etc/group": b"root:x:0:\napp:x:10001:\n",
    "etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hosts": b"",
    "etc/hostname": b"",
    "etc/resolv.conf": b"",
}


@dataclass(frozen=True, kw_only=True)
class Item:
    """A file (content, whether it may be run) or a link (target)."""

    content: bytes = b""
    runs: bool = False
    target: str = ""


def build_rootfs(
    target: Path, *, packages: tuple[str, ...], programs: tuple[str, ...], files: Mapping[str, bytes], cache: Path
) -> Path:
    """Make `target` a root file system for `programs` (paths below /usr/bin) of Debian `packages`, plus `files` by path.

    The part from packages is kept in `cache` by packages and programs and linked from there; remove the cache to get
    Debian's newer versions. Modes are 0755 and 0644, times 0: one set of package versions gives one tree.
    """
    wish = "\0".join((RECIPE, *sorted(packages), "", *sorted(programs)))
    base = cache / "trees" / hashlib.sha256(wish.encode()).hexdigest()[:16]
    if not base.is_dir():
        beside = base.with_name(f".{base.name}.{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        _lay(beside, choose(fetch_packages(packages, cache=cache), programs=programs))
        beside.rename(base)
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _link_tree(base, target)
    for path, content in {**_FILES, **files}.items():  # not linked: whoever changes them changes no cache
        _write(target / path, content, runs=False)
    return target


def choose(archives: Iterable[Path], *, programs: tuple[str, ...]) -> dict[str, Item]:
    """Return what is kept, by path."""
    items: dict[str, Item] = {}
    for archive in archives:
        if not archive.name.startswith(_SKIPPED):
            items |= {path: _item(path, member, data) for path, member, data in read_members(archive)}
    kept = {f"usr/bin/{program}": items[f"usr/bin/{program}"] for program in programs}
    if any(program.startswith("python") for program in programs):
        kept |= {path: item for path, item in items.items() if path.startswith(PYTHON) and not _UNUSED.match(path)}
        # loaded by name at run time when a thread ends
        kept |= {path: item for path, item in items.items() if posixpath.basename(path) == "libgcc_s.so.1"}
    libraries = {posixpath.basename(path): path for path in sorted(items) if _LIBRARY.match(path)}
    _follow(kept, items, libraries)
    return {path: item for path, item in sorted(kept.items()) if item.target == "" or _leads_somewhere(path, kept)}


def _follow(kept: dict[str, Item], items: Mapping[str, Item], libraries: Mapping[str, str]) -> None:
    """Add the libraries that what is kept needs, and what kept links lead to."""
    todo = list(kept)
    while todo:
        path = todo.pop()
        item = kept[path]
        wanted = [_led_to(path, item.target)] if item.target else []
        if is_elf(item.content):
            wanted += [libraries[name] for name in needed_libraries(item.content) if name in libraries]
            wanted += [libraries[name] for name in libraries if name.startswith("ld-linux")]
        for more in wanted:
            if more in items and more not in kept and not _UNUSED.match(more):
                kept[more] = items[more]
                todo.append(more)


def _led_to(path: str, target: str) -> str:
    joined = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target)).strip("/")
    return f"usr/{joined}" if joined.partition("/")[0] in MERGED else joined


def _leads_somewhere(path: str, kept: Mapping[str, Item]) -> bool:
    led = _led_to(path, kept[path].target)
    return led in kept or any(other.startswith(f"{led}/") for other in kept)


def _item(path: str, member: tarfile.TarInfo, data: bytes) -> Item:
    if member.issym():
        return Item(target=member.linkname)
    if member.islnk():
        return Item(target=posixpath.relpath(member.linkname.removeprefix("./"), posixpath.dirname(path)))
    return Item(content=data, runs=bool(member.mode & 0o111))


def _lay(target: Path, items: Mapping[str, Item]) -> None:
    for folder in _FOLDERS:
        (target / folder).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (target / name).symlink_to(f"usr/{name}")
    for path, item in items.items():
        if item.target:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).symlink_to(item.target)
        else:
            _write(target / path, item.content, runs=item.runs)
    _compile(target, items)
    for made in sorted(target.rglob("*"), reverse=True):
        if made.is_dir() and not made.is_symlink():
            made.chmod(0o755)
        os.utime(made, (0, 0), follow_symlinks=False)
    target.chmod(0o755)


def _compile(target: Path, items: Mapping[str, Item]) -> None:
    """Store byte code where this Python writes the image's format: a read-only root file system cannot keep its own."""
    version = f"{PYTHON}.{sys.version_info.minor}/"
    if not any(path.startswith(version) for path in items):
        return
    for path in items:
        if path.startswith(PYTHON) and path.endswith(".py") and not items[path].target:
            name = posixpath.basename(path).removesuffix(".py")
            cached = target / posixpath.dirname(path) / "__pycache__" / f"{name}.{sys.implementation.cache_tag}.pyc"
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(target / path), str(cached), f"/{path}", quiet=2, invalidation_mode=mode)
            if cached.exists():
                cached.chmod(0o644)


def _link_tree(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target, symlinks=True, copy_function=os.link)
    except (OSError, shutil.Error):  # another file system, or one without hard links
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)


def _write(path: Path, content: bytes, *, runs: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link into the cache
    path.write_bytes(content)
    path.chmod(0o755 if runs else 0o644)
    os.utime(path, (0, 0))
