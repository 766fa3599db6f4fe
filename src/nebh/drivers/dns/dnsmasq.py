"""The DNS driver: two dnsmasq processes per node, which outlive whoever started them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from nebh.drivers.dns import config
from nebh.host import daemons, processes
from nebh.host.clock import Clock, SystemClock
from nebh.host.files import read_bounded, write_atomic
from nebh.host.processes import ProcessId
from nebh.host.spawn import Spawn
from nebh.host.worker import Worker
from nebh.model.errors import Broken, Failed
from nebh.model.network import PUBLIC_RESOLVER_INDEX, RESOLVER_INDEX, AddressPair, DnsRecords, addresses

PROGRAM = "/usr/sbin/dnsmasq"
USERS = ("nebh-dns", "nobody")
_PATIENCE = 5.0
_NOBODY_HAS_IT = "nobody-has-this-name"
_LOG_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _Server:
    name: str
    address: AddressPair
    text: str


class DnsmasqDns:
    """See DnsDriver. worker: the networker, which starts the processes in the host's network namespace. folder: its
    own, readable by the user nebh-dns (so is the way to it). upstream: for public names, () = the host's resolvers.
    cgroups: folders they enter."""

    def __init__(
        self,
        worker: Worker,
        *,
        folder: Path,
        upstream: tuple[str, ...] = (),
        clock: Clock | None = None,
        cgroups: tuple[str, ...] = (),
    ) -> None:
        self._worker = worker
        self._folder = folder
        self._upstream = upstream
        self._cgroups = cgroups
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._servers: tuple[_Server, ...] = ()
        self._hosts = folder / "hosts"
        self._uid, self._gid = daemons.user_id(*USERS)

    def ensure(self, subnets: tuple[str, ...]) -> None:
        """Have both run with the configuration of now; one that does already goes on. Its addresses must exist."""
        with self._lock:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not self._hosts.exists():
                write_atomic(self._hosts, b"", durable=False)
            ipv6, hosts = Path("/proc/sys/net/ipv6").exists(), str(self._hosts)
            internal, public = (addresses(subnets, index) for index in (RESOLVER_INDEX, PUBLIC_RESOLVER_INDEX))
            text = config.render_internal(internal, hosts=hosts, ipv6=ipv6)
            wide = config.render_public(public, hosts=hosts, upstream=self._upstream, ipv6=ipv6)
            self._servers = (
                _Server(name="internal", address=internal, text=text),
                _Server(name="public", address=public, text=wide),
            )
            for server in self._servers:
                self._ensure(server)

    def apply(self, records: DnsRecords) -> None:
        """Answer exactly `records`: on return both do. Raises Failed when one does not come round."""
        text = config.render_hosts(records)
        with self._lock:
            if not self._servers:
                raise Broken("cannot change DNS records: the resolver was not ensured")
            if read_bounded(self._hosts, limit=1 << 26) != text.encode():
                write_atomic(self._hosts, text.encode(), durable=False)
            for server in self._servers:
                self._reload(server, mark=config.generation(text))

    def stop(self) -> None:
        """End both."""
        with self._lock:
            for name in ("internal", "public"):
                self._stop(name)

    def _ensure(self, server: _Server) -> ProcessId:
        path = self._config(server.name)
        running = self._running(server.name)
        if running is not None and path.exists() and read_bounded(path, limit=1 << 20) == server.text.encode():
            _shorten(self._log(server.name))
            return running
        self._stop(server.name)
        write_atomic(path, server.text.encode())
        log = self._log(server.name)
        log.unlink(missing_ok=True)
        process = self._worker.spawn(
            Spawn(
                argv=self._argv(server.name),
                uid=self._uid,
                gid=self._gid,
                capabilities=("CAP_NET_BIND_SERVICE",),
                cgroups=self._cgroups,
                output=str(log),
            )
        )
        write_atomic(self._record(server.name), json.dumps(asdict(process)).encode(), durable=False)
        self._wait_until_up(server, process, log)
        return process

    def _wait_until_up(self, server: _Server, process: ProcessId, log: Path) -> None:
        until = self._clock.monotonic() + _PATIENCE
        while self._clock.monotonic() < until:
            if not processes.is_alive(process):
                cause = log.read_text(encoding="utf-8", errors="replace").strip()[-500:] or "it ended at once"
                raise Failed(f"cannot start the {server.name} resolver: {cause}")
            if self._ask(server, _NOBODY_HAS_IT) == "nxdomain":
                return
            self._clock.sleep(0.002)
        raise Failed(f"cannot start the {server.name} resolver: it does not answer on {server.address.v4}")

    def _reload(self, server: _Server, *, mark: str) -> None:
        until = self._clock.monotonic() + _PATIENCE
        told: ProcessId | None = None
        while self._clock.monotonic() < until:
            process = self._ensure(server)  # it may have been killed a moment ago, or while we wait
            if self._ask(server, mark) == "ok":
                return
            if process != told:
                processes.send_signal(process, signal.SIGHUP)
                told = process
            self._clock.sleep(0.001)
        raise Failed(f"cannot change DNS records: the {server.name} resolver does not take them")

    def _ask(self, server: _Server, name: str) -> str:
        question = {"server": server.address.v4, "name": f"{name}.{config.ZONE}", "timeout": 0.1}
        answer, _ = self._worker.call("ask", question)
        return str(answer["status"])

    def _running(self, name: str) -> ProcessId | None:
        argv = self._argv(name)
        with contextlib.suppress(OSError, ValueError, TypeError):
            process = ProcessId(**json.loads(read_bounded(self._record(name), limit=4096)))
            if daemons.runs_as(process, argv, uid=self._uid):
                return process
        # a crash between starting it and writing that down
        return daemons.find(argv, uid=self._uid)

    def _stop(self, name: str) -> None:
        process = self._running(name)
        if process is not None:
            processes.send_signal(process, signal.SIGTERM)
            if not processes.wait_end(process, seconds=2.0):
                processes.send_signal(process, signal.SIGKILL)
                processes.wait_end(process, seconds=2.0)
        self._record(name).unlink(missing_ok=True)

    def _argv(self, name: str) -> tuple[str, ...]:
        return (PROGRAM, f"--conf-file={self._config(name)}")

    def _config(self, name: str) -> Path:
        return self._folder / f"{name}.conf"

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _record(self, name: str) -> Path:
        return self._folder / f"{name}.process.json"


def _shorten(log: Path) -> None:
    # it is opened for appending: cut to nothing, it goes on at the front
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LOG_BYTES:
            os.truncate(log, 0)
