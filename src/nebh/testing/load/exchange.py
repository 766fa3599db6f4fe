"""One HTTP/1.1 request and its answer over asyncio streams, read strictly."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Self


class BadAnswer(Exception):
    """The other side sent something that is not a whole answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """closing: the server announced that this connection takes no further request."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    closing: bool = False


class Connection:
    """A TCP connection that carries one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.announced = False
        self.number = 0

    @classmethod
    async def open(cls, address: str, port: int) -> Self:
        """Connect. Raises OSError."""
        return cls(*await asyncio.open_connection(address, port))

    async def is_over(self) -> bool:
        """Tell whether the server has ended the connection, seen before anything more is written."""
        await asyncio.sleep(0)  # let the loop read what has arrived
        return self.announced or self._reader.at_eof() or self._reader.exception() is not None

    async def ask(self, request: bytes) -> Answer:
        """Send one request and read its answer. Raises BadAnswer, OSError."""
        self._writer.write(request)
        await self._writer.drain()
        answer = await self._read()
        self.announced = answer.closing
        return answer

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()

    async def _read(self) -> Answer:
        try:
            status_line, _, rest = (await self._reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        except asyncio.IncompleteReadError as error:
            raise BadAnswer(f"end of file after {len(error.partial)} bytes of an answer's head") from error
        except asyncio.LimitOverrunError as error:
            raise BadAnswer("an answer's head is too long") from error
        words = status_line.split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise BadAnswer(f"no status line: {status_line[:80]!r}")
        headers = {}
        for line in rest.decode("latin-1").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip().lower()] = value.strip()
        body, ended = await self._read_body(headers)
        closing = ended or headers.get("connection", "").lower() == "close" or words[0] == b"HTTP/1.0"
        return Answer(status=int(words[1]), headers=headers, body=body, closing=closing)

    async def _read_body(self, headers: dict[str, str]) -> tuple[bytes, bool]:
        try:
            if "content-length" in headers:
                return await self._reader.readexactly(int(headers["content-length"])), False
            if headers.get("transfer-encoding", "").lower() == "chunked":
                return await self._read_chunks(), False
            return await self._reader.read(-1), True
        except (asyncio.IncompleteReadError, ValueError) as error:
            raise BadAnswer("end of file in the middle of an answer's body") from error

    async def _read_chunks(self) -> bytes:
        body = bytearray()
        while size := int((await self._reader.readline()).split(b";")[0].strip() or b"x", 16):
            body += await self._reader.readexactly(size)
            await self._reader.readline()
        while (await self._reader.readline()).strip():
            pass
        return bytes(body)
