"""What travels between the controller and its callers, and between agent and executor: closed shapes.

Bytes travel as standard base64 in fields called `envelope`, and in values of `metadata` and `targets`. Times are Unix
ms unless said otherwise. A `cursor` is opaque to the caller but orders what it was given with: ask for what comes after.

Each class is loaded when it is first named: `nebh status` uses a few of them, and making one takes its time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nebh.model.api.access import Health, Nonce, Token, TokenRequest
    from nebh.model.api.asking import DeploymentRequest, Relayed, Sealed, Signed
    from nebh.model.api.deploying import Deployment, DeploymentState
    from nebh.model.api.door import (
        Collected,
        DoorImage,
        DoorImages,
        DoorSecret,
        DoorToken,
        DoorTokenRequest,
        DoorTokens,
    )
    from nebh.model.api.events import Events
    from nebh.model.api.happening import (
        History,
        HistoryEntry,
        LogLine,
        LogPage,
        LogReply,
        LogRequest,
        NodeReceipt,
        Receipts,
    )
    from nebh.model.api.listing import Nodes, Releases, ReleaseView, Services
    from nebh.model.api.mailing import MailState, MailTest
    from nebh.model.api.polling import (
        NumberedOrder,
        NumberedReceipt,
        PollAnswer,
        PollRequest,
        RelayedAnswer,
        RelayedQuestion,
        ReportAnswer,
        ReportRequest,
    )
    from nebh.model.api.publishing import Digests, Published, PublishRequest, Stored
    from nebh.model.api.standing import Allocation, NodeReport, NodeView, ServiceView, Status
    from nebh.model.api.who import Who

_NAMES = {
    "access": ("Health", "Nonce", "Token", "TokenRequest"),
    "asking": ("DeploymentRequest", "Relayed", "Sealed", "Signed"),
    "deploying": ("Deployment", "DeploymentState"),
    "door": ("Collected", "DoorImage", "DoorImages", "DoorSecret", "DoorToken", "DoorTokenRequest", "DoorTokens"),
    "events": ("Events",),
    "happening": ("History", "HistoryEntry", "LogLine", "LogPage", "LogReply", "LogRequest", "NodeReceipt", "Receipts"),
    "listing": ("Nodes", "ReleaseView", "Releases", "Services"),
    "mailing": ("MailState", "MailTest"),
    "polling": (
        *("NumberedOrder", "NumberedReceipt", "PollAnswer", "PollRequest"),
        *("RelayedAnswer", "RelayedQuestion", "ReportAnswer", "ReportRequest"),
    ),
    "publishing": ("Digests", "PublishRequest", "Published", "Stored"),
    "standing": ("Allocation", "NodeReport", "NodeView", "ServiceView", "Status"),
    "who": ("Who",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [
    "Allocation",
    "Collected",
    "Deployment",
    "DeploymentRequest",
    "DeploymentState",
    "Digests",
    "DoorImage",
    "DoorImages",
    "DoorSecret",
    "DoorToken",
    "DoorTokenRequest",
    "DoorTokens",
    "Events",
    "Health",
    "History",
    "HistoryEntry",
    "LogLine",
    "LogPage",
    "LogReply",
    "LogRequest",
    "MailState",
    "MailTest",
    "NodeReceipt",
    "NodeReport",
    "NodeView",
    "Nodes",
    "Nonce",
    "NumberedOrder",
    "NumberedReceipt",
    "PollAnswer",
    "PollRequest",
    "PublishRequest",
    "Published",
    "Receipts",
    "Relayed",
    "RelayedAnswer",
    "RelayedQuestion",
    "ReleaseView",
    "Releases",
    "ReportAnswer",
    "ReportRequest",
    "Sealed",
    "ServiceView",
    "Services",
    "Signed",
    "Status",
    "Stored",
    "Token",
    "TokenRequest",
    "Who",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
