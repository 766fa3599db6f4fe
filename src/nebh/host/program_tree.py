"""Which files our programs are made of, and whether anyone but root can change them."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nebh.model.errors import BadInput

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, kw_only=True)
class ProgramTree:
    """prefix: the environment of the interpreter; python: its executable there; paths: where modules come from."""

    prefix: Path
    python: Path
    paths: tuple[Path, ...]

    @property
    def env(self) -> dict[str, str]:
        """The environment that makes another process find the same modules."""
        return {"PYTHONPATH": os.pathsep.join(map(str, self.paths)), "PYTHONDONTWRITEBYTECODE": "1"}

    def argv(self, program: str) -> tuple[str, ...]:
        """Return how `nebh.programs.<program>` is started; nothing of the current folder gets in."""
        return (str(self.python), "-P", "-m", f"nebh.programs.{program}")


def own_tree() -> ProgramTree:
    """Return the tree this process runs from: our package, and the folders of installed modules beside it."""
    package = Path(__file__).resolve().parents[2]
    installed = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    found = dict.fromkeys([package, *(path for path in installed if path.is_dir() and str(path) in sys.path)])
    return ProgramTree(prefix=Path(sys.prefix), python=Path(sys.executable), paths=tuple(found))


def check_tree(tree: ProgramTree) -> None:
    """Raises BadInput when anyone but root could change what our programs are made of. Looks at every file of our
    package and of the installed modules (some 10 ms per thousand), and at every folder on the way to them."""
    for path in (tree.python, tree.prefix, *tree.paths):
        for step in _way(path):
            _must_be_roots(step)
    for folder in (*tree.paths,):
        for path in _below(folder):
            _must_be_roots(path)


def _way(path: Path) -> Iterator[Path]:
    """Every folder and link on the way to `path`, links followed."""
    seen: set[Path] = set()
    todo = [path]
    while todo:
        one = todo.pop()
        for step in (one, *one.parents):
            if step in seen:
                continue
            seen.add(step)
            yield step
            if step.is_symlink():
                target = step.readlink()
                todo.append(target if target.is_absolute() else Path(os.path.normpath(step.parent / target)))


def _below(folder: Path) -> Iterator[Path]:
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(top, name)


def _must_be_roots(path: Path) -> None:
    try:
        state = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(state.st_mode):
        problem = "" if state.st_uid == 0 else f"belongs to user {state.st_uid}"
    elif state.st_uid != 0:
        problem = f"belongs to user {state.st_uid}"
    else:
        # a sticky folder too: whoever may add a name may add one that is not there yet
        problem = "can be written by others than root" if state.st_mode & _OTHERS else ""
    if problem:
        raise BadInput(
            f"cannot run these programs as root: {path} {problem}",
            hint="`sudo make install` puts a copy that only root can change under /opt/nebh",
        )


def unreachable_for_others(path: Path) -> Path | None:
    """Return the first folder on the way to `path` that an ordinary user may not pass; None when there is none."""
    for step in sorted(_way(path), key=lambda one: len(one.parts)):
        try:
            state = step.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(state.st_mode) and not state.st_mode & stat.S_IXOTH:
            return step
    return None
