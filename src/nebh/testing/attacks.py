"""What attackers hold in tests: a whole cloud's keys, files and sockets, and a look at what an attack left untouched."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import pwd
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuf.api._payload import Snapshot, Targets, Timestamp

from nebh.client.api_client import Client, Login
from nebh.client.frame_channel import Head, connect_frames
from nebh.client.transport import parse_transport
from nebh.host.files import read_bounded
from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.images.manifest import encode_manifest
from nebh.images.objects import read_chunks
from nebh.images.pack import encode_pack
from nebh.model import api
from nebh.model.errors import NebhError, Refused
from nebh.model.event import Event
from nebh.model.image import EntryType, ImageRef
from nebh.model.release import Release
from nebh.model.service import ImageSource, SourceKind
from nebh.model.statement import Assignment, Order, Outcome, Phase, Receipt
from nebh.signing import key_life, roles
from nebh.signing.keys import load_key
from nebh.signing.repository import Publication, State, read_state
from nebh.signing.statements import Seed, StatementSigner, sign_statement, verify_statement
from nebh.signing.trust_store import Fetch, TrustStore
from nebh.signing.wish import Wish, apply_wish, listed_counters
from nebh.testing.cloud import Cloud
from nebh.testing.tiny_service import write_service
from nebh.wire import codec

PATIENCE, EVENT_PATIENCE = 90.0, 20.0
ENDS = frozenset({Outcome.COMMITTED, Outcome.ROLLED_BACK, Outcome.REFUSED, Outcome.FAILED, Outcome.STOPPED})


def rule_of(error: NebhError | None) -> str:
    """Return the rule that refused, else what came in its place."""
    return error.rule if isinstance(error, Refused) else repr(error)


@dataclasses.dataclass(frozen=True)
class Answering:
    """One instance as it is: an attack must leave all of it as it was."""

    id: str
    pid: int
    started: int


class Attacker:
    """Everything that a hacked controller, agent or neighbour could get at, and the honest operator beside it."""

    def __init__(self, cloud: Cloud, *, name: str = "test", agent_user: str = "nebh-agent") -> None:
        self.cloud = cloud
        self.layout = cloud.layout
        self.folder = cloud.folder / "config" / name
        self.operator = load_key(self.folder / "operator.key")
        self.controller = Seed(_seed_of(self.layout.controller / "keys" / "controller.key"))
        self.root = read_bounded(self.folder / "root.json", limit=1 << 20)
        self.cluster_id = str(self.status()["cluster_id"])
        self.node_id = str(self.status()["node_id"])
        self._agent = pwd.getpwnam(agent_user)

    # the executor's door

    def ask(self, head: Head, body: bytes = b"", *, as_agent: bool = False, timeout: float = 60.0) -> Head:
        """Ask the executor, as root or as the agent's user; raises what it answers."""
        with self._as_agent() if as_agent else contextlib.nullcontext():
            channel = connect_frames(self.layout.executor_socket)
        with channel:
            return channel.request(head, body, timeout=timeout)[0]

    @contextlib.contextmanager
    def _as_agent(self) -> Iterator[None]:
        """The kernel notes the peer's credentials when it connects."""
        gid, uid = os.getegid(), os.geteuid()
        os.setegid(self._agent.pw_gid)
        os.seteuid(self._agent.pw_uid)
        try:
            yield
        finally:
            os.seteuid(uid)
            os.setegid(gid)

    def status(self) -> dict[str, Any]:
        """Return the executor's status."""
        return self.ask({"op": "status"})

    def submit(self, kind: str, envelope: bytes) -> NebhError | None:
        """Hand a statement to the executor as the agent does; return its refusal, None when it took it."""
        try:
            self.ask({"op": "submit", "kind": kind, "source": "controller"}, envelope, as_agent=True)
        except NebhError as error:
            return error
        return None

    # statements

    @property
    def seq(self) -> int:
        """The newest number that the node took."""
        return int(self._news()["status"]["seq"])

    def assignment(self, **fields: Any) -> Assignment:
        """Return the assignment that runs what runs now, with other `fields`."""
        base = Assignment(
            cluster_id=self.cluster_id,
            node_id=self.node_id,
            seq=self.seq + 1,
            assignment_id=secrets.token_hex(16),
            nonce=secrets.token_hex(16),
            service="web",
            epoch=1,
            counter=1,
            replicas=1,
            phase=Phase.RUN,
        )
        return dataclasses.replace(base, **fields)

    def assign(self, wish: object, *, key: StatementSigner | None = None) -> NebhError | None:
        """Sign as the controller (or with `key`) and submit."""
        return self.submit("assignment", sign_statement("assignment", wish, key or self.controller))

    def order(self, order: Order, *, key: StatementSigner | None = None) -> NebhError | None:
        """Sign an order as the operator (or with `key`) and submit."""
        return self.submit("order", sign_statement("order", order, key or self.operator))

    # what the node says

    def _news(self, *, receipt: int = 0, event: int = 0) -> dict[str, Any]:
        return self.ask({"op": "poll", "receipt": receipt, "event": event, "wait_ms": 0}, as_agent=True)

    def newest(self) -> tuple[int, int]:
        """Return the numbers of the newest receipt and event."""
        receipts, events = self.receipts(), self.events()
        return (receipts[-1].number if receipts else 0, events[-1].number if events else 0)

    def receipts(self, *, after: int = 0) -> list[Receipt]:
        """Return the node's receipts, verified."""
        key = self.node_key
        found: list[Receipt] = []
        while True:
            page = self._news(receipt=after, event=1 << 50)["receipts"]
            if not page:
                return found
            for number, text in page:
                found.append(verify_statement(base64.b64decode(text), "receipt", Receipt, keys=(key,)))
                after = int(number)

    @property
    def node_key(self) -> str:
        """The node's public key."""
        return str(self.ask({"op": "identity"})["sign_pk"])

    def events(self, *, after: int = 0) -> list[Event]:
        """Return the node's events."""
        found: list[Event] = []
        while True:
            page = self._news(receipt=1 << 50, event=after)["events"]
            if not page:
                return found
            found += [codec.from_plain(one, Event, what="an event") for one in page]
            after = found[-1].number

    def outcome(self, nonce: str, *, patience: float = PATIENCE) -> Receipt:
        """Wait for the receipt that ends the command with this nonce."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            for one in self.receipts():
                if one.nonce == nonce and one.outcome in ENDS | {Outcome.REMOVED}:
                    return one
            time.sleep(0.2)
        raise TimeoutError(f"no receipt ends {nonce}:\n{self.cloud.say_logs()}")

    # the untouched service

    def answering(self, service: str = "web", *, host: str = "web.example") -> Answering:
        """Return the one instance that serves, after it answered."""
        status, body = self.cloud.get("/", host=host, timeout=30.0)
        assert status == 200, (status, body)
        rows = [one for one in self.status()["instances"] if one["service"] == service and one["role"] == "serving"]
        assert [one["status"] for one in rows] == ["running"], rows
        return Answering(id=str(rows[0]["id"]), pid=int(rows[0]["pid"]), started=int(rows[0]["started"]))

    @contextlib.contextmanager
    def untouched(self, service: str = "web", *, host: str = "web.example", event: str = "") -> Iterator[None]:
        """Whatever happens inside leaves the same container, still answering; `event`: a kind (its beginning) that
        the node records meanwhile, "" = none is demanded."""
        before, newest = self.answering(service, host=host), self.newest()[1]
        yield
        if event:
            end = time.monotonic() + EVENT_PATIENCE
            while not (found := [one for one in self.events(after=newest) if one.kind.startswith(event)]):
                assert time.monotonic() < end, f"no event {event}: {self.events(after=newest)}"
                time.sleep(0.2)
            assert all(one.message for one in found)
        assert self.answering(service, host=host) == before

    # the honest operator

    def client(self, *, path: Path | None = None) -> Client:
        """Return the controller's API, as operator."""
        login = Login(kind=api.Who.OPERATOR, sign=lambda data: (self.operator.public, self.operator.sign_bytes(data)))
        return Client(parse_transport(f"unix:{path or self.layout.controller_socket}", pins=()), login=login)

    def state(self, fetch: Fetch | None = None, *, wanted: tuple[str, ...] | None = None) -> State:
        """Return what is published, verified as a client without a past would."""
        with tempfile.TemporaryDirectory(prefix="nt-") as scratch, contextlib.closing(self.client()) as client:
            store = TrustStore(Path(scratch), fetch or client.fetch, self.root, self.cluster_id)
            return read_state(store, wanted=wanted)

    def publish(self, make: Callable[[State], Wish]) -> State:
        """Sign and publish a wish; return what stands then."""
        state = self.state()
        signed = apply_wish(state, make(state), key=self.operator, now=int(time.time()))
        self.send(signed.publication)
        return self.state()

    def send(self, publication: Publication) -> None:
        """Publish."""
        with contextlib.closing(self.client()) as client:
            client.publish(base=publication.base, metadata=publication.metadata, targets=publication.targets)

    def renew(self) -> None:
        """Sign every role anew, as `nebh trust renew` does: each number rises."""
        self.send(key_life.renew(self.state(), key=self.operator, now=int(time.time())).publication)

    def next_release(self, state: State, *, service: str = "web", **fields: Any) -> Release:
        """Return the newest release again under the next number, with other `fields`."""
        newest = listed_counters(state, service)[-1]
        old = state.trusted.releases[f"release/{service}/{newest}.json"]
        return dataclasses.replace(old, counter=newest + 1, signed_at=int(time.time()), **fields)

    def upload_image(self, page: str) -> ImageRef:
        """Hand the controller the image of the tiny service with another page, as `nebh deploy` does."""
        write_service(self.cloud.folder / "spec", page=page)
        return self.upload_tree(self.cloud.folder / "spec" / "web")

    def upload_tree(self, tree: Path) -> ImageRef:
        """Hand the controller an image made of a folder."""
        folder = self.cloud.folder / "cache"
        folder.mkdir(exist_ok=True)
        cache = ImageCache(folder)
        source = ImageSource(kind=SourceKind.DIRECTORY, location=str(tree))
        report = import_image(source, cache=cache)
        data = encode_manifest(report.manifest)
        files = {one.sha256: one.size for one in report.manifest.entries if one.type is EntryType.FILE and one.size}
        items = [*files.items(), (report.digest, len(data))]

        def read(digest: str) -> Iterable[bytes]:
            return [data] if digest == report.digest else read_chunks(cache.objects.open(digest))

        with contextlib.closing(self.client()) as client:
            client.upload_objects(lambda: encode_pack(items, read))
        return report.ref

    def publish_release(self, **fields: Any) -> int:
        """Publish the next release of `web`; return its number."""
        made: list[Release] = []

        def make(state: State) -> Wish:
            made.append(self.next_release(state, **fields))
            return Wish(releases=(made[0],))

        self.publish(make)
        return made[0].counter

    def run(self, counter: int, **fields: Any) -> Receipt:
        """Have the controller's key choose a release; return the receipt that ends it."""
        wish = self.assignment(counter=counter, **fields)
        error = self.assign(wish)
        if error is not None:
            raise error
        return self.outcome(wish.nonce)

    def hint(self) -> None:
        """Have the node look at metadata."""
        self.submit("hint", b"")


