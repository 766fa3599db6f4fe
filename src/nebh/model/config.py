"""Configs of a release: which files a node renders, and from which signed bundle."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OnChange(StrEnum):
    """What follows when a release changes nothing but this file's text: a new instance, a reload of the running one, or
    nothing at all (the program looks by itself)."""

    RESTART = "restart"
    RELOAD = "reload"
    NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """A file that is rendered for each node. path: absolute, in the container; template: its name in the bundle; mode:
    permission bits; signal: without SIG, or argv: a program of the image, how it is reloaded."""

    path: str
    template: str
    mode: int = 0o444
    on_change: OnChange = OnChange.RESTART
    signal: str = ""
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ConfigBundle:
    """The object that templates and layers of a release travel in. digest: hex SHA-256 of its canonical bytes."""

    digest: str
    bytes: int
