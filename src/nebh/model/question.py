"""What an operator asks a node about data, and what it answers: names of files, differences, sizes.

Payload types: `application/vnd.nebh.question.v1+json`, `...answer...`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from nebh.model.stored import StorageRoom, StoredChange, StoredFile

MOST_NAMES = 300
"""Of one answer; the next question goes on behind its last."""


class Topic(StrEnum):
    """What is asked for."""

    FILES = "files"
    DIFF = "diff"
    USAGE = "usage"


@dataclass(frozen=True, kw_only=True)
class Question:
    """An operator's signed question to one node, good until not_after (Unix seconds). reply_to: hex X25519 key that the
    answer is sealed to. older, newer: snapshots, newer "" = the data as it is (files: of `newer`). path: folder in the
    volume, with all below it when `deep`; after: where to go on, as the last answer said."""

    cluster_id: str
    node_id: str
    service: str
    topic: Topic
    nonce: str
    reply_to: str
    not_after: int
    volume: str = ""
    replica: int = 0
    older: str = ""
    newer: str = ""
    path: str = ""
    deep: bool = False
    after: str = ""

    @property
    def info(self) -> bytes:
        """What the box of the answer is bound to."""
        return f"nebh/answer/v1|{self.cluster_id}|{self.node_id}|{self.nonce}".encode()


@dataclass(frozen=True, kw_only=True)
class MeasuredVolume:
    """A volume's size. used, quota: bytes, -1 = unknown, quota 0 = none; exclusive: bytes that would come free with each
    snapshot, by name, -1 = unknown; measured_at: Unix ms."""

    service: str
    replica: int
    name: str
    used: int
    quota: int
    exclusive: dict[str, int] = field(default_factory=dict)
    measured_at: int = 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A node's signed answer to the question of the same nonce. error: why there is none. after: where to go on, "" =
    that is all."""

    cluster_id: str
    node_id: str
    nonce: str
    error: str = ""
    hint: str = ""
    files: tuple[StoredFile, ...] = ()
    changes: tuple[StoredChange, ...] = ()
    volumes: tuple[MeasuredVolume, ...] = ()
    room: StorageRoom | None = None
    after: str = ""
