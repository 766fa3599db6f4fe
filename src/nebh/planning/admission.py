"""Disk admission: a release is refused early when fetching it would endanger what is retained."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.quantities import render_size
from nebh.model.trust import Verdict


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes. free: what an unprivileged user may still write; reserve: what must stay free afterwards."""

    free: int
    reserve: int


def admit(disk: Disk, *, needed: int) -> Verdict:
    """Say whether `needed` more bytes fit above the reserve."""
    if disk.free - needed >= disk.reserve:
        return Verdict(ok=True)
    short = needed + disk.reserve - disk.free
    return Verdict(
        ok=False,
        reason=f"it needs {render_size(needed)} of disk, {render_size(disk.free)} are free and "
        f"{render_size(disk.reserve)} of them are kept in reserve",
        hint=f"free at least {render_size(short)}: lower `retention`, unpin releases, or add disk",
    )
