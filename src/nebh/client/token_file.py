"""The operator's token beside the operator's key: a command that only looks need not load the key."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nebh.host import files
from nebh.model.errors import BadInput
from nebh.wire import codec

_LIMIT = 4096
_MARGIN = 30_000
"""ms before its end from which a token is no longer begun with."""


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """A file of mode 0600. It opens the controller's API as this operator until it ends (15 minutes at most) and signs
    nothing. use: whose key, and at which controller; a token for another use is not taken. may_keep: asked before a token is kept; a key with a
    passphrase is worth more than its file, so its tokens are not kept."""

    path: Path
    use: str
    may_keep: Callable[[], bool] = lambda: True

    def load(self) -> str:
        """Return the token, "" when there is none, it has ended, or it is for another use."""
        try:
            text = files.read_bounded(self.path, limit=_LIMIT)
            kept = codec.decode_loose(text, dict[str, Any], what=str(self.path))
        except (OSError, BadInput):
            return ""
        token, end = kept.get("token"), kept.get("expires_at")
        if kept.get("use") != self.use or not isinstance(token, str) or not isinstance(end, int):
            return ""
        return token if end > time.time() * 1000 + _MARGIN else ""

    def save(self, token: str, *, expires_at: int) -> None:
        """Replace the token. A file that cannot be written costs the next command a login, nothing else."""
        if not self.may_keep():
            return
        data = codec.encode({"expires_at": expires_at, "token": token, "use": self.use})
        with contextlib.suppress(OSError):
            files.write_atomic(self.path, data, mode=0o600, durable=False)
