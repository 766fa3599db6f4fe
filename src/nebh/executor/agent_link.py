"""The executor's questions to the agent: bytes by name and size, probes. Its answers are not trusted with anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nebh.client.frame_channel import FrameChannel, check_answer, connect_frames
from nebh.model.errors import BadInput, NotFound, Unreachable
from nebh.model.instance import CheckResult
from nebh.model.service import Check, CheckKind

Chunks = Iterator[bytes]
BATCH = 512
SLOWEST = 16 * 1024
"""Bytes per second, on average: an agent that only drips would hold a transaction, and all that wait for it."""


class _Pace:
    """Ends a stream that is slower than SLOWEST once `grace` seconds are over, or that sends pieces of nothing."""

    def __init__(self, monotonic: Callable[[], float], *, grace: float) -> None:
        self._monotonic, self._end = monotonic, monotonic() + grace

    def check(self, piece: bytes) -> None:
        """Raises BadInput, Unreachable."""
        if not piece:
            raise BadInput("cannot take this from the agent: it sent a piece without bytes")
        self._end += len(piece) / SLOWEST
        if self._monotonic() > self._end:
            raise Unreachable("cannot fetch through the agent: it is too slow", hint="is the network that bad?")


class AgentLink:
    """One request per connection, each within `timeout` seconds between two frames, and not slower than SLOWEST."""

    def __init__(
        self,
        path: Path,
        *,
        timeout: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self.mirrors: Callable[[], tuple[str, ...]] = tuple
        """What the signed settings name now: the agent is told with each question."""
        self._timeout = timeout
        self._monotonic = monotonic

    def metadata(self, *, source: str, name: str, limit: int) -> bytes | None:
        """Return a metadata or target file, None when the source has none of that name. Raises Unreachable,
        BadInput for more than `limit` bytes."""
        with connect_frames(self._path) as channel:
            try:
                answer, body = channel.request(
                    {"op": "metadata", "source": source, "name": name, "max": limit, **self._named()},
                    timeout=self._timeout,
                )
            except NotFound:
                return None
            size = answer.get("size", 0)
            if not isinstance(size, int) or not 0 <= size <= limit:
                raise BadInput(f"cannot take {name} from the agent: more than {limit} bytes")
            data = bytearray(body)
            pace = _Pace(self._monotonic, grace=self._timeout)
            while len(data) < size:
                more, body = channel.receive(self._timeout)
                check_answer(more)
                pace.check(body)
                data += body
            if len(data) != size:
                raise BadInput(f"cannot take {name} from the agent: {len(data)} bytes instead of {size}")
            return bytes(data)

    def _named(self) -> dict[str, list[str]]:
        mirrors = self.mirrors()
        return {"mirrors": list(mirrors)} if mirrors else {}

    def objects(self, items: tuple[tuple[str, int], ...], take: Callable[[str, int, Chunks], None]) -> None:
        """Fetch objects by (hex SHA-256, size); `take(digest, size, chunks)` must consume the chunks and check them."""
        pace = _Pace(self._monotonic, grace=self._timeout)
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            with connect_frames(self._path) as channel:
                channel.send({"op": "objects", "items": [[digest, size] for digest, size in batch], **self._named()})
                for digest, size in batch:
                    take(digest, size, self._chunks(channel, digest, pace))

    def _chunks(self, channel: FrameChannel, digest: str, pace: _Pace) -> Chunks:
        while True:
            head, body = channel.receive(self._timeout)
            check_answer(head)
            if head.get("digest") != digest:
                raise BadInput(f"cannot take object {digest[:12]} from the agent: it sent another one")
            last = bool(head.get("last"))
            if body or not last:
                pace.check(body)
                yield body
            if last:
                return

    def probe(self, check: Check, address: str) -> CheckResult:
        """Look at an instance from the host's network. Never raises: an agent that is away has not `made` the check."""
        request = {
            "op": "probe",
            "kind": check.kind.value,
            "address": address,
            "port": check.port,
            "path": check.path,
            "host": check.host,
            "statuses": list(check.statuses),
            "contains": check.contains,
            "timeout": check.timeout,
        }
        try:
            with connect_frames(self._path) as channel:
                answer, _ = channel.request(request, timeout=check.timeout / 1000 + 5)
        except (Unreachable, BadInput) as error:
            detail = f"the agent did not probe: {error.message}"
            return CheckResult(ok=False, detail=detail, made=not isinstance(error, Unreachable))
        return CheckResult(ok=answer.get("ok") is True, detail=str(answer.get("detail", ""))[:500])

    def wants(self, check: Check) -> bool:
        """Tell whether a check is the agent's to make (exec checks are the executor's own)."""
        return check.kind is not CheckKind.EXEC
