"""The registry door: who may push, and what was pushed. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DoorTokenRequest:
    """repository: its name, or `team/*` for all below. push: else it may only pull. days: 1 to 366."""

    repository: str
    push: bool = True
    days: int = 30


@dataclass(frozen=True, kw_only=True)
class DoorToken:
    """A token for the door, without its secret. by: beginning of the operator's key."""

    id: str
    repository: str
    push: bool
    at: int
    by: str
    expires_at: int


@dataclass(frozen=True, kw_only=True)
class DoorSecret:
    """A token just made. secret: the password to log in with; it is shown this once."""

    token: DoorToken
    secret: str


@dataclass(frozen=True, kw_only=True)
class DoorTokens:
    """Tokens whose time is not over, oldest first."""

    tokens: tuple[DoorToken, ...]


@dataclass(frozen=True, kw_only=True)
class DoorImage:
    """A tag and the manifest it leads to (`sha256:...`). by: the token that pushed it. Nothing here runs: releases do."""

    repository: str
    tag: str
    digest: str
    at: int
    by: str


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a garbage collection removed: objects, blobs of the registry door, and the bytes of both."""

    objects: int
    blobs: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class DoorImages:
    """What was pushed, newest first."""

    images: tuple[DoorImage, ...]
