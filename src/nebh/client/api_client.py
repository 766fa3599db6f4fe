"""The controller's API as typed methods. Imports fast: the command line and the agent live on it."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from nebh.client.http import Answer, HttpConnection
from nebh.client.transport import Transport
from nebh.host.channels import Closed
from nebh.model import api
from nebh.model.errors import BadInput, NebhError, NotFound, Unreachable
from nebh.wire import codec, failures

T = TypeVar("T")
Sign = Callable[[bytes], tuple[str, bytes]]
"""Bytes to sign -> (hex public key, raw signature)."""
Query = Mapping[str, str | int]
TIMEOUT = 30.0
ANSWER_LIMIT = 64 << 20
_RETRY_STATUS = 401


@dataclass(frozen=True, kw_only=True)
class Login:
    """How to become operator or node. envelope: a node's `transport` statement."""

    kind: api.Who
    sign: Sign
    envelope: bytes = b""


class TokenStore(Protocol):
    """Keeps a login's token from one command to the next."""

    def load(self) -> str:
        """Return a token that has not ended, or ""."""
        ...

    def save(self, token: str, *, expires_at: int) -> None:
        """Keep a token. expires_at: Unix ms."""
        ...


class Client:
    """One controller, one connection at a time, made when needed. Not for two threads at once.

    Every method raises Unreachable when the controller does not answer, and the error that it answered otherwise.
    """

    def __init__(self, transport: Transport, *, login: Login | None = None, tokens: TokenStore | None = None) -> None:
        self._transport = transport
        self._login = login
        self._tokens = tokens
        self._token = ""
        self._connection: HttpConnection | None = None

    # -- what is not secret

    def health(self) -> api.Health:
        """Return whether and what the controller serves."""
        return self._get("/v1/health", api.Health)

    def metadata(self, name: str, *, limit: int) -> bytes | None:
        """Return a metadata file by its name (`timestamp.json`), None when there is none of that name."""
        return self._file(f"/v1/metadata/{quote(name, safe='')}", limit)

    def target(self, path: str, *, limit: int) -> bytes | None:
        """Return a target file by its path with hash prefix, None when there is none."""
        return self._file(f"/v1/targets/{quote(path)}", limit)

    def fetch(self, name: str, limit: int) -> bytes | None:
        """Return `metadata/<name>` or `targets/<path>`: a `signing.trust_store.Fetch`. At most limit + 1 bytes."""
        folder, _, rest = name.partition("/")
        return self.metadata(rest, limit=limit) if folder == "metadata" else self.target(rest, limit=limit)

    def publish(self, *, base: dict[str, int], metadata: dict[str, bytes], targets: dict[str, bytes]) -> api.Published:
        """Publish a set. Raises Conflict, Refused, BadInput."""
        request = api.PublishRequest(base=base, metadata=_texts(metadata), targets=_texts(targets))
        return self._post(
            "/v1/publish", request, api.Published, timeout=120.0, token=self._login is not None and bool(base)
        )

    # -- objects

    def missing_objects(self, digests: tuple[str, ...]) -> tuple[str, ...]:
        """Return those that the controller lacks; asks in pages of 10,000."""
        found: list[str] = []
        for start in range(0, len(digests), 10_000):
            page = api.Digests(digests=digests[start : start + 10_000])
            found += self._post("/v1/objects/missing", page, api.Digests).digests
        return tuple(found)

    def missing_of_image(self, digest: str) -> tuple[str, ...]:
        """Return contents that the controller lacks, 10,000 at most, of an image whose manifest it holds. Raises
        NotFound, BadInput."""
        return self._get(f"/v1/images/{quote(digest, safe='')}/missing", api.Digests).digests

    def upload_objects(self, make_pack: Callable[[], Iterable[bytes]]) -> api.Stored:
        """Upload a pack (`images.pack.encode_pack`); `make_pack` is called again when the token had ended."""
        answer = self._call("POST", "/v1/objects", body=make_pack, timeout=600.0)
        return codec.decode_loose(answer.read(limit=ANSWER_LIMIT), api.Stored, what="the controller's answer")

    def download_objects(self, digests: tuple[str, ...]) -> Iterator[bytes]:
        """Yield a pack of at most 10,000 objects in this order (for `images.pack.decode_pack`). Raises NotFound."""
        answer = self._call("POST", "/v1/objects/batch", body=codec.encode(api.Digests(digests=digests)), timeout=60.0)
        return answer.chunks

    def upload_deltas(self, make_pack: Callable[[], Iterable[bytes]]) -> api.Stored:
        """Upload a delta pack (`images.delta_pack`). Objects whose patch did not fit are skipped: ask what is missing."""
        answer = self._call("POST", "/v1/objects/deltas", body=make_pack, timeout=600.0)
        return codec.decode_loose(answer.read(limit=ANSWER_LIMIT), api.Stored, what="the controller's answer")

    def download_patches(self, digests: tuple[str, ...]) -> Iterator[bytes]:
        """Yield a delta pack of every patch that makes one of at most 10,000 objects."""
        answer = self._call(
            "POST", "/v1/objects/patches", body=codec.encode(api.Digests(digests=digests)), timeout=60.0
        )
        return answer.chunks

    def download_rest(self, digest: str, *, offset: int) -> Iterator[bytes]:
        """Yield one zstd frame of an object's bytes from `offset` on. Raises NotFound."""
        return self._call("GET", f"/v1/objects/{digest}?offset={offset}", timeout=60.0).chunks

    def collect(self) -> api.Collected:
        """Have the controller remove what no kept release needs."""
        return self._decode(self._call("POST", "/v1/objects/collect", timeout=600.0), api.Collected)

    # -- the registry door

    def make_door_token(self, request: api.DoorTokenRequest) -> api.DoorSecret:
        """Return a new token for the door. Raises BadInput."""
        return self._post("/v1/door/tokens", request, api.DoorSecret)

    def door_tokens(self) -> tuple[api.DoorToken, ...]:
        """Return the door's tokens."""
        return self._get("/v1/door/tokens", api.DoorTokens).tokens

    def drop_door_token(self, number: str) -> tuple[api.DoorToken, ...]:
        """End a token of the door; return those that are left."""
        return self._decode(self._call("DELETE", f"/v1/door/tokens/{quote(number, safe='')}"), api.DoorTokens).tokens

    def door_images(self) -> tuple[api.DoorImage, ...]:
        """Return what was pushed through the door, newest first."""
        return self._get("/v1/door/images", api.DoorImages).images

    def pull(self, repository: str, kind: str, reference: str) -> Answer:
        """Return the door's answer for a manifest or blob (kind `manifests` or `blobs`). Raises NotFound, BadInput."""
        return self._call("GET", f"/v2/{quote(repository)}/{kind}/{quote(reference, safe=':')}", timeout=60.0)

    # -- for operators

    def status(self) -> api.Status:
        """Return the cloud at a glance."""
        return self._get("/v1/status", api.Status)

    def nodes(self) -> tuple[api.NodeView, ...]:
        """Return all nodes."""
        return self._get("/v1/nodes", api.Nodes).nodes

    def services(self) -> tuple[api.ServiceView, ...]:
        """Return all services."""
        return self._get("/v1/services", api.Services).services

    def service(self, service: str) -> api.ServiceView:
        """Return one service. Raises NotFound."""
        return self._get(f"/v1/services/{quote(service, safe='')}", api.ServiceView)

    def releases(self, service: str) -> tuple[api.ReleaseView, ...]:
        """Return a service's listed releases, newest first. Raises NotFound."""
        return self._get(f"/v1/services/{quote(service, safe='')}/releases", api.Releases).releases

    def deploy(self, service: str, request: api.DeploymentRequest) -> api.Deployment:
        """Ask for assignments; again with the same nonce is safe. Raises Conflict, NotFound, BadInput, Failed."""
        return self._post(f"/v1/services/{quote(service, safe='')}/deployments", request, api.Deployment)

    def order(self, envelope: bytes) -> api.Relayed:
        """Hand in a signed order. Raises Refused, BadInput."""
        return self._post("/v1/orders", api.Signed(envelope=base64.b64encode(envelope).decode()), api.Relayed)

    def hint(self) -> None:
        """Wake all nodes."""
        self._call("POST", "/v1/hints").read(limit=ANSWER_LIMIT)

    def events(self, *, after: int = -1, service: str = "", wait: float = 0.0) -> api.Events:
        """Return events after a cursor; waits at most `wait` s for the first."""
        return self._get("/v1/events", api.Events, query={"after": after, "service": service}, wait=wait)

    def mail(self) -> api.MailState:
        """Return how mail stands."""
        return self._get("/v1/mail", api.MailState)

    def test_mail(self) -> api.MailTest:
        """Have one mail sent now."""
        return self._post("/v1/mail/test", {}, api.MailTest, timeout=120.0)

    def receipts(self, *, nonce: str = "", after: int = 0, wait: float = 0.0) -> api.Receipts:
        """Return receipts after a cursor; waits at most `wait` s for the first. They are not verified here."""
        return self._get("/v1/receipts", api.Receipts, query={"after": after, "nonce": nonce}, wait=wait)

    def history(self, *, service: str = "", before: int = 0, limit: int = 50) -> tuple[api.HistoryEntry, ...]:
        """Return what was asked of the controller, newest first."""
        query: Query = {"service": service, "before": before, "limit": limit}
        return self._get("/v1/history", api.History, query=query).entries

    def logs(
        self,
        service: str,
        *,
        node: str = "",
        instance: str = "",
        cursor: str = "",
        limit: int = 500,
        tail: int = 0,
        follow: float = 0.0,
    ) -> api.LogPage:
        """Return log lines after a cursor; with `follow` waits that many s for one. Raises NotFound, Failed."""
        query: Query = {
            "node": node,
            "instance": instance,
            "cursor": cursor,
            "limit": limit,
            "tail": tail,
            "follow": int(follow * 1000),
        }
        path = f"/v1/services/{quote(service, safe='')}/logs"
        return self._get(path, api.LogPage, query=query, timeout=TIMEOUT + follow)

    def ask(self, envelope: bytes) -> bytes:
        """Have an operator's signed question answered by its node; return the sealed answer. Raises NotFound, Failed,
        Unreachable."""
        signed = api.Signed(envelope=base64.b64encode(envelope).decode())
        return base64.b64decode(self._post("/v1/questions", signed, api.Sealed).box)

    # -- for nodes

    def poll(self, request: api.PollRequest) -> api.PollAnswer:
        """Wait for what the controller has for this node."""
        return self._post("/v1/node/poll", request, api.PollAnswer, timeout=TIMEOUT + request.wait / 1000)

    def report(self, request: api.ReportRequest) -> api.ReportAnswer:
        """Say what the executor said."""
        return self._post("/v1/node/report", request, api.ReportAnswer)

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- how

    def _file(self, path: str, limit: int) -> bytes | None:
        try:
            answer = self._call("GET", path, token=False)
        except NotFound:
            return None
        data = bytearray()
        for chunk in answer.chunks:
            data += chunk
            if len(data) > limit:
                self.close()
                return bytes(data[: limit + 1])
        return bytes(data)

    def _get(
        self,
        path: str,
        kind: type[T],
        *,
        query: Query | None = None,
        wait: float = 0.0,
        timeout: float = TIMEOUT,
    ) -> T:
        words = {**(query or {}), **({"wait": int(wait * 1000)} if wait else {})}
        text = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in words.items() if value != "")
        token = path != "/v1/health"
        answer = self._call("GET", f"{path}?{text}" if text else path, timeout=timeout + wait, token=token)
        return self._decode(answer, kind)

    def _post(self, path: str, request: object, kind: type[T], *, timeout: float = TIMEOUT, token: bool = True) -> T:
        return self._decode(self._call("POST", path, body=codec.encode(request), timeout=timeout, token=token), kind)

    def _decode(self, answer: Answer, kind: type[T]) -> T:
        data = answer.read(limit=ANSWER_LIMIT)
        return codec.decode_loose(data, kind, what="the controller's answer", limit=ANSWER_LIMIT)

    def _call(
        self,
        method: str,
        target: str,
        *,
        body: bytes | Callable[[], Iterable[bytes]] = b"",
        timeout: float = TIMEOUT,
        token: bool = True,
    ) -> Answer:
        """Return the answer of a call that worked. A token that ended is renewed once."""
        wants_token = token and self._login is not None
        for last in (False, True):
            if wants_token and not self._token:
                self._token = self._tokens.load() if self._tokens is not None and not last else ""
            if wants_token and not self._token:
                self._enter()
            headers = {"Accept": "application/json"}
            if wants_token:
                headers["Authorization"] = f"Bearer {self._token}"
            answer = self._send(method, target, headers=headers, body=body, timeout=timeout)
            if answer.status < 300:
                return answer
            error = self._error(answer)
            if answer.status != _RETRY_STATUS or not wants_token or last:
                raise error
            self._token = ""
        raise AssertionError("unreachable")

    def _enter(self) -> None:
        """Get a token: sign the controller's nonce."""
        from nebh.wire.challenge import challenge

        assert self._login is not None
        nonce = self._post("/v1/nonces", {}, api.Nonce, token=False).nonce
        key, signature = self._login.sign(challenge(kind=self._login.kind, nonce=nonce))
        request = api.TokenRequest(
            kind=self._login.kind,
            key=key,
            nonce=nonce,
            signature=signature.hex(),
            envelope=base64.b64encode(self._login.envelope).decode(),
        )
        given = self._post("/v1/tokens", request, api.Token, token=False)
        self._token = given.token
        if self._tokens is not None:
            self._tokens.save(given.token, expires_at=given.expires_at)

    def _send(
        self,
        method: str,
        target: str,
        *,
        headers: dict[str, str],
        body: bytes | Callable[[], Iterable[bytes]],
        timeout: float,
    ) -> Answer:
        """Send once; a kept connection that the other side has closed meanwhile is replaced by a new one."""
        while True:
            connection = self._connection
            if connection is None or not connection.reusable:
                self.close()
                try:
                    connection = HttpConnection(self._transport.connect(), host="controller")
                except Unreachable as error:
                    raise self._unreachable(error) from error
                self._connection = connection
            kept = connection.used
            fields = dict(headers)
            content: bytes | Iterable[bytes] = body if isinstance(body, bytes) else body()
            if body:
                binary = not isinstance(body, bytes)
                fields["Content-Type"] = "application/vnd.nebh.pack+zstd" if binary else "application/json"
            try:
                return connection.request(method, target, headers=fields, body=content, timeout=timeout)
            except Closed as error:
                self.close()
                if not kept or error.partial:
                    raise self._unreachable(error) from error
            except (Unreachable, BadInput) as error:
                self.close()
                raise self._unreachable(error) from error

    def _unreachable(self, error: NebhError) -> NebhError:
        if isinstance(error, Unreachable):
            return Unreachable(
                f"cannot reach the controller at {self._transport.name}: {error.message}",
                hint=error.hint or "is it running? apps run on without it",
            )
        return error

    def _error(self, answer: Answer) -> NebhError:
        data = answer.read(limit=1 << 20)
        with contextlib.suppress(BadInput):
            plain = codec.decode_loose(data, dict[str, Any], what="the controller's answer")
            if "error" in plain:
                return failures.from_plain(plain)
        return Unreachable(f"cannot use the answer of {self._transport.name}: status {answer.status}")


def _texts(files: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(data).decode() for name, data in files.items()}
