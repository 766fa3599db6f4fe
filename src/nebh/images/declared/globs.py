"""Globs over absolute paths of an image: `*` within one name, `**` across folders; a folder stands for all below it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache


class Globs:
    """Several globs as one question."""

    def __init__(self, globs: Iterable[str]) -> None:
        self.texts = tuple(globs)
        self._patterns = tuple(_compile(text) for text in self.texts)
        self.matched: set[str] = set()

    def match(self, path: str) -> bool:
        """Tell whether the relative canonical `path` or a folder above it is meant, and remember by which glob."""
        found = False
        for text, pattern in zip(self.texts, self._patterns, strict=True):
            if pattern.match(path):
                self.matched.add(text)
                found = True
        return found

    def unmatched(self) -> tuple[str, ...]:
        """Return the globs that have matched nothing so far."""
        return tuple(text for text in self.texts if text not in self.matched)


@lru_cache(maxsize=4096)
def _compile(text: str) -> re.Pattern[str]:
    parts = []
    rest = text.strip("/")
    while rest:
        if rest.startswith("**/"):
            parts.append("(?:.*/)?")
            rest = rest[3:]
        elif rest.startswith("**"):
            parts.append(".*")
            rest = rest[2:]
        elif rest[0] == "*":
            parts.append("[^/]*")
            rest = rest[1:]
        elif rest[0] == "?":
            parts.append("[^/]")
            rest = rest[1:]
        else:
            parts.append(re.escape(rest[0]))
            rest = rest[1:]
    return re.compile("".join(parts) + r"(?:/.*)?\Z", re.DOTALL)
