"""The load generator forgives nothing, and blames nobody for a connection that was ended in time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from nebh.testing.load import Load, Mix, Row, Target, read_rows, summarise, write_rows

MIX = Mix(rate=100, keepalive=2, fresh=1, timeout=0.5)


class Server:
    """Answers as its `how` says: ok, wrong, close (announces it), cut (ends after the answer), drop, late, bad."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.port = 0
        self._ready = threading.Event()
        self._over: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._over()
        self._thread.join(5)

    async def _run(self) -> None:
        over, loop = asyncio.Event(), asyncio.get_running_loop()
        self._over = lambda: loop.call_soon_threadsafe(over.set)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await over.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((int(x.split(":")[1]) for x in head.split("\r\n") if x.startswith("Content-Length")), 0)
                body = await reader.readexactly(length)
                if self.how == "drop":
                    return
                if self.how == "late":
                    await asyncio.sleep(2)
                digest = "wrong" if self.how == "wrong" else hashlib.sha256(body).hexdigest()
                data = b"hello" if self.how == "bad" else json.dumps({"version": "v1", "digest": digest}).encode()
                more = "Connection: close\r\n" if self.how == "close" else ""
                writer.write(f"HTTP/1.1 200 OK\r\n{more}Content-Length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()
                if self.how in {"close", "cut"}:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _run(how: str, seconds: float = 0.7) -> Load:
    with Server(how) as server:
        load = Load(Target(address="127.0.0.1", port=server.port, host="x"), MIX)
        load.start()
        time.sleep(seconds)
        load.stop()
        return load


@pytest.mark.parametrize("how", ["ok", "close", "cut"])
def test_good_answers_count_as_good(how: str) -> None:
    load = _run(how)
    summary = summarise(load.rows)
    assert summary["failed"] == 0
    assert 40 <= summary["requests"] <= 90
    assert summary["versions"] == {"v1": summary["requests"]}
    assert (load.reopened > 0) == (how != "ok")
    kept = {row.connection for row in load.rows if row.kind == "keepalive"}
    assert (len(kept) == 2) == (how == "ok")


@pytest.mark.parametrize(
    ("how", "error"),
    [("drop", "bad answer: end of file after 0"), ("late", "timeout"), ("bad", "the body is not what was expected")],
)
def test_every_bad_answer_is_a_failure(how: str, error: str) -> None:
    rows = _run(how).rows
    assert rows
    assert all(row.error.startswith(error) for row in rows)


def test_a_wrong_echo_is_a_failure() -> None:
    rows = _run("wrong").rows
    assert {row.method for row in rows if row.error} == {"POST"}


def test_nobody_listening_is_a_failure() -> None:
    load = Load(Target(address="127.0.0.1", port=1, host="x"), MIX)
    load.start()
    time.sleep(0.2)
    load.stop()
    assert load.rows
    assert all(row.error.startswith("connect: ") and row.status == 0 for row in load.rows)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [
        Row(1.5, 2.5, 3, "fresh", "GET", 200, "v1", "", 1000.0),
        Row(1.0, 1.0, 4, "keepalive", "POST", 0, "", "x, y", 0.5),
    ]
    write_rows(tmp_path / "rows.csv.gz", rows)
    assert read_rows(tmp_path / "rows.csv.gz") == rows
