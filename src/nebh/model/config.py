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


MOST_FILES = 64
MAX_BUNDLE = 4 << 20
"""Bytes of a bundle."""
_COVERED = ("/dev", "/proc", "/sys", "/tmp")
_GENERATED = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")


def find_place_problem(path: str) -> str:
    """Return why no file can be put at a path in a container, "" when one can."""
    words = path.split("/")
    if not path.startswith("/") or len(path) < 2 or len(path) > 1024:
        return "an absolute path of at most 1024 characters is needed"
    if any(word in {"", ".", ".."} or len(word) > 255 for word in words[1:]):
        return "it is not written canonically: no empty words, no . and no .."
    if not path.isprintable():
        return "it holds characters that cannot be seen"
    if path in _GENERATED:
        return "Nebh itself writes this file"
    if any(path == top or path.startswith(f"{top}/") for top in _COVERED):
        return f"nothing of an image is seen below /{words[1]}"
    return ""


@dataclass(frozen=True, kw_only=True)
class ConfigBundle:
    """The object that templates and layers of a release travel in. digest: hex SHA-256 of its canonical bytes."""

    digest: str
    bytes: int
