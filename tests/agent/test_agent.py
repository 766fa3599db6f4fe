"""The agent between a real controller and a stand-in executor: nothing is lost, whoever restarts."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.client.frame_channel import FrameChannel, Head, check_answer, connect_frames, serve_frames
from nebh.host.channels import Peer
from nebh.images.pack import encode_pack
from nebh.model import api
from nebh.model.errors import BadInput, NebhError, NotFound, Refused
from nebh.model.event import Event, Severity
from nebh.model.statement import Assignment, Outcome, Phase, TransportKey
from nebh.signing.statements import peek_statement, sign_statement
from nebh.wire import codec

pytestmark = pytest.mark.e2e


class StandIn:
    """As much of an executor as the agent sees."""

    def __init__(self, cloud, path: Path) -> None:
        self.cloud, self.path = cloud, path
        self.changed = threading.Condition()
        self.receipts: list[tuple[int, bytes]] = []
        self.events: list[Event] = []
        self.submitted: list[tuple[str, bytes]] = []
        self.seq = 0
        self.start()

    def start(self) -> None:
        self.server = serve_frames(self.path, mode=0o600, handler=self.handle, allowed_uids=frozenset({os.getuid()}))

    def handle(self, channel: FrameChannel, head: Head, body: bytes, _: Peer) -> None:
        match head["op"]:
            case "transport":
                made = TransportKey(
                    cluster_id="c" * 32,
                    node_id="1" * 32,
                    transport_pk=head["public"],
                    not_after=int(time.time()) + 3600,
                )
                channel.send({"ok": True}, sign_statement("transport", made, self.cloud.node))
            case "submit":
                self.submitted.append((head["kind"], body))
                if head["kind"] == "assignment":
                    found = peek_statement(body, "assignment", Assignment)
                    if found.seq <= self.seq:
                        raise Refused("replayed", rule="N6")
                    self.seq = found.seq
                channel.send({"ok": True})
            case "poll":
                with self.changed:
                    if not self.news(head)["receipts"] and not self.news(head)["events"]:
                        self.changed.wait(head["wait_ms"] / 1000)
                    channel.send(self.news(head))
            case "logs":
                if head["service"] != "web":
                    raise NotFound("no such service")
                channel.send(
                    {"lines": [["web-1-0-1", "t", "stdout", "hi"]], "cursors": {"web-1-0-1": "5"}, "lost": False}
                )

    def news(self, head: Head) -> Head:
        return {
            "receipts": [[n, base64.b64encode(body).decode()] for n, body in self.receipts if n > head["receipt"]],
            "events": [codec.to_plain(one) for one in self.events if one.number > head["event"]],
            "status": {"node_id": "1" * 32, "seq": self.seq, "snapshot": 3, "running": [], "instances": []},
        }

    def say(self, nonce: str, outcome: Outcome) -> None:
        with self.changed:
            self.receipts.append(self.cloud.receipt(nonce, outcome))
            self.changed.notify_all()


class Agent:
    def __init__(self, cloud) -> None:
        self.cloud = cloud
        self.run = cloud.socket.parent
        self.more: tuple[str, ...] = ()
        self.start()

    def start(self) -> None:
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        log = (self.cloud.folder / "agent.log").open("ab")
        words = ["--state", str(self.cloud.folder / "a"), "--run", str(self.run), *self.more]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nebh.programs.agent", *words], env=env, stdout=log, stderr=log
        )
        until((self.run / "agent.sock").exists)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(20)

    def ask(self, head: Head) -> FrameChannel:
        channel = connect_frames(self.run / "agent.sock")
        channel.send(head)
        return channel


def until(look, seconds: float = 90.0):
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def executor(cloud) -> Iterator[StandIn]:
    made = StandIn(cloud, cloud.socket.parent / "executor.sock")
    yield made
    made.server.close()


@pytest.fixture(scope="module")
def agent(cloud, executor) -> Iterator[Agent]:
    made = Agent(cloud)
    yield made
    if made.process.poll() is None:
        made.kill(signal.SIGTERM)


def deploy(cloud) -> str:
    nonce = secrets.token_hex(16)
    request = api.DeploymentRequest(counter=1, epoch=1, replicas=1, phase=Phase.RUN, nonce=nonce, supersede=True)
    cloud.as_operator().deploy("web", request)
    return nonce


def nonces(executor) -> list[str]:
    return [peek_statement(body, kind, Assignment).nonce for kind, body in executor.submitted if kind == "assignment"]


def test_assignments_go_down_and_receipts_come_up(cloud, executor, agent):
    nonce = deploy(cloud)
    until(lambda: nonce in nonces(executor))
    assert ("hint", b"") in executor.submitted
    executor.say(nonce, Outcome.COMMITTED)
    got = cloud.as_operator().receipts(nonce=nonce, wait=20).receipts
    assert base64.b64decode(got[0].envelope) == executor.receipts[-1][1]
    assert cloud.as_operator().service("web").deployment.state is api.DeploymentState.DONE
    page = cloud.as_operator().logs("web", node="one")
    assert [line.text for line in page.lines] == ["hi"]


def test_events_survive_a_restart_of_agent_controller_and_executor(cloud, executor, agent):
    before = cloud.as_operator().receipts().cursor
    agent.kill()
    wanted = [secrets.token_hex(8) for _ in range(3)]
    executor.say(wanted[0], Outcome.ACCEPTED)
    cloud.stop(signal.SIGKILL)
    agent.start()
    executor.say(wanted[1], Outcome.PREPARED)
    cloud.start()
    executor.server.close()
    executor.start()
    executor.say(wanted[2], Outcome.COMMITTED)
    executor.events.append(
        Event(number=1, at=9, source="x", kind="instance.exited", severity=Severity.INFO, message="m", service="web")
    )

    def all_there() -> bool:
        page = cloud.as_operator().receipts(after=before)
        found = [base64.b64decode(one.envelope) for one in page.receipts]
        return found == [body for _, body in executor.receipts[-3:]]

    until(all_there)
    until(lambda: any(one.kind == "instance.exited" for one in cloud.as_operator().events(after=0).events))
    seen = len(executor.submitted)
    nonce = deploy(cloud)
    until(lambda: nonce in nonces(executor))
    assert [kind for kind, _ in executor.submitted[seen:]].count("assignment") == 1


def test_metadata_and_objects_are_fetched_for_the_executor(cloud, agent):
    with agent.ask(
        {"op": "metadata", "source": "controller", "name": "metadata/timestamp.json", "max": 10_000}
    ) as channel:
        head, body = channel.receive(20)
        assert head == {"ok": True, "size": len(body)}
        assert b"timestamp" in body
    for request, error in (
        ({"op": "metadata", "source": "controller", "name": "metadata/99.root.json", "max": 10}, NotFound),
        ({"op": "metadata", "source": "controller", "name": "metadata/timestamp.json", "max": 10}, BadInput),
        ({"op": "metadata", "source": "controller", "name": "/etc/passwd", "max": 10}, BadInput),
        ({"op": "metadata", "source": "mirror-7", "name": "metadata/1.root.json", "max": 10}, NebhError),
        ({"op": "metadata", "source": "controller", "name": "metadata/1.root.json", "max": 10, "more": 1}, BadInput),
        ({"op": "objects", "items": [["0" * 64, 5]]}, NotFound),
        ({"op": "objects", "items": [["zz", 5]]}, BadInput),
        ({"op": "nonsense"}, BadInput),
    ):
        with agent.ask(request) as channel, pytest.raises(error):
            check_answer(channel.receive(20)[0])
    contents = [secrets.token_bytes(2_500_000), b"", b"small"]
    known = {hashlib.sha256(data).hexdigest(): data for data in contents}
    items = [(digest, len(data)) for digest, data in known.items()]
    cloud.as_operator().upload_objects(lambda: encode_pack(items, lambda digest: [known[digest]]))
    with agent.ask({"op": "objects", "items": [list(item) for item in items]}) as channel:
        for digest, data in known.items():
            got = b""
            while True:
                head, body = channel.receive(20)
                check_answer(head)
                assert head["digest"] == digest
                got += body
                if head["last"]:
                    break
            assert got == data


@pytest.fixture
def site(tmp_path):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **more) -> None:
            super().__init__(*args, directory=str(tmp_path), **more)

        def log_message(self, *args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, server.server_address[1]
    server.shutdown()


def test_probes_say_what_they_saw(agent, site):
    folder, port = site
    (folder / "health").write_text("all is well")
    asked = {
        "op": "probe",
        "kind": "http",
        "address": "127.0.0.1",
        "port": port,
        "path": "/health",
        "host": "",
        "statuses": [200],
        "contains": "well",
        "timeout": 5000,
    }
    for change, ok, words in (
        ({}, True, "200"),
        ({"contains": "bad"}, False, "contain"),
        ({"path": "/no"}, False, "404"),
        ({"kind": "tcp"}, True, "accepts"),
        ({"port": 1}, False, "connect"),
    ):
        with agent.ask({**asked, **change}) as channel:
            head, _ = channel.receive(20)
            assert head["ok"] is ok, head
            assert words in head["detail"]


def test_mirrors_serve_what_the_controller_lacks(cloud, agent, site):
    folder, port = site
    data = b"only the mirror has this"
    digest = hashlib.sha256(data).hexdigest()
    place = folder / "objects" / digest[:2] / digest
    place.parent.mkdir(parents=True)
    place.write_bytes(data)
    (folder / "metadata").mkdir()
    (folder / "metadata" / "timestamp.json").write_bytes(b"{}")
    agent.kill(signal.SIGTERM)
    agent.more = ("--mirror", f"http://127.0.0.1:{port}")
    (agent.run / "agent.sock").unlink(missing_ok=True)
    agent.start()
    with agent.ask({"op": "metadata", "source": "mirror-0", "name": "metadata/timestamp.json", "max": 100}) as channel:
        assert channel.receive(20)[1] == b"{}"
    with agent.ask({"op": "objects", "items": [[digest, len(data)]]}) as channel:
        head, body = channel.receive(20)
        check_answer(head)
        assert body == data


def test_the_agent_is_small_and_sleeps(agent):
    time.sleep(3)
    folder = Path(f"/proc/{agent.process.pid}")

    def cpu() -> int:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = cpu()
    time.sleep(5)
    assert cpu() - before <= 10  # a fiftieth of a core: a loop that does not sleep takes 500
    pss = next(line for line in (folder / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    print("agent", pss)
    assert int(pss.split()[1]) < 22 * 1024
