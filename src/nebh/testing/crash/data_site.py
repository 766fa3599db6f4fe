"""A cloud whose one service, `web`, keeps numbered rows, with a writer that never stops; to kill things in."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import threading
import time
from pathlib import Path

from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.model.errors import NebhError, NotFound
from nebh.model.kept import SnapshotKind, SnapshotRow, VolumeRow
from nebh.model.release import Release
from nebh.model.service import Check, CheckKind, Update
from nebh.model.statement import Action, Order
from nebh.model.volume import Hook, HookPoint
from nebh.signing.wish import Wish
from nebh.testing.attacks import Attacker
from nebh.testing.cloud import PATIENCE
from nebh.testing.crash.site import Site
from nebh.testing.journal_view import open_journal
from nebh.testing.row_service import Rows, write_rows
from nebh.testing.tiny_service import HOST

STORED = "web.data.0"
BAD = Check(name="bad", kind=CheckKind.HTTP, port=8080, path="/bad", interval=100, timeout=20_000, failures=1)
GOOD = Check(name="good", kind=CheckKind.HTTP, port=8080, path="/", interval=100, timeout=20_000)
Row = tuple[int, str]


class DataSite(Site):
    """See above. acked: (number, release) of every row that a client was told of."""

    def __init__(self, folder: Path, *, storage: str = "pool") -> None:
        """storage: the driver that keeps the volume, pool or copy."""
        super().__init__(folder)
        self._storage = storage
        self.acked: list[Row] = []
        self._writing = threading.Event()

    def begin(self) -> None:
        """Found the cloud, deploy release 1, begin to write. Raises NotFound without a compiler."""
        spec = write_rows(self.folder / "spec", Rows(version="v1", name="web", host=HOST, bake="300ms"))
        self.begin_programs()
        self._choose_storage()
        self.nebh("deploy", str(spec))
        self.operator = Attacker(self)
        self.begin_load()

    def _choose_storage(self) -> None:
        config = json.loads(self.layout.node_config.read_text())
        config["storage"] = {"driver": self._storage, "size": 256 << 20, "most": 512 << 20}
        self.layout.node_config.write_text(json.dumps(config))
        old = self.kill("executor")
        end = time.monotonic() + PATIENCE
        while self.pid_of("executor") in (0, old) or not self.answers():
            assert time.monotonic() < end, self.say_logs()
            time.sleep(0.1)

    def begin_load(self) -> None:
        """Add rows, one after the other, until `end_load_later`."""
        self._writing = threading.Event()
        threading.Thread(target=self._write, args=(self._writing,), name="writer", daemon=True).start()

    def end_load_later(self) -> None:
        """No row is added any more."""
        self._writing.set()

    def _write(self, ended: threading.Event) -> None:
        with Path(f"/run/netns/{self.name}").open("rb") as space:
            setns(space.fileno(), CLONE_NEWNET)
        while not ended.wait(0.005):
            connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=5)
            try:
                connection.request("POST", "/row", headers={"Host": HOST})
                answer = connection.getresponse()
                text = answer.read().decode()
                if answer.status == 200:
                    number, release = text.split()
                    self.acked.append((int(number), release))
            except (OSError, http.client.HTTPException):
                ended.wait(0.05)
            finally:
                connection.close()

    # wishes

    def publish_rows(self, *, checks: tuple[Check, ...] = (GOOD,), convert: tuple[str, ...] = ()) -> int:
        """Publish the next release; return its counter. convert: words of a migration."""
        number = self.newest + 1
        write_rows(self.folder / "spec", Rows(version=f"v{number}", name="web", host=HOST))
        image = self.operator.upload_tree(self.folder / "spec" / f"rows-v{number}")
        hook = Hook(name="convert", at=HookPoint.MIGRATE, argv=("/bin/rows", "convert", *convert), timeout=20_000)
        made: list[Release] = []

        def make(state: object) -> Wish:
            made.append(
                self.operator.next_release(
                    state,  # type: ignore[arg-type]
                    images={"main": image},
                    env={"CONFIG": f"v{number}"},
                    update=Update(bake=300, checks=checks, drain=500),
                    hooks=(hook,) if convert else (),
                )
            )
            return Wish(releases=(made[-1],))

        self.operator.publish(make)
        self.newest = made[-1].counter
        return self.newest

    def restore(self, *, counter: int = 0, snapshot: str = "") -> str:
        """Order the node to bring data back; return the nonce."""
        return self.order(Action.RESTORE, counter=counter, snapshot=snapshot)

    def order(self, action: Action, *, counter: int = 0, snapshot: str = "") -> str:
        """Have an operator's order carried out; return the nonce. A node that is away is waited for."""
        end = time.monotonic() + PATIENCE
        while True:
            now = int(time.time())
            wish = Order(
                cluster_id=self.operator.cluster_id,
                nodes=(self.operator.node_id,),
                service="web",
                action=action,
                nonce=secrets.token_hex(16),
                signed_at=now,
                not_after=now + 600,
                counter=counter,
                snapshot=snapshot,
            )
            with contextlib.suppress(NebhError):
                if self.operator.order(wish) is None:
                    return wish.nonce
            if time.monotonic() > end:
                raise NotFound("the node takes no order")
            time.sleep(0.2)

    # looking

    def table(self) -> list[Row]:
        """Return what the service says that it holds."""
        _, body = self.get("/rows", host=HOST, timeout=30)
        return _rows(body)

    def put_aside(self) -> set[Row]:
        """Return the rows in all that restores have put aside and that is kept."""
        found: set[Row] = set()
        for one in self.snapshots():
            if one.kind is SnapshotKind.DISCARDED:
                with contextlib.suppress(FileNotFoundError):
                    found |= set(_rows((self._kept() / one.name / "data" / "rows").read_text()))
        return found

    def snapshots(self) -> tuple[SnapshotRow, ...]:
        """Return the snapshots as journalled."""
        with open_journal(self.layout.journal) as journal:
            return journal.volumes.snapshots("web")

    def stored(self) -> set[str]:
        """Return the names of the snapshots that are there."""
        return {path.name for path in self._kept().iterdir()}

    def _kept(self) -> Path:
        """Return the folder of the snapshots, as the executor sees it."""
        below = {"pool": "pool/volumes", "copy": "volumes"}[self._storage]
        seen = Path(f"/proc/{self.pid_of('executor')}/root")
        return seen / str(self.layout.volumes / below / STORED / "kept").lstrip("/")

    def volume(self) -> VolumeRow:
        """Return the volume as journalled."""
        with open_journal(self.layout.journal) as journal:
            (found,) = journal.volumes.volumes("web")
        return found

    def writers(self) -> int:
        """Return how many processes could write rows now."""
        count = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if path.read_bytes().startswith(b"/bin/rows\0serve\0") and self._is_here(path.parent):
                    count += 1
        return count

    def _is_here(self, process: Path) -> bool:
        return f"/{self.name}/" in (process / "cgroup").read_text()


def _rows(text: str) -> list[Row]:
    found = []
    for line in text.splitlines():
        number, _, release = line.partition(" ")
        found.append((int(number), release))
    return found
