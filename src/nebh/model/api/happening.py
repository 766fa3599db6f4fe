"""What happened: receipts, history, output. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class NodeReceipt:
    """A node's signed receipt, untouched. The caller verifies it; nothing else here is signed."""

    cursor: int
    node_id: str
    node: str
    envelope: str


@dataclass(frozen=True, kw_only=True)
class Receipts:
    """Receipts after the cursor asked for; ask again with `cursor`."""

    cursor: int
    receipts: tuple[NodeReceipt, ...]


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """Something that was asked of the controller. what: published, deployed, ordered, ended."""

    cursor: int
    at: int
    by: str
    what: str
    service: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class History:
    """Newest first; ask for older ones with `before` = cursor of the last."""

    entries: tuple[HistoryEntry, ...]


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line that a container wrote. time: as the runtime noted it; stream: stdout or stderr."""

    instance: str
    time: str
    stream: str
    text: str


@dataclass(frozen=True, kw_only=True)
class LogPage:
    """Log lines as the node gave them. cursor: opaque text to ask on with; lost: lines fell out of the log before."""

    cursor: str
    lines: tuple[LogLine, ...]
    lost: bool = False


@dataclass(frozen=True, kw_only=True)
class LogRequest:
    """Log lines wanted from a node. instance "" = all of the service; cursors: by instance; tail: without a cursor,
    begin that many lines before the end."""

    id: int
    service: str
    instance: str
    cursors: dict[str, str]
    limit: int
    tail: int = 0


@dataclass(frozen=True, kw_only=True)
class LogReply:
    """Answer to the LogRequest of the same id; error: message, "" when it worked."""

    id: int
    lines: tuple[LogLine, ...] = ()
    cursors: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    error: str = ""
