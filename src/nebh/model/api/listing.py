"""All there is of a kind. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.model.api.standing import NodeView, ServiceView
from nebh.model.image_ref import ImageRef


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """All nodes, by name."""

    nodes: tuple[NodeView, ...]


@dataclass(frozen=True, kw_only=True)
class Services:
    """All services, by name."""

    services: tuple[ServiceView, ...]


@dataclass(frozen=True, kw_only=True)
class ReleaseView:
    """A listed release in short. signed_at: Unix seconds. outcome: how its newest deployment through this controller
    stands, "" = there was none; committed_at: Unix ms when nodes last committed it, 0 = not known to."""

    epoch: int
    counter: int
    signed_at: int
    images: dict[str, ImageRef]
    built_from: dict[str, str]
    outcome: str = ""
    committed_at: int = 0


@dataclass(frozen=True, kw_only=True)
class Releases:
    """Newest first."""

    releases: tuple[ReleaseView, ...]
