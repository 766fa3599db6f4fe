"""A cloud to kill things in: its executor can be held at a fault point, and everything has a name to be killed by."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.model import api
from nebh.model.errors import NebhError
from nebh.model.release import Release
from nebh.model.service import Check, CheckKind, Health, Update
from nebh.model.statement import Phase
from nebh.signing.wish import Wish
from nebh.testing.attacks import Attacker
from nebh.testing.cloud import PATIENCE, Cloud
from nebh.testing.invariants import ask_status
from nebh.testing.journal_view import open_journal
from nebh.testing.load.generator import Load, Mix, Row, Target
from nebh.testing.tiny_service import HOST, write_service

VICTIMS = ("agent", "executor", "controller", "conmon", "haproxy", "everything")
GOOD = Check(name="good", kind=CheckKind.HTTP, port=8080, path="/index.html", interval=100, timeout=20_000)
BAD = Check(name="bad", kind=CheckKind.HTTP, port=8080, path="/missing", interval=100, timeout=20_000, failures=1)
READY = Health(startup_timeout=20_000, readiness=GOOD)
NEVER_READY = Health(startup_timeout=500, readiness=BAD)
_MORE = "replicas: {count: 1, min: 1, max: 3}\n"


def page_of(counter: int) -> str:
    """Return what release `counter` answers."""
    return f'{{"version": "v{counter}"}}'


class Site(Cloud):
    """See above. One service, `web`, whose release N answers `{"version": "vN"}`; it logs every request, so that its
    logs are rotated under load."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ask = folder / "stop-at"
        self.newest = 1
        self.rows: list[Row] = []
        self._loads: tuple[Load, ...] = ()

    # programs

    def begin(self) -> None:
        """Found the cloud, deploy release 1, begin the load."""
        self.begin_programs()
        spec = write_service(self.folder / "spec", page=page_of(1), more=_MORE)
        text = spec.read_text().replace("[/bin/httpd, -f,", "[/bin/httpd, -f, -v, -v,")
        spec.write_text(text.replace("pids: 16}", "pids: 16, log: 1M}"))
        self.nebh("deploy", str(spec))
        self.operator = Attacker(self)
        self.begin_load()

    def begin_programs(self) -> None:
        """`nebh up`, the first time or after everything was killed."""
        self.up(env={"NEBH_FAULT_ASK": str(self._ask)})

    def begin_load(self) -> None:
        """Send requests until `end_load_later`; what came of them is in `rows`. A second load asks for pages that are not
        there, with long names: the service logs them."""

        def enter() -> None:
            with Path(f"/run/netns/{self.name}").open("rb") as space:
                setns(space.fileno(), CLONE_NEWNET)

        target = Target(address="127.0.0.1", port=self.http_port, host=HOST)
        mix = Mix(rate=40, keepalive=4, fresh=2, post_share=0, timeout=60)
        chatter = replace(target, path=f"/{'x' * 1500}")
        self._loads = (
            Load(target, mix, sink=self.rows.append, enter=enter),
            Load(chatter, replace(mix, rate=60, keepalive=2, fresh=0), sink=lambda _: None, enter=enter),
        )
        for load in self._loads:
            load.start()

    # wishes

    def publish(self, *, update: Update, page: str = "", health: Health = READY) -> int:
        """Sign and publish the next release, as an operator's computer does; return its counter."""
        image = self.operator.upload_image(page or page_of(self.newest + 1))
        made: list[Release] = []

        def make(state: object) -> Wish:
            fields = {"images": {"main": image}, "update": update, "health": health}
            made.append(self.operator.next_release(state, **fields))  # type: ignore[arg-type]
            return Wish(releases=(made[-1],))

        self.operator.publish(make)
        self.newest = made[-1].counter
        return self.newest

    def wish(self, counter: int, *, replicas: int, phase: Phase = Phase.RUN) -> str:
        """Ask the controller; return the nonce that receipts will name. A controller that is away is waited for."""
        end = time.monotonic() + PATIENCE
        while True:
            nonce = secrets.token_hex(16)
            request = api.DeploymentRequest(
                counter=counter, epoch=1, replicas=replicas, phase=phase, nonce=nonce, supersede=True
            )
            try:
                with contextlib.closing(self.operator.client()) as client:
                    client.deploy("web", request)
            except NebhError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
            else:
                return nonce

    # holding and killing

    def arm(self, point: str) -> None:
        """Have the executor stop at a fault point."""
        aside = self._ask.with_suffix(".new")
        aside.write_text(point)
        aside.rename(self._ask)

    def disarm(self) -> bool:
        """Take the wish back; return whether it was still open."""
        with contextlib.suppress(FileNotFoundError):
            self._ask.unlink()
            return True
        return False

    def is_held(self, pid: int) -> bool:
        """Tell whether a process is stopped."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    def hold(self, pid: int) -> None:
        """Stop the executor where it is."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        end = time.monotonic() + 5
        while not self.is_held(pid) and time.monotonic() < end:
            time.sleep(0.002)

    def let_go(self, pid: int) -> None:
        """Let it go on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def state(self) -> str:
        """Return the state of the open transaction of `web` as journalled, "" when none is."""
        with open_journal(self.layout.journal) as journal:
            return journal.states().get("web", "")

    def slay(self, victim: str, *, reboot: bool) -> int:
        """kill -9; return how many processes. reboot: with everything, also what a power cut takes."""
        if victim == "everything":
            return self._slay_everything(reboot=reboot)
        pids = [self.pid_of(victim)] if victim in ("agent", "executor", "controller") else self._pids(victim)
        count = 0
        for pid in filter(None, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                count += 1
        return count

    def _pids(self, program: str) -> list[int]:
        needle, found = str(self.folder).encode() + b"/", []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes()
                if line.split(b"\0")[0].endswith(program.encode()) and needle in line:
                    found.append(int(path.parent.name))
        return found

    def _slay_everything(self, *, reboot: bool) -> int:
        self.end_load_later()
        count = len(self.processes())
        if reboot:
            self.power_cut()
        else:
            self.slay_all()
        return count

    def end_load_later(self) -> None:
        """No request is sent any more; those under way fail by themselves."""
        loads, self._loads = self._loads, ()
        for load in loads:
            threading.Thread(target=load.stop, daemon=True).start()

    def serves(self) -> bool:
        """Tell whether the service answers."""
        return self.get("/", host=HOST, timeout=20)[0] == 200

    def governs(self) -> bool:
        """Tell whether the controller answers."""
        with contextlib.suppress(NebhError), contextlib.closing(self.operator.client()) as client:
            return bool(client.status())
        return False

    def answers(self) -> bool:
        """Tell whether the executor's door answers."""
        with contextlib.suppress(NebhError):
            return bool(ask_status(self))
        return False
