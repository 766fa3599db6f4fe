"""The conversation with an ACME authority (RFC 8555, HTTP-01), for the executor, which keeps every key and signs.

What the authority says is hostile input; it is read here, without privileges. The challenge itself is answered by the
node's proxy. Nothing that is said or returned here is believed by the executor without a look of its own.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from nebh.client.http import Answer, HttpConnection
from nebh.host.channels import Channel, connect_tcp
from nebh.host.tls import connect_public_tls
from nebh.model.errors import BadInput, NebhError, Unreachable

ANSWER_LIMIT = 256 * 1024
PATIENCE = 180.0
_TRIES = 5
_TIMEOUT = 20.0
_SLOWEST_LOOK, _FASTEST_LOOK = 20.0, 0.5
_URN = "urn:ietf:params:acme:error:"
_OWN_MACHINE = frozenset({"127.0.0.1", "localhost", "::1"})

Sign = Callable[[str, str, str, str], bytes]
"""(kind, url, nonce, kid) -> the body to send."""


class Problem(Exception):
    """The authority said no, or nothing sensible. kind: the last part of an ACME error's type, or `unreachable`, or
    `nonsense`; asked: seconds that it wants us to wait."""

    def __init__(self, kind: str, detail: str, *, asked: float = 0.0) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.asked = kind[:64], detail[:1000], asked


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer, read whole. value: its JSON object, {} where it is none."""

    status: int
    headers: dict[str, str]
    body: bytes
    value: dict[str, Any]


