"""Where a path leads inside an image: links are followed, and nothing leads out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from nebh.model.image import EntryType, TreeEntry

_MOST_LINKS: Final = 40


class Stop(Enum):
    """Why a path leads nowhere: nothing is there, links lead round in a circle, a file stands where a folder must be."""

    MISSING = auto()
    CIRCLE = auto()
    FILE = auto()


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where a path leads. path: the last one reached, "" when it leads nowhere and for the root; links, folders: those
    on the way; stop, at: why and where it ends too early."""

    path: str = ""
    links: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    stop: Stop | None = None
    at: str = ""


def follow(entries: Mapping[str, TreeEntry], path: str) -> Found:
    """Follow an absolute or relative path from the root of the tree. entries: by path."""
    todo = [part for part in reversed(path.split("/")) if part]
    here: list[str] = []
    links: list[str] = []
    folders: list[str] = []
    stop: Stop | None = None
    current = ""
    while todo:
        part = todo.pop()
        if part in {".", ".."}:
            here = here[:-1] if part == ".." else here
            continue
        current = "/".join((*here, part))
        entry = entries.get(current)
        if entry is None:
            stop = Stop.MISSING
        elif entry.type is EntryType.LINK:
            links.append(current)
            stop = Stop.CIRCLE if len(links) > _MOST_LINKS else None
            here = [] if entry.target.startswith("/") else here
            todo.extend(part for part in reversed(entry.target.split("/")) if part)
        elif todo and entry.type is EntryType.FILE:
            stop = Stop.FILE
        else:
            folders += [current] if todo else []
            here.append(part)
        if stop is not None:
            return Found(links=tuple(links), folders=tuple(folders), stop=stop, at=current)
    return Found(path="/".join(here), links=tuple(links), folders=tuple(folders))
