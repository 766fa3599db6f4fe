"""Small images for tests, made in a second out of this machine's Python: the interpreter, the modules that one program
imports, the shared libraries they need, and nothing else."""

from __future__ import annotations

import atexit
import py_compile
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from nebh.host.run import Command, run
from nebh.model.errors import NotFound
from nebh.testing import example_app
from nebh.testing.container_rig import busybox
from nebh.testing.demo_app.elf import is_elf, needed_libraries

PYTHON = "/usr/bin/python3"
_FOLDERS = ("dev", "etc", "proc", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64")
_FILES = {
    "etc/passwd": "app:x:10001:10001:app:/:/nonexistent\n",
    "etc/group": "app:x:10001:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/hosts": "",
    "etc/hostname": "",
    "etc/resolv.conf": "",
}
# frozen modules do not always say where their file is
_LIST = """
import __future__, encodings.idna, encodings.latin_1, encodings.utf_8, importlib.util, os, pkgutil, runpy, signal, site, socket
import _sha1, _sha256, binascii, stringprep, sys, threading, time
root = os.path.dirname(os.__file__)
print(root)
for name, module in list(sys.modules.items()):
    inside = f"{root}/{name.replace('.', '/')}"
    print(vars(module).get("__file__") or "", f"{inside}.py", f"{inside}/__init__.py", sep="\\n")
"""


@cache
def _closure() -> tuple[str, tuple[str, ...]]:
    """Return (the folder of the standard library, the files that the program imports)."""
    if not Path(PYTHON).exists():
        raise NotFound(f"cannot build test images: there is no {PYTHON}", hint="apt-get install python3")
    lines = run(Command(argv=(PYTHON, "-I", "-B", "-c", _LIST))).text.splitlines()
    return lines[0], tuple(sorted({one for one in lines[1:] if Path(one).is_file()}))


@cache
def _libraries() -> tuple[str, ...]:
    """Return the shared libraries that interpreter and modules need, the loader among them."""
    todo = [str(Path(PYTHON).resolve()), *(one for one in _closure()[1] if ".so" in one)]
    found: set[str] = set()
    while todo:
        data = Path(todo.pop()).read_bytes()
        for name in needed_libraries(data) if is_elf(data) else ():
            places = [*sorted(Path("/usr/lib").glob("*-linux-gnu")), Path("/usr/lib64"), Path("/usr/lib")]
            path = next((f"{one}/{name}" for one in places if (one / name).exists()), "")
            if path and path not in found:
                found.add(path)
                todo.append(path)
    loaders = (str(one) for place in ("/lib64", "/lib") for one in Path(place).glob("ld-linux*") if one.exists())
    return tuple(sorted({*found, *loaders}))


def _put(tree: Path, source: str, *, mode: int) -> None:
    """Copy a file of this machine to the same place in the tree, its folder's links resolved."""
    parent = Path(source).parent
    folder = parent.resolve()
    if "/ld-linux" in source:  # the loader's place is fixed by the ABI; /lib and /lib64 are links into usr
        folder = parent if parent.is_relative_to("/usr") else Path(f"/usr{parent}")
    target = tree / folder.relative_to("/") / Path(source).name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copyfile(source, target)
        target.chmod(mode)


@cache
def _base() -> Path:
    """Return a tree with everything but the program, made once for this process."""
    tree = Path(tempfile.mkdtemp(prefix="nt-base-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, tree, ignore_errors=True)
    library, files = _closure()
    for name in _FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in ("lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    for source in (*files, *_libraries()):
        _put(tree, source, mode=0o755 if ".so" in source else 0o644)
    interpreter = tree / "usr/bin/python3"
    shutil.copyfile(PYTHON, interpreter)
    interpreter.chmod(0o755)
    (tree / library.lstrip("/") / "lib-dynload").mkdir(exist_ok=True)
    if library.endswith(f"python3.{sys.version_info.minor}"):
        for path in (tree / library.lstrip("/")).rglob("*.py"):
            _compile(path)
    for name, text in _FILES.items():
        (tree / name).write_text(text)
    return tree


def _compile(path: Path) -> None:
    cached = path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(path), str(cached), quiet=2, invalidation_mode=mode)


def build_image(tree: Path, *programs: str, version: str = "v1", shell: bool = False) -> Path:
    """Make `tree` a root file system whose /usr/bin/PROGRAM are `example_app`; "shop" is a Python module besides.
    version: what answers say. shell: with a busybox as /bin/sh and a file /usr/bin/curl: findings for lint.

    Raises NotFound where this machine has no /usr/bin/python3 (or, with `shell`, no static busybox)."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(_base(), tree, symlinks=True)
    text = Path(example_app.__file__).read_text(encoding="utf-8")
    for program in programs:
        _write(tree / "usr/bin" / program, f"#!{PYTHON} -IS\n{text}", mode=0o755)
        if program == "shop":
            _write(tree / _closure()[0].lstrip("/") / "shop.py", text, mode=0o644)
    _write(tree / "usr/lib/example/version", version, mode=0o644)
    if shell:
        (tree / "bin").mkdir()
        shutil.copyfile(busybox(), tree / "bin/sh")
        (tree / "bin/sh").chmod(0o755)
        _write(tree / "usr/bin/curl", "#!/bin/sh\n", mode=0o755)
    for path in (tree, *tree.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    return tree


def _write(path: Path, text: str, *, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