class Conversation:
    """Gets one certificate for one host. ca: PEM of the authorities that count for the directory, "" = the system's."""

    def __init__(
        self,
        *,
        directory: str,
        host: str,
        ca: str,
        sign: Sign,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._directory, self._host, self._ca, self._sign = directory, host, ca, sign
        self._monotonic, self._sleep = monotonic, sleep
        self._end = monotonic() + PATIENCE
        self._urls: dict[str, Any] = {}
        self._nonce = self._kid = ""

    def run(self) -> bytes:
        """Return the certificate chain as the authority sent it. Raises Problem."""
        self._urls = self._ask("GET", self._directory).value
        answer = self._post("account", _text(self._urls, "newAccount"))
        self._kid = answer.headers.get("location", "")
        answer = self._post("order", _text(self._urls, "newOrder"))
        place, order = answer.headers.get("location", ""), answer.value
        for url in _texts(order, "authorizations"):
            self._prove(url)
        order = self._await(place, order, ready={"ready", "valid"}, what="the order")
        if order.get("status") == "ready":
            order = self._post("finalize", _text(order, "finalize")).value
            order = self._await(place, order, ready={"valid"}, what="the certificate")
        return self._post("get", _text(order, "certificate")).body

    def _prove(self, url: str) -> None:
        """Have the authority look at the host, where it does not know yet that it is ours."""
        authorization = self._post("get", url).value
        if authorization.get("status") == "valid":
            return
        challenges = authorization.get("challenges")
        for one in challenges if isinstance(challenges, list) else ():
            if isinstance(one, dict) and one.get("type") == "http-01":
                self._post("challenge", _text(one, "url"))
                self._await(url, {}, ready={"valid"}, what="the look at the host")
                return
        raise Problem("nonsense", f"it offers no HTTP-01 for {self._host}")

    def _await(self, url: str, value: dict[str, Any], *, ready: set[str], what: str) -> dict[str, Any]:
        """Ask until the status is one of `ready`, as fast as the authority likes it."""
        pause = _FASTEST_LOOK
        while value.get("status") not in ready:
            if value.get("status") in {"invalid", "deactivated", "expired", "revoked"}:
                raise _reason(value)
            if value:
                self._pause(pause, what=what)
            answer = self._post("get", url)
            value, pause = (
                answer.value or {"status": ""},
                max(_FASTEST_LOOK, _retry_after(answer.headers) or pause * 1.5),
            )
        return value

    def _pause(self, seconds: float, *, what: str) -> None:
        seconds = min(seconds, _SLOWEST_LOOK)
        if self._monotonic() + seconds > self._end:
            raise Problem("unreachable", f"{what} was not done after {PATIENCE:.0f} s")
        self._sleep(seconds)

    def _post(self, kind: str, url: str) -> Reply:
        """Send a signed request; with a new nonce where the authority did not like ours."""
        for _ in range(_TRIES):
            nonce = self._nonce or self._fresh_nonce()
            self._nonce = ""
            body = self._sign(kind, url, nonce, "" if kind == "account" else self._kid)
            reply = self._ask("POST", url, body)
            if reply.status < 400:
                return reply
            problem = _problem(reply)
            if problem.kind != "badNonce":
                raise problem
        raise Problem("badNonce", f"it refused {_TRIES} nonces of its own")

    def _fresh_nonce(self) -> str:
        headers = self._ask("HEAD", _text(self._urls, "newNonce")).headers
        if not headers.get("replay-nonce"):
            raise Problem("nonsense", "it gives no nonce")
        return headers["replay-nonce"]

    def _ask(self, method: str, url: str, body: bytes = b"") -> Reply:
        if self._monotonic() > self._end:
            raise Problem("unreachable", f"it took longer than {PATIENCE:.0f} s")
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Accept": "*/*", "User-Agent": "nebh-agent"}
        if method == "POST":
            headers["Content-Type"] = "application/jose+json"
        try:
            with self._connect(url) as channel:
                connection = HttpConnection(channel, host=parts.netloc)
                answer = connection.request(method, target, headers=headers, body=body, timeout=_TIMEOUT)
                reply = self._read(answer, head=method == "HEAD")
        except (NebhError, ValueError) as error:
            raise Problem("unreachable", str(error)) from error
        self._nonce = reply.headers.get("replay-nonce", "") or self._nonce
        if method == "GET" and reply.status != 200:
            raise _problem(reply)
        return reply

    def _read(self, answer: Answer, *, head: bool) -> Reply:
        data = bytearray()
        for chunk in () if head else answer.chunks:
            data += chunk
            if len(data) > ANSWER_LIMIT or self._monotonic() > self._end:
                raise BadInput("its answer is too long, or too slow")
        value: Any = {}
        if "json" in answer.headers.get("content-type", ""):
            try:
                value = msgspec.json.decode(bytes(data))
            except (msgspec.DecodeError, RecursionError) as error:
                if answer.status < 400:
                    raise Problem("nonsense", f"its answer is no JSON: {error}") from error
        return Reply(
            status=answer.status,
            headers=answer.headers,
            body=bytes(data),
            value=value if isinstance(value, dict) else {},
        )

    def _connect(self, url: str) -> Channel:
        """Plain HTTP only to this machine itself: what is asked for there is signed, but who hears it is not known."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "https" and host:
            return connect_public_tls(host=host, port=parts.port or 443, timeout=_TIMEOUT, authorities=self._ca)
        if parts.scheme == "http" and host in _OWN_MACHINE:
            return connect_tcp(host=host, port=parts.port or 80, timeout=_TIMEOUT)
        raise Unreachable(f"cannot ask {url[:200]!r}: it is no https URL")


def _text(value: dict[str, Any], key: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not found or len(found) > 2000:
        raise Problem("nonsense", f"its answer names no {key}")
    return found


def _texts(value: dict[str, Any], key: str) -> list[str]:
    found = value.get(key)
    if not isinstance(found, list) or not 0 < len(found) <= 4 or not all(isinstance(one, str) for one in found):
        raise Problem("nonsense", f"its answer names no {key}")
    return found


def _problem(reply: Reply) -> Problem:
    kind = str(reply.value.get("type", "")).removeprefix(_URN) or "nonsense"
    detail = str(reply.value.get("detail", "")) or f"it answers with status {reply.status}"
    asked = _retry_after(reply.headers)
    if reply.status == 429 or (reply.status == 503 and asked):
        kind = "rateLimited"
    return Problem(kind, detail, asked=asked)


def _reason(value: dict[str, Any]) -> Problem:
    """Return why an order or authorization is invalid, as far as it says."""
    challenges = value.get("challenges")
    inner = [one.get("error") for one in challenges if isinstance(one, dict)] if isinstance(challenges, list) else []
    for error in (*inner, value.get("error")):
        if isinstance(error, dict):
            kind = str(error.get("type", "")).removeprefix(_URN)
            return Problem(kind or "nonsense", str(error.get("detail", "")) or "it gives no reason")
    return Problem("nonsense", f"it is {str(value.get('status'))[:20]}, and no reason is given")


def _retry_after(headers: dict[str, str]) -> float:
    """Return seconds of a Retry-After header, 0 = none that can be read."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal() and len(text) < 9:
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return 0.0
