"""HAProxy's runtime API: slots, maps and counters of a running proxy over one persistent connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nebh.drivers.ingress.config import FREE_ADDRESS, SHARED_WEIGHT
from nebh.host.unix import PromptConnection
from nebh.model.errors import Failed, Unreachable
from nebh.model.network import SlotCounters, SlotState

_DONE = ("", "IP changed from", "no need to change", "New server registered", "port changed from")
HTTP = ("http", "https")  # the names of the frontends in config.py
_MAINT, _DRAIN = 0x01 | 0x02 | 0x20, 0x08 | 0x10  # srv_admin_state (0x04 only says how it began)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server as the proxy knows it."""

    address: str
    port: int
    state: SlotState


@dataclass(frozen=True, kw_only=True)
class Want:
    """A server as it should be."""

    backend: str
    number: int
    address: str
    port: int
    state: SlotState

    @property
    def name(self) -> str:
        """Return `b3/s0`."""
        return f"{self.backend}/s{self.number}"


def state_commands(name: str, state: SlotState) -> tuple[str, ...]:
    """Return what sets a server's state. One that a cold start left draining has weight 0: ready repairs that."""
    if state is SlotState.READY:
        return (f"set server {name} weight {SHARED_WEIGHT}", f"set server {name} state ready")
    return (f"set server {name} state {state.value}",)


