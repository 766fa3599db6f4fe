"""One certificate from an ACME authority, through the agent: it carries the conversation, every signature is made here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from nebh.client.frame_channel import FrameChannel, check_answer, connect_frames
from nebh.model.errors import BadInput, Failed, Unreachable
from nebh.signing.acme_account import Signer

LONGEST = 300.0
"""Seconds that one conversation may take."""
_SILENCE = 60.0
MOST_CHAIN = 60_000


class AuthorityProblem(Failed):
    """No certificate came. kind: as `planning.tls.advise` takes it; asked: ms that the authority wants us to wait."""

    def __init__(self, message: str, *, kind: str, asked: int = 0) -> None:
        super().__init__(message)
        self.kind, self.asked = kind, asked


def obtain(
    agent: Path,
    *,
    directory: str,
    ca: str,
    signer: Signer,
    monotonic: Callable[[], float] = time.monotonic,
) -> bytes:
    """Return what the agent says is a certificate chain for `signer.host`: not looked at yet. ca: PEM. Raises
    AuthorityProblem, Refused for a signature that nobody gets, Unreachable, BadInput."""
    end = monotonic() + LONGEST
    with connect_frames(agent) as channel:
        channel.send({"op": "acme", "directory": directory, "host": signer.host, "ca": ca})
        while True:
            head, body = channel.receive(_SILENCE)
            check_answer(head)
            if monotonic() > end:
                raise Unreachable("cannot get a certificate through the agent: it takes too long")
            if "problem" in head:
                raise _problem(head)
            if "sign" in head:
                _answer(channel, head, signer)
            elif not 0 < len(body) <= MOST_CHAIN:
                raise BadInput(f"cannot take a certificate of {len(body)} bytes")
            else:
                return body


def _answer(channel: FrameChannel, head: dict[str, object], signer: Signer) -> None:
    texts = [head.get(name) for name in ("sign", "url", "nonce", "kid")]
    if not all(isinstance(one, str) for one in texts):
        raise BadInput("cannot read what the agent wants signed")
    kind, url, nonce, kid = (str(one) for one in texts)
    channel.send({"ok": True}, signer.sign(kind, url=url, nonce=nonce, kid=kid))


def _problem(head: dict[str, object]) -> AuthorityProblem:
    asked = head.get("asked")
    wait = asked if isinstance(asked, int) and not isinstance(asked, bool) and asked > 0 else 0
    return AuthorityProblem(str(head["problem"])[:1000], kind=str(head.get("kind", ""))[:64], asked=wait)
