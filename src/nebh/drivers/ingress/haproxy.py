"""The ingress on HAProxy: one master and its worker under a user of their own, led over the runtime API."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from nebh.drivers.ingress.certificates import Certificates
from nebh.drivers.ingress.config import (
    Layout,
    Places,
    certificates_text,
    challenges_map,
    check_routes,
    config_text,
    map_text,
    names_of,
    number_backends,
    ports_of,
    routes_map,
    secure_map,
    structure_hash,
    with_live_states,
)
from nebh.drivers.ingress.proxy_keys import ProxyKeys
from nebh.drivers.ingress.runtime import Runtime, Want, add_counters, state_commands
from nebh.host import processes
from nebh.host.files import write_atomic
from nebh.host.listeners import has_ipv6, listener_of
from nebh.host.processes import ProcessId
from nebh.host.run import Command, CommandFailed, run
from nebh.host.spawn import Spawn
from nebh.model.errors import BadInput, Failed, Unreachable
from nebh.model.network import Backend, IngressPlan, Slot, SlotChange, SlotCounters, SlotState

WORKERS_END_S = 5.0

PROGRAM = "/usr/sbin/haproxy"
QUIET_SECONDS = 12.0
_START_SECONDS = 15.0

Spawner = Callable[[Spawn], ProcessId]


class HaproxyIngress:
    """An IngressDriver; thread-safe. `switch` waits while another thread's `configure` reloads (0.2 s).

    state: folder for the files of a cold start. run: folder for the sockets, the user's own. spawn: starts a detached
    program in the namespace where the proxy listens (Worker.spawn). seen_from: a process in that namespace, to find
    out who has a port (0 = we are in it). uid, gid: of the proxy. cgroups: folders it enters.
    """

    def __init__(
        self,
        *,
        state: Path,
        run: Path,
        spawn: Spawner,
        uid: int,
        gid: int,
        cgroups: tuple[str, ...] = (),
        seen_from: int = 0,
    ) -> None:
        self._state, self._run, self._spawn = state, run, spawn
        self._uid, self._gid, self._cgroups, self._seen_from = uid, gid, cgroups, seen_from
        self._places = Places(
            admin_socket=str(run / "admin.sock"),
            master_socket=str(run / "master.sock"),
            routes=str(state / "routes.map"),
            secure=str(state / "secure.map"),
            certificates=str(state / "certificates.list"),
            bundles=str(state / "bundles"),
            challenges=str(state / "challenges.map"),
            keys=str(run / "keys"),
        )
        self._runtime = Runtime(run / "admin.sock", run / "master.sock")
        self._certificates = Certificates(state / "bundles", uid=uid, gid=gid)
        self._keys = ProxyKeys(run / "admin.sock", self._places, uid=uid, gid=gid)
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._structure = ""
        self._process: ProcessId | None = None
        self._had_one = False
        self._plan: IngressPlan | None = None
        self._targets: dict[tuple[str, int], tuple[str, ...]] = {}
        self._live: dict[tuple[str, int], Slot] = {}

    def ensure(self, plan: IngressPlan) -> None:
        """Have the proxy running with `plan`; see IngressDriver."""
        check_routes(plan)
        with self._lock, _answering():
            self._make_folders()
            self._read_ledger()
            layout = self._layout(plan, strict=False)
            structure = structure_hash(layout, self._places)
            if not self._adopt():
                self._write(layout)
                with self._keys.as_files(plan):
                    self._start(plan)
                self._structure = structure
                self._write_ledger()
            elif structure != self._structure:
                self._reload(layout)
            else:
                self._write(layout)
            self._settle(layout)

    def configure(self, plan: IngressPlan) -> None:
        """Make routes and slots known; see IngressDriver."""
        check_routes(plan)
        with self._lock, _answering():
            self._must_run()
            settled = with_live_states(plan, self._live)
            layout = self._layout(settled, strict=True)
            reloads = structure_hash(layout, self._places) != self._structure
            if reloads:
                self._reload(layout)
            else:
                self._write(layout)
            self._settle(layout)
        if reloads:
            self._await_quiet()

    def switch(self, changes: tuple[SlotChange, ...]) -> None:
        """Set slots in one write; see IngressDriver."""
        with self._lock, _answering():
            # first what gets traffic, then what loses it: a backend is never without a server in between
            ordered = sorted(changes, key=lambda change: change.state is not SlotState.READY)
            commands: list[str] = []
            for change in ordered:
                slot = self._live.get((change.backend, change.number))
                if slot is None or not slot.address:
                    raise Failed(f"cannot switch {change.backend}: slot {change.number} is not configured")
                for name in self._targets[(change.backend, change.number)]:
                    commands += state_commands(name, change.state)
            self._runtime.command(tuple(commands))
            for change in changes:
                key = (change.backend, change.number)
                self._live[key] = replace(self._live[key], state=change.state)

    def record(self, plan: IngressPlan) -> None:
        """Write the files of a cold start; see IngressDriver."""
        with self._lock, _answering():
            self._write(self._layout(plan, strict=False))

    def counters(self, backend: str) -> dict[int, SlotCounters]:
        """Return the proxy's numbers by slot: only slots that have an address."""
        with self._lock, _answering():
            self._must_run()
            idle = self._count_idle()
            numbers = {number for key, number in self._live if key == backend}
            found: dict[int, SlotCounters] = {}
            for name in sorted({target.partition("/")[0] for n in numbers for target in self._targets[(backend, n)]}):
                for number, more in self._runtime.counters(name).items():
                    found[number] = add_counters(found[number], more) if number in found else more
            for number in numbers & found.keys() if idle else ():
                if self._live[(backend, number)].state is not SlotState.READY:
                    found[number] = replace(found[number], current=found[number].current + idle)
            return {number: found[number] for number in sorted(numbers) if number in found}

    def exposed(self) -> tuple[int, ...]:
        """Return the TCP ports the proxy listens on."""
        return ports_of(self._plan) if self._plan else ()

    def watch(self) -> int:
        """Return a pidfd of the master (it ends when its worker does); see IngressDriver."""
        with self._lock:
            return -1 if self._process is None else processes.open_pidfd(self._process)

    def stop(self) -> None:
        """End the proxy; open connections break."""
        with self._lock, _answering():
            self._read_ledger()
            self._runtime.close()
            if self._process:
                processes.send_signal(self._process, signal.SIGTERM)
                if not processes.wait_end(self._process, seconds=5.0):
                    processes.send_signal(self._process, signal.SIGKILL)
            self._process, self._plan, self._live, self._targets = None, None, {}, {}
            self._write_ledger()

    # ---------------------------------------------------------------------------------------- running and reloading

    def _adopt(self) -> bool:
        """Tell whether the proxy of the ledger runs and answers; one that does not answer is ended."""
        self._had_one = self._process is not None
        if self._process is None or not processes.is_alive(self._process):
            self._process = self._unrecorded()
        if self._process is None:
            return False
        self._had_one = True
        try:
            self._runtime.workers()
            self._runtime.pid()
        except Unreachable:
            self._runtime.close()
            processes.send_signal(self._process, signal.SIGKILL)
            processes.wait_end(self._process, seconds=5.0)
            return False
        return True

    def _unrecorded(self) -> ProcessId | None:
        """Find a proxy that was started but not written down: our own process may have died in between."""
        self._structure = ""
        try:
            pid = self._runtime.master()
            owner = Path(f"/proc/{pid}").stat().st_uid
        except (Unreachable, OSError):
            return None
        return processes.identify(pid) if owner == self._uid else None

    def _must_run(self) -> None:
        if self._plan is None or self._process is None or not processes.is_alive(self._process):
            raise Failed("cannot use the proxy: it does not run", hint="ensure starts it")

    def _start(self, plan: IngressPlan) -> None:
        self._runtime.close()
        self._wait_for_old_workers(ports_of(plan))
        self._admit_ports(ports_of(plan))
        for name in ("admin.sock", "master.sock"):
            (self._run / name).unlink(missing_ok=True)
        log = self._state / "haproxy.log"
        log.unlink(missing_ok=True)
        arguments = ("-W", "-q", "-f", str(self._state / "haproxy.cfg"), "-S", f"{self._places.master_socket},mode,600")
        self._process = self._spawn(
            Spawn(
                argv=(PROGRAM, *arguments),
                uid=self._uid,
                gid=self._gid,
                capabilities=("CAP_NET_BIND_SERVICE",) if os.geteuid() == 0 else (),
                cgroups=self._cgroups,
                output=str(log),
            )
        )
        self._write_ledger()
        if not self._wait(lambda: self._runtime.pid() in self._runtime.workers()):
            processes.send_signal(self._process, signal.SIGKILL)
            processes.wait_end(self._process, seconds=5.0)
            self._admit_ports(ports_of(plan))  # somebody may have taken one between our look and the start
            raise Failed(f"cannot start the proxy: {_complaint(log)}")

    def _reload(self, layout: Layout) -> None:
        """Have a new worker with the files of `layout`; the old one finishes what it has. On failure all stays."""
        known = ports_of(self._plan) if self._plan else ports_of(layout.plan)
        self._admit_ports(tuple(port for port in ports_of(layout.plan) if port not in known))
        before = self._files()
        numbers = self._numbers
        try:
            self._write(layout)
            with self._keys.as_files(layout.plan):
                run(Command(argv=(PROGRAM, "-c", "-q", "-f", str(self._state / "haproxy.cfg"))))
                self._swap_worker()
        except (CommandFailed, Failed) as error:
            self._numbers = numbers
            for path, data in before.items():
                write_atomic(path, data)
            cause = error.stderr.strip() if isinstance(error, CommandFailed) else error.message
            raise Failed(
                f"cannot change the proxy's listeners: {cause[-1500:]}", hint="what it served it serves on"
            ) from error
        self._structure = structure_hash(layout, self._places)
        self._write_ledger()
        self._certificates.prune(set(layout.bundles.values()))

    def _count_idle(self) -> int:
        if self._runtime.elders:
            self._runtime.workers()
        return self._runtime.count_idle() if self._runtime.elders else 0

    def _await_quiet(self) -> None:
        """Wait until connections of the old worker bring nothing more: each is closed after its next answer, or when it
        was idle for `timeout http-keep-alive`. Until then `counters` adds them to slots that drain."""
        deadline = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < deadline:
            with self._lock, _answering():
                if self._count_idle() == 0:
                    return
            time.sleep(0.1)

    def _swap_worker(self) -> None:
        assert self._process is not None
        old = self._runtime.pid()
        if not processes.send_signal(self._process, signal.SIGUSR2):
            raise Failed("the proxy has ended")
        self._runtime.close()
        if not self._wait(lambda: old not in (*self._runtime.workers(), 0) and self._runtime.workers() != ()):
            raise Failed(_complaint(self._state / "haproxy.log"))
        # the socket may lead to the old worker for an instant after the new one has bound it
        if not self._wait(self._reaches_new_worker):
            raise Failed("the new worker does not answer")

    def _reaches_new_worker(self) -> bool:
        if self._runtime.pid() in self._runtime.workers():
            return True
        self._runtime.close()
        return False

    def _wait(self, reached: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(Unreachable):
                if reached():
                    return True
            if self._process is None or not processes.is_alive(self._process):
                return False
            time.sleep(0.02)
        return False

    def _wait_for_old_workers(self, ports: tuple[int, ...]) -> None:
        """The workers of a killed master end a moment after it and hold its ports until then."""
        if not self._had_one:
            return
        end = time.monotonic() + WORKERS_END_S
        while any(listener_of(port, seen_from=self._seen_from) for port in ports) and time.monotonic() < end:
            time.sleep(0.05)

    def _admit_ports(self, ports: tuple[int, ...]) -> None:
        for port in ports:
            holder = listener_of(port, seen_from=self._seen_from)
            if holder is not None:
                raise BadInput(
                    f"cannot listen on TCP port {port}: {holder} has it", hint="free the port or choose another"
                )

    # ------------------------------------------------------------------------------------------- bringing to a plan

    def _layout(self, plan: IngressPlan, *, strict: bool) -> Layout:
        """Number the plan's backends and write its certificates; strict: raise BadInput for one that is unreadable."""
        numbers = number_backends(plan, self._numbers)
        bundles = self._certificates.write(plan, strict=strict)
        return Layout(plan=plan, numbers=numbers, bundles=bundles, ipv6=has_ipv6(seen_from=self._seen_from))

    def _settle(self, layout: Layout) -> None:
        """Bring the running proxy's slots and maps to the layout."""
        live = self._runtime.servers()
        wants: list[Want] = []
        targets: dict[tuple[str, int], tuple[str, ...]] = {}
        for backend in layout.plan.backends:
            for slot in backend.slots:
                these = _wants(backend, slot, layout.numbers[backend.key])
                wants += these
                targets[(backend.key, slot.number)] = tuple(want.name for want in these)
        self._runtime.bring(tuple(wants), live=live)
        named = {want.name for want in wants}
        stray = (name for name, server in live.items() if name not in named and server.state is not SlotState.MAINT)
        self._runtime.command(tuple(line for name in stray for line in state_commands(name, SlotState.MAINT)))
        self._keys.settle(layout.plan)
        self._runtime.set_map(self._places.challenges, challenges_map(layout))
        self._runtime.set_map(self._places.secure, secure_map(layout))
        self._runtime.set_map(self._places.routes, routes_map(layout))
        self._plan = layout.plan
        self._targets = targets
        self._live = {(backend.key, slot.number): slot for backend in layout.plan.backends for slot in backend.slots}

    # -------------------------------------------------------------------------------------------------------- files

    def _make_folders(self) -> None:
        for folder, mode in ((self._state, 0o750), (self._state / "bundles", 0o750), (self._run, 0o700)):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
            if os.geteuid() == 0:
                os.chown(folder, self._uid if folder == self._run else 0, self._gid)

    def _texts(self, layout: Layout) -> dict[Path, bytes]:
        texts = {
            Path(self._places.routes): map_text(routes_map(layout)),
            Path(self._places.secure): map_text(secure_map(layout)),
            Path(self._places.challenges): map_text(challenges_map(layout)),
            Path(self._places.certificates): certificates_text(layout, self._places),
            self._state / "haproxy.cfg": config_text(layout, self._places),
        }
        return {path: text.encode() for path, text in texts.items()}

    def _files(self) -> dict[Path, bytes]:
        names = ("routes.map", "secure.map", "challenges.map", "certificates.list", "haproxy.cfg")
        paths = (self._state / name for name in names)
        return {path: path.read_bytes() for path in paths if path.exists()}

    def _write(self, layout: Layout) -> None:
        self._numbers = dict(layout.numbers)
        before = self._files()
        for path, data in self._texts(layout).items():
            if before.get(path) != data:
                write_atomic(path, data)
        self._write_ledger()

    def _read_ledger(self) -> None:
        """Learn what an earlier process left: without it a proxy that runs is not ours, and its ports are taken."""
        if self._process is not None:
            return
        try:
            ledger = json.loads((self._state / "ledger.json").read_bytes())
            self._numbers = {str(key): int(number) for key, number in ledger["numbers"].items()}
            self._structure = str(ledger["structure"])
            self._certificates.known = dict(ledger["bundles"])
            self._process = ProcessId(pid=ledger["pid"], started=ledger["started"]) if ledger["pid"] else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._numbers, self._structure, self._process = {}, "", None

    def _write_ledger(self) -> None:
        ledger = {
            "numbers": self._numbers,
            "structure": self._structure,
            "bundles": self._certificates.known,
            "pid": self._process.pid if self._process else 0,
            "started": self._process.started if self._process else 0,
        }
        path, data = self._state / "ledger.json", json.dumps(ledger, sort_keys=True).encode()
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except Unreachable as error:
        raise Failed(f"cannot use the proxy: {error.message}", hint="ensure starts it anew if it has ended") from error


def _wants(backend: Backend, slot: Slot, number: int) -> tuple[Want, ...]:
    return tuple(
        Want(backend=name, number=slot.number, address=slot.address, port=slot.port or backend.port, state=slot.state)
        for name in names_of(backend, number)
    )


def _complaint(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    alerts = [line for line in lines if line.startswith("[ALERT]")]
    return "; ".join(alerts[:3]) or "it said nothing"
