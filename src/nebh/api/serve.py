"""Serve the API: uvicorn on a unix socket and, if wanted, on TCP with TLS 1.3, in one event loop without timers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from nebh.api.app import make_app
from nebh.controller.collecting import keep_small
from nebh.controller.core import Core
from nebh.controller.freshness import keep_fresh
from nebh.controller.mailing import keep_telling
from nebh.controller.scrubbing import keep_sound
from nebh.host.channels import listening_tcp, listening_unix
from nebh.host.tls import require_tls13
from nebh.model.errors import BadInput

GRACE_S = 3


@dataclass(frozen=True, kw_only=True)
class Door:
    """A TCP door: address, port, and the PEM files of its certificate."""

    address: str
    port: int
    certificate: Path
    key: Path


class _Server(uvicorn.Server):
    """uvicorn that sleeps when nothing happens and leaves signals to us."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait to be stopped; uvicorn's own loop looks ten times a second."""
        await self.stop.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: there are two servers in one loop."""
        yield


def _config(app: Any, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=64 * 1024,
        **more,
    )


async def serve(core: Core, *, socket: Path, door: Door | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then end long polls and finish what runs. Raises BadInput for a bad address."""
    app = make_app(core)
    unix = listening_unix(socket, mode=0o666)
    servers = [(_Server(_config(app)), unix)]
    if door is not None:
        servers.append((_tls_server(app, door), _listen(door)))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    upkeep = [asyncio.create_task(task(core)) for task in (keep_fresh, keep_small, keep_sound, keep_telling)]
    running = [asyncio.create_task(server.serve(sockets=[sock])) for server, sock in servers]
    await stop.wait()
    for task in upkeep:
        task.cancel()
    core.close()
    for server, _ in servers:
        server.stop.set()
        server.should_exit = True
    await asyncio.gather(*running)


def _tls_server(app: Any, door: Door) -> _Server:
    config = _config(app, ssl_certfile=str(door.certificate), ssl_keyfile=str(door.key))
    config.load()
    require_tls13(config.ssl)
    return _Server(config)


def _listen(door: Door) -> Any:
    try:
        return listening_tcp(door.address, door.port)
    except OSError as error:
        raise BadInput(
            f"cannot listen on {door.address}:{door.port}: {error.strerror or error}",
            hint="is the address this machine's, and the port free?",
        ) from error