def _seed_of(path: Path) -> bytes:
    data = path.read_bytes()
    return load_key(path).seed if data.startswith(b"-----") else bytes.fromhex(data.decode().strip())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forgers:
    """Whose keys sign what in a forged set."""

    role: StatementSigner
    snapshot: StatementSigner
    timestamp: StatementSigner


def forge(
    state: State, forgers: Forgers, *, role: str, change: Callable[[Targets], None], files: Mapping[str, bytes] = {}
) -> dict[str, bytes]:
    """Return what a controller would serve after `change` of a role (targets, rel-web) signed by the forgers: bodies
    by the target of a GET. files: target files by path."""
    now, versions = int(time.time()), state.trusted.versions
    body = roles.parse_role(state.roles[role], Targets)
    change(body)

    def seal(kind: Any, name: str, signer: StatementSigner) -> bytes:
        return roles.seal_role(
            kind, signers=(signer,), cluster_id=state.cluster_id, version=versions[name] + 1, now=now, life=86_400
        )

    made = seal(body, role, forgers.role)
    meta = roles.parse_role(state.roles["snapshot"], Snapshot).meta
    meta[f"{role}.json"] = roles.meta_file(made, versions[role] + 1)
    snapshot = seal(Snapshot(meta=meta), "snapshot", forgers.snapshot)
    info = roles.meta_file(snapshot, versions["snapshot"] + 1)
    served = {
        f"{versions[role] + 1}.{role}.json": made,
        f"{versions['snapshot'] + 1}.snapshot.json": snapshot,
        "timestamp.json": seal(Timestamp(snapshot_meta=info), "timestamp", forgers.timestamp),
    }
    targets = {f"/v1/targets/{roles.served_target(path, data)}": data for path, data in files.items()}
    return {**{f"/v1/metadata/{name}": data for name, data in served.items()}, **targets}
