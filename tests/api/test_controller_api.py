"""The controller as its callers see it: a real process, a real socket, real signatures."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from nebh.client.api_client import Client, Login
from nebh.client.transport import CommandTransport, TlsTransport
from nebh.images.pack import decode_pack, encode_pack
from nebh.model import api
from nebh.model.errors import BadInput, Conflict, NotFound, Refused
from nebh.model.event import Event, Severity
from nebh.model.statement import Assignment, Outcome, Phase, Running
from nebh.signing.statements import Seed, verify_statement
from nebh.signing.wish import Wish

pytestmark = pytest.mark.e2e

CLUSTER = "c" * 32


def ask(counter: int = 1, *, nonce: str = "", phase: Phase = Phase.RUN, replicas: int = 1, supersede: bool = False):
    return api.DeploymentRequest(
        counter=counter,
        epoch=1,
        replicas=replicas,
        phase=phase,
        nonce=nonce or secrets.token_hex(16),
        supersede=supersede,
    )


def settle(cloud, nonce: str, outcome: Outcome = Outcome.COMMITTED) -> None:
    number, envelope = cloud.receipt(nonce, outcome)
    cloud.as_node().report(api.ReportRequest(receipts=(numbered(number, envelope),)))


def numbered(number: int, envelope: bytes) -> api.NumberedReceipt:
    return api.NumberedReceipt(number=number, envelope=base64.b64encode(envelope).decode())


def test_what_is_published_is_served_and_verifies(cloud):
    health = cloud.nobody().health()
    assert (health.cluster_id, health.snapshot) == (CLUSTER, 3)
    status = cloud.as_operator().status()
    assert status.name == "home"
    assert [service.service for service in status.services] == ["web"]
    assert status.services[0].releases == (2, 1)
    assert [node.name for node in status.nodes] == ["one"]
    assert cloud.nobody().fetch("metadata/timestamp.json", 1 << 20)
    assert cloud.nobody().fetch("metadata/9.root.json", 1 << 20) is None
    assert cloud.nobody().fetch("metadata/../../keys/controller.key", 1 << 20) is None
    assert len(cloud.nobody().fetch("metadata/3.targets.json", 10) or b"") in (0, 11)


def test_who_may_call_what(cloud):
    with pytest.raises(Refused) as refused:
        cloud.nobody().status()
    assert refused.value.rule == "identity"
    with pytest.raises(Refused):
        cloud.as_node().status()
    with pytest.raises(Refused):
        cloud.as_operator().poll(api.PollRequest(snapshot=0, seq=0, order=0, wait=0))
    with pytest.raises(Refused):
        cloud.as_operator(Seed(b"x" * 32)).status()
    thief = Seed(b"y" * 32)
    with pytest.raises(Refused):
        Client(
            cloud.as_operator()._transport,
            login=Login(kind=api.Who.OPERATOR, sign=lambda data: (cloud.operator.public, thief.sign_bytes(data))),
        ).status()
    with pytest.raises(Refused):
        cloud.as_node(cloud.statement(transport_pk="0" * 64)).report(api.ReportRequest())
    with pytest.raises(Refused):
        cloud.as_node(cloud.statement(not_after=1)).report(api.ReportRequest())
    with pytest.raises(Refused):
        cloud.as_node(cloud.statement(cluster_id="d" * 32)).report(api.ReportRequest())
    assert cloud.as_node().report(api.ReportRequest()).event == 0


def test_a_nonce_is_good_once(cloud):
    client = cloud.nobody()
    nonce = client._post("/v1/nonces", {}, api.Nonce).nonce
    from nebh.wire.challenge import challenge

    signature = cloud.operator.sign_bytes(challenge(kind=api.Who.OPERATOR, nonce=nonce)).hex()
    request = api.TokenRequest(kind=api.Who.OPERATOR, key=cloud.operator.public, nonce=nonce, signature=signature)
    assert client._post("/v1/tokens", request, api.Token).kind is api.Who.OPERATOR
    with pytest.raises(Refused):
        client._post("/v1/tokens", request, api.Token)


def test_publishing_is_compare_and_swap(cloud):
    before = cloud.nobody().health().snapshot
    one = cloud.sign(Wish(releases=(cloud.release(3),)))
    other = cloud.sign(Wish(releases=(cloud.release(3),)))
    cloud.publish(one)
    with pytest.raises(Conflict):
        cloud.publish(other)
    assert cloud.nobody().health().snapshot == before + 1
    with pytest.raises(Refused):
        cloud.publish(cloud.sign(Wish(releases=(cloud.release(4),))), cloud.nobody())


def test_a_forged_or_broken_set_changes_nothing(cloud):
    before = cloud.nobody().health().snapshot
    made = cloud.sign(Wish(releases=(cloud.release(9),)))
    name = next(name for name in made.metadata if "rel-web" in name)
    with pytest.raises(Refused) as refused:
        cloud.as_operator().publish(
            base=made.base, metadata={**made.metadata, name: made.metadata[name] + b" "}, targets=made.targets
        )
    assert refused.value.rule == "N1"
    with pytest.raises(BadInput):
        cloud.as_operator().publish(base=made.base, metadata={**made.metadata, "../x.json": b""}, targets={})
    with pytest.raises(BadInput):
        cloud.as_operator().publish(
            base=made.base, metadata={**made.metadata, "77.rel-db.json": b"{}"}, targets=made.targets
        )
    with pytest.raises(BadInput):
        cloud.as_operator().publish(
            base=made.base, metadata=made.metadata, targets={f"release/web/{'0' * 64}.9.json": b"x"}
        )
    assert cloud.nobody().health().snapshot == before
    assert not list(cloud.state.glob("staging-*"))


def test_objects_come_and_go_in_packs(cloud):
    contents = [b"", b"hello", secrets.token_bytes(3_000_000)]
    known = {hashlib.sha256(data).hexdigest(): data for data in contents}
    client = cloud.as_operator()
    assert set(client.missing_objects(tuple(known))) == set(known)
    items = [(digest, len(data)) for digest, data in known.items()]
    stored = client.upload_objects(lambda: encode_pack(items, lambda digest: [known[digest]]))
    assert stored == api.Stored(objects=3, bytes=3_000_005)
    assert client.missing_objects((*known, "0" * 64)) == ("0" * 64,)
    found = {one.digest: b"".join(one.chunks) for one in decode_pack(cloud.as_node().download_objects(tuple(known)))}
    assert found == known
    with pytest.raises(NotFound):
        list(client.download_objects(("0" * 64,)))
    with pytest.raises(BadInput):
        client.upload_objects(lambda: iter([b"garbage" * 100]))
    assert client.health().snapshot
    with pytest.raises(Refused):
        cloud.as_node().upload_objects(lambda: iter([b""]))


def test_a_deployment_becomes_a_signed_assignment_and_ends_by_receipts(cloud):
    operator, node, nonce = cloud.as_operator(), cloud.as_node(), secrets.token_hex(16)
    made = operator.deploy("web", ask(1, nonce=nonce))
    assert (made.state, made.nodes) == (api.DeploymentState.OPEN, {"one": ""})
    assert operator.deploy("web", ask(1, nonce=nonce)).id == made.id
    (envelope,) = node.poll(api.PollRequest(snapshot=0, seq=0, order=0, wait=0)).assignments
    found = verify_statement(
        base64.b64decode(envelope), "assignment", Assignment, keys=(cloud.controller_key,), cluster_id=CLUSTER
    )
    assert (found.service, found.counter, found.replicas, found.nonce) == ("web", 1, 1, nonce)
    with pytest.raises(Conflict) as conflict:
        operator.deploy("web", ask(2))
    assert cloud.operator.public[:16] in conflict.value.message
    settle(cloud, nonce, Outcome.ACCEPTED)
    assert operator.service("web").deployment.nodes == {"one": "accepted"}
    settle(cloud, nonce)
    assert operator.service("web").deployment.state is api.DeploymentState.DONE
    answer = node.poll(api.PollRequest(snapshot=cloud.nobody().health().snapshot, seq=0, order=0, wait=0))
    assert answer.assignments == ()
    again = secrets.token_hex(16)
    operator.deploy("web", ask(2, nonce=again))
    (later,) = node.poll(api.PollRequest(snapshot=0, seq=found.seq, order=0, wait=0)).assignments
    later_one = verify_statement(base64.b64decode(later), "assignment", Assignment, keys=(cloud.controller_key,))
    assert later_one.seq > found.seq
    back = secrets.token_hex(16)
    assert operator.deploy("web", ask(1, nonce=back)).state is api.DeploymentState.OPEN
    assert len(node.poll(api.PollRequest(snapshot=0, seq=found.seq, order=0, wait=0)).assignments) == 1
    settle(cloud, back)
    receipts = operator.receipts(nonce=nonce).receipts
    assert [one.node for one in receipts] == ["one", "one"]
    for wrong, error in (
        (ask(77), NotFound),
        (ask(1, replicas=4), Conflict),
        (ask(1, nonce="zz"), BadInput),
        (api.DeploymentRequest(counter=1, epoch=9, replicas=1, phase=Phase.RUN, nonce="a" * 32), Conflict),
    ):
        with pytest.raises(error):
            operator.deploy("web", wrong)
    with pytest.raises(NotFound):
        operator.deploy("nope", ask(1))


def test_a_long_poll_wakes_at_once(cloud):
    snapshot = cloud.nobody().health().snapshot
    node, took = cloud.as_node(), []
    node.report(api.ReportRequest())

    def wait() -> None:
        begin = time.monotonic()
        answer = node.poll(api.PollRequest(snapshot=snapshot, seq=2**50, order=0, wait=20_000))
        took.append((time.monotonic() - begin, answer.snapshot))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(1)
    cloud.publish(cloud.sign(Wish(releases=(cloud.release(snapshot + 10),))))
    thread.join(20)
    assert took[0][1] == snapshot + 1
    assert took[0][0] < 15
    events = cloud.as_operator().events(after=-1, wait=0)
    quiet = time.monotonic()
    assert cloud.as_operator().events(after=events.cursor, wait=0.5).events == ()
    assert time.monotonic() - quiet >= 0.5


def test_events_and_forged_receipts(cloud):
    node, operator = cloud.as_node(), cloud.as_operator()
    event = Event(
        number=1, at=5, source="liar", kind="instance.oom", severity=Severity.WARNING, message="m", service="web"
    )
    cursor = operator.events().cursor
    answer = node.report(api.ReportRequest(events=(event, event)))
    assert answer.event == 1
    (found,) = operator.events(after=cursor, service="web").events
    assert found.source == "one"
    before = operator.receipts(after=0).cursor
    number, envelope = cloud.receipt("f" * 32, Outcome.COMMITTED, signer=Seed(b"z" * 32))
    node.report(api.ReportRequest(receipts=(numbered(number, envelope),)))
    assert operator.receipts(after=before).receipts == ()
    assert operator.events(after=cursor).events[-1].kind == "receipt.dropped"


def test_status_of_nodes_and_logs(cloud):
    node, operator = cloud.as_node(), cloud.as_operator()
    running = Running(service="web", epoch=1, counter=2, replicas=1, ready=1)
    node.report(api.ReportRequest(status=api.NodeReport(seq=7, snapshot=3, running=(running,))))
    (view,) = operator.nodes()
    assert view.connected
    assert operator.service("web").allocations == (api.Allocation(node="one", running=running),)

    def answer() -> None:
        poll = api.PollRequest(snapshot=operator.health().snapshot, seq=2**50, order=0, wait=10_000)
        (request,) = cloud_node.poll(poll).requests
        line = api.LogLine(instance="web-2-0-1", time="t", stream="stdout", text="hello")
        cloud_node.report(
            api.ReportRequest(logs=(api.LogReply(id=request.id, lines=(line,), cursors={"web-2-0-1": "9"}),))
        )

    cloud_node = cloud.as_node()
    thread = threading.Thread(target=answer)
    thread.start()
    page = cloud.as_operator().logs("web", tail=10)
    thread.join(20)
    assert [line.text for line in page.lines] == ["hello"]
    assert page.cursor == '{"web-2-0-1":"9"}'
    with pytest.raises(NotFound):
        operator.logs("nope")


def test_orders_are_relayed_untouched_and_only_an_operators(cloud):
    envelope = cloud.order()
    made = cloud.as_operator().order(envelope)
    assert made.nodes == ("one",)
    assert cloud.as_operator().order(envelope).order == made.order
    orders = cloud.as_node().poll(api.PollRequest(snapshot=0, seq=0, order=0, wait=0)).orders
    assert [base64.b64decode(one.envelope) for one in orders] == [envelope]
    assert cloud.as_node().poll(api.PollRequest(snapshot=0, seq=0, order=made.order, wait=0)).orders == ()
    with pytest.raises(Refused):
        cloud.as_operator().order(cloud.order(Seed(b"q" * 32)))
    assert [one.what for one in cloud.as_operator().history(service="web", limit=2)] == ["ordered", "ordered"]


def test_through_a_command_as_through_ssh(cloud, program):
    argv = program("stdio", "--run", str(cloud.socket.parent))
    transport = CommandTransport(argv=tuple(argv), title="root@host", env=tuple(program.env.items()))
    client = Client(transport, login=cloud.as_operator()._login)
    assert client.status().name == "home"
    assert client.health().cluster_id == CLUSTER
    client.close()


def test_it_is_small_and_sleeps(cloud):
    folder = Path(f"/proc/{cloud.process.pid}")

    def cpu() -> int:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = cpu()
    switches = (folder / "status").read_text()
    time.sleep(6)
    after = (folder / "status").read_text()
    assert cpu() - before <= 10  # a loop that does not sleep takes 600

    def voluntary(text: str) -> int:
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("voluntary")))

    assert voluntary(after) - voluntary(switches) <= 10  # a timer of 100 ms would make 60
    pss = next(line for line in (folder / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    print("PSS", pss)
    assert int(pss.split()[1]) < 80 * 1024


def test_the_tcp_door_is_tls13_and_pinned(cloud):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    cloud.stop()
    cloud.start("--listen", f"127.0.0.1:{port}")
    client = Client(TlsTransport(host="127.0.0.1", port=port, pins=(cloud.pin,)), login=cloud.as_operator()._login)
    assert client.status().name == "home"
    with pytest.raises(Refused) as refused:
        Client(TlsTransport(host="127.0.0.1", port=port, pins=("0" * 64,))).health()
    assert refused.value.rule == "pin"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)
    assert cloud.stop() == 0
    cloud.start()


def test_an_overtaken_timestamp_is_signed_anew(cloud):
    publication = cloud.sign(Wish(releases=(cloud.release(900),)))
    old = json.loads(cloud.nobody().fetch("metadata/timestamp.json", 1 << 20))["signed"]["version"]
    metadata = {name: data for name, data in publication.metadata.items() if name != "timestamp.json"}
    cloud.as_operator().publish(base=publication.base, metadata=metadata, targets=publication.targets)
    new = json.loads(cloud.nobody().fetch("metadata/timestamp.json", 1 << 20))["signed"]
    assert new["version"] == old + 1
