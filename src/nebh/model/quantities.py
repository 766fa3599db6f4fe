"""Sizes and durations as people write them. Bytes are int; durations are int milliseconds."""

from __future__ import annotations

import re

from nebh.model.errors import BadInput

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)(B?)\Z")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\Z")
_SIZE_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_size(text: str | int) -> int:
    """Return bytes: `64M` and `64MiB` are 64*2**20, `64MB` is 64*10**6. Raises BadInput."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = _SIZE.match(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise BadInput(f"{text!r} is not a size", hint="write 64M, 1.5G or a number of bytes")
    number, prefix, binary, unit = found.groups()
    base = 1000 if unit and not binary and prefix else 1024
    return int(float(number) * base ** _SIZE_POWER[prefix])


def parse_duration(text: str | int) -> int:
    """Return milliseconds: `250ms`, `10s`, `5m`, `2h`, `30d`. Raises BadInput."""
    if isinstance(text, int) and not isinstance(text, bool) and text == 0:
        return 0
    found = _DURATION.match(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise BadInput(f"{text!r} is not a duration", hint="write 250ms, 10s, 5m, 2h or 30d")
    return int(float(found.group(1)) * _MILLISECONDS[found.group(2)])


def render_size(size: int) -> str:
    """Return `size` bytes for people: `64 MiB`, `1.5 GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return (
                f"{value:.0f} {unit}" if unit == "B" or value >= 100 or value == int(value) else f"{value:.1f} {unit}"
            )
        value /= 1024
    return f"{value:.1f} TiB"


def render_duration(milliseconds: float) -> str:
    """Return a duration for people: `0.7 ms`, `850 ms`, `1.2 s`, `4 m 05 s`, `2 h 10 m`, `3 d 4 h`."""
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} m"
    return f"{hours // 24} d {hours % 24} h"