class Runtime:
    """Commands to the worker that serves now, and to elder ones that still finish their connections. Not thread-safe.
    Raises Unreachable when nobody answers, Failed for an answer that is not a success."""

    def __init__(self, admin: Path, master: Path) -> None:
        self._admin = PromptConnection(admin)
        self._master = PromptConnection(master)
        self.elders: tuple[int, ...] = ()

    def close(self) -> None:
        """Hang up: after a reload the old connection would lead to the old worker."""
        self._admin.close()
        self._master.close()

    def pid(self) -> int:
        """Return the pid of the worker that serves now."""
        (answer,) = self._admin.ask(("show info",))
        return int(next(line.partition(":")[2] for line in answer.splitlines() if line.startswith("Pid:")))

    def master(self) -> int:
        """Return the master's pid, as it says itself."""
        (answer,) = self._master.ask(("show proc",))
        rows = (line.split() for line in answer.splitlines())
        return next((int(row[0]) for row in rows if len(row) > 1 and row[1] == "master"), 0)

    def workers(self) -> tuple[int, ...]:
        """Return the current workers' pids, and note the elder ones."""
        (answer,) = self._master.ask(("show proc",))
        current: list[int] = []
        old: list[int] = []
        into = current
        for line in answer.splitlines():
            fields = line.split()
            if line.startswith("# old workers"):
                into = old
            elif len(fields) > 1 and fields[1] == "worker":
                into.append(int(fields[0]))
        self.elders = tuple(old)
        return tuple(current)

    def command(self, commands: tuple[str, ...]) -> None:
        """Do all of `commands` in one write and check every answer."""
        for command, answer in zip(commands, self._admin.ask(commands), strict=True):
            if answer != "" and not answer.startswith(_DONE[1:]):
                raise Failed(f"cannot set up the proxy: it answers {answer!r} to {command!r}")

    def count_idle(self) -> int:
        """Return how many connections of elder workers could bring one more request each, to the slots as they were
        before the reload: HAProxy 2.6 refuses every change in a worker that is ending ("Proxy is disabled")."""
        idle = 0
        for pid in self.elders:
            rows = [row for answer in self._ask_elder(pid, ("show stat -1 3 -1",)) for row in _rows(answer)]
            held = sum(int(row["scur"]) for row in rows if row["svname"] == "FRONTEND" and row["pxname"] in HTTP)
            busy = sum(int(row["scur"]) for row in rows if row["svname"] == "BACKEND" and row["pxname"][1:].isdecimal())
            idle += max(0, held - busy)
        return idle

    def servers(self) -> dict[str, Server]:
        """Return every server by name (`b3/s0`)."""
        (answer,) = self._admin.ask(("show servers state",))
        lines = answer.splitlines()
        columns = next((line[2:].split() for line in lines if line.startswith("# ")), [])
        found = {}
        for line in lines:
            row = dict(zip(columns, line.split(), strict=False))
            if line.startswith("#") or "srv_name" not in row:
                continue
            admin = int(row["srv_admin_state"])
            weighs = int(row["srv_uweight"]) > 0
            state = SlotState.READY if weighs else SlotState.DRAIN
            state = SlotState.MAINT if admin & _MAINT else SlotState.DRAIN if admin & _DRAIN else state
            address = "" if row["srv_addr"] in {"-", FREE_ADDRESS.partition(":")[0]} else row["srv_addr"]
            server = Server(address=address, port=int(row["srv_port"]), state=state)
            found[f"{row['be_name']}/{row['srv_name']}"] = server
        return found

    def bring(self, wants: tuple[Want, ...], *, live: Mapping[str, Server]) -> None:
        """Bring servers to what is wanted, adding those that do not exist. First comes what makes servers ready, last
        what takes requests from others, so that a backend is not empty in between."""
        first: list[str] = []
        last: list[str] = []
        for want in wants:
            server = live.get(want.name)
            if server is None:
                first.append(f"add server {want.name} {_joined(want)}")
                server = Server(address=want.address, port=want.port, state=SlotState.MAINT)
            moved = want.address != "" and (server.address, server.port) != (want.address, want.port)
            if moved and server.state is not SlotState.MAINT:
                first += state_commands(want.name, SlotState.MAINT)
            if moved:
                first.append(f"set server {want.name} addr {want.address} port {want.port}")
            if want.state is not (SlotState.MAINT if moved else server.state):
                (first if want.state is SlotState.READY else last).extend(state_commands(want.name, want.state))
        self.command((*first, *last))

    def set_map(self, path: str, pairs: Mapping[str, str]) -> None:
        """Make a map hold exactly `pairs`, in one step that no request sees half done."""
        (answer,) = self._admin.ask((f"show map {path}",))
        rows = (line.split() for line in answer.splitlines())
        if {row[1]: row[2] for row in rows if len(row) == 3} == dict(pairs):
            return
        (answer,) = self._admin.ask((f"prepare map {path}",))
        version = answer.rpartition(":")[2].strip()
        if not version.isdecimal():
            raise Failed(f"cannot change the proxy's routes: it answers {answer!r}")
        adds = tuple(f"add map @{version} {path} {key} {value}" for key, value in pairs.items())
        self.command((*adds, f"commit map @{version} {path}"))

    def _ask_elder(self, pid: int, commands: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return self._master.ask(tuple(f"@!{pid} {command}" for command in commands))
        except Unreachable:  # it has ended since: nothing of it is left to tell or to count
            return ()

    def counters(self, backend: str) -> dict[int, SlotCounters]:
        """Return the numbers of a backend's servers, those of elder workers included."""
        ask = f"show stat {backend} 4 -1"
        (answer,) = self._admin.ask((ask,))
        total = _counters(answer)
        for pid in self.elders:
            answers = self._ask_elder(pid, (ask,))
            for number, more in _counters("\n".join(answers)).items():
                total[number] = add_counters(total[number], more) if number in total else more
        return total


def add_counters(one: SlotCounters, other: SlotCounters) -> SlotCounters:
    """Return the sum; the average is that of the first, unless it has none."""
    return SlotCounters(
        current=one.current + other.current,
        queued=one.queued + other.queued,
        total=one.total + other.total,
        errors=one.errors + other.errors,
        average_ms=one.average_ms or other.average_ms,
    )


def _joined(want: Want) -> str:
    if not want.address:
        return FREE_ADDRESS
    return f"ipv6@{want.address}:{want.port}" if ":" in want.address else f"{want.address}:{want.port}"


def _rows(text: str) -> list[dict[str, str]]:
    lines = text.splitlines()
    columns = next((line[2:].split(",") for line in lines if line.startswith("# ")), [])
    fields = (line.split(",") for line in lines if not line.startswith("#"))
    return [dict(zip(columns, row, strict=False)) for row in fields if columns and len(row) >= len(columns)]


def _counters(text: str) -> dict[int, SlotCounters]:
    return {
        int(row["svname"][1:]): SlotCounters(
            current=int(row["scur"] or 0),
            queued=int(row["qcur"] or 0),
            total=int(row["stot"] or 0),
            errors=int(row["hrsp_5xx"] or 0) + int(row["econ"] or 0),
            average_ms=int(row["rtime"] or 0),
        )
        for row in _rows(text)
        if row["svname"][1:].isdecimal()
    }
