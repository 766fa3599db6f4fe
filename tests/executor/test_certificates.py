"""A hostile agent between the executor and an authority: it gets no signature and no certificate of its choice. With an
honest one, the same way, a certificate comes into use."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nebh.client.frame_channel import FrameChannel, FrameServer, serve_frames
from nebh.model.errors import NebhError
from nebh.model.policy import NetPolicy
from nebh.model.service import Acme, Route, RouteTls
from nebh.planning.tls import DAY, MINUTE
from nebh.testing.pems import make_pem
from nebh.wire import codec

HOST = "web.test"
PEM = serialization.Encoding.PEM
Play = Callable[["Hostile", FrameChannel], None]


class Hostile:
    """An agent that does what a test says. signed: bodies that the executor gave it."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.signed: list[dict[str, str]] = []
        self.play: Play = give_honestly
        self.turns = 0
        ca = make_pem("ca.test", days=900)
        self.ca_key = serialization.load_pem_private_key(ca, None)
        self.ca = x509.load_pem_x509_certificate(ca)
        path = bench.folder / "ca.pem"
        path.write_bytes(self.ca.public_bytes(PEM))
        bench.context.layout.agent_socket.parent.mkdir(parents=True, exist_ok=True)
        tls = RouteTls(acme=Acme(directory="https://ca.test/d", ca=str(path)))
        bench.set_policy(version=2, net=NetPolicy(routes=(Route(port=8080, host=HOST, tls=tls),), ports={"http": 8080}))

    def serve(self) -> FrameServer:
        def handle(channel: FrameChannel, head: dict[str, Any], _body: bytes, _peer: object) -> None:
            assert head["op"] == "acme"
            self.turns += 1
            self.play(self, channel)

        return serve_frames(self.bench.context.layout.agent_socket, mode=0o600, handler=handle, allowed_uids=None)

    def ask(self, channel: FrameChannel, kind: str, **wrong: Any) -> bytes:
        """Have something signed; return the body."""
        fields = {"sign": kind, "url": "https://ca.test/x", "nonce": "abc", "kid": "https://ca.test/1", **wrong}
        return channel.request(fields)[1]

    def request(self, channel: FrameChannel) -> x509.CertificateSigningRequest:
        """Return the request that the executor signs."""
        import base64

        payload = json.loads(self.ask(channel, "finalize"))["payload"]
        csr = json.loads(base64.urlsafe_b64decode(payload + "==="))["csr"]
        return x509.load_der_x509_csr(base64.urlsafe_b64decode(csr + "==="))

    def certify(self, public: Any, host: str = HOST, *, days: float = 90) -> bytes:
        """Return a chain of the authority that counts."""
        now = datetime.datetime.now(datetime.UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
        )
        signed = built.sign(self.ca_key, hashes.SHA256())  # type: ignore[arg-type]
        return signed.public_bytes(PEM) + self.ca.public_bytes(PEM)

    def pem(self) -> bytes:
        """Return what the proxy has for the host."""
        plan = self.bench.executor.plane.plan()
        return bytes(plan.pems.get(HOST, b""))


def give_honestly(one: Hostile, channel: FrameChannel) -> None:
    channel.send({"ok": True}, one.certify(one.request(channel).public_key()))


@pytest.fixture
def hostile(bench: Any) -> Iterator[Hostile]:
    made = Hostile(bench)
    server = made.serve()
    yield made
    server.close()


def try_once(hostile: Hostile, play: Play) -> None:
    """Deploy, or look again, with an agent that plays so; return when a try has ended."""
    hostile.play = play
    kinds = ("certificate.obtained", "certificate.failed")
    events = lambda: [one for one in hostile.bench.events() if one.startswith(kinds)]  # noqa: E731
    before = len(events())
    hostile.bench.deploy(1)
    hostile.bench.until(lambda: len(events()) > before)


def test_an_honest_one_brings_a_certificate(hostile: Hostile) -> None:
    try_once(hostile, give_honestly)
    hostile.bench.until(lambda: hostile.pem() != b"")
    leaf = x509.load_pem_x509_certificate(hostile.pem())
    key = serialization.load_pem_private_key(hostile.pem(), None)
    assert leaf.public_key() == key.public_key()
    hostile.bench.until(lambda: HOST in hostile.bench.ingress.recorded.pems)
    own = hostile.bench.accepted.certificates.find(HOST)
    assert (own.next_key, own.failures) == (b"", 0)
    hostile.bench.restart()
    assert hostile.pem() != b""
    assert hostile.turns == 1


def foreign_key(one: Hostile, channel: FrameChannel) -> None:
    one.request(channel)
    channel.send({"ok": True}, one.certify(ec.generate_private_key(ec.SECP256R1()).public_key()))


def foreign_name(one: Hostile, channel: FrameChannel) -> None:
    channel.send({"ok": True}, one.certify(one.request(channel).public_key(), "evil.test"))


def own_authority(one: Hostile, channel: FrameChannel) -> None:
    request = one.request(channel)
    pem = make_pem("ca.test")
    one.ca, one.ca_key = x509.load_pem_x509_certificate(pem), serialization.load_pem_private_key(pem, None)
    channel.send({"ok": True}, one.certify(request.public_key()))


def expired(one: Hostile, channel: FrameChannel) -> None:
    channel.send({"ok": True}, one.certify(one.request(channel).public_key(), days=-0.0001))


def garbage(_: Hostile, channel: FrameChannel) -> None:
    channel.send({"ok": True}, b"\x00-----BEGIN CERTIFICATE-----" * 50)


def too_much(_: Hostile, channel: FrameChannel) -> None:
    channel.send({"ok": True}, b"x" * 500_000)


def a_key_too(one: Hostile, channel: FrameChannel) -> None:
    """A whole bundle with a key of the agent's own."""
    channel.send({"ok": True}, make_pem(HOST))


def other_requests(one: Hostile, channel: FrameChannel) -> None:
    """The channel is closed at the first that is not signed."""
    with pytest.raises(NebhError):
        one.signed.append(json.loads(one.ask(channel, "keyChange")))
    raise NebhError("done")


def numbers(one: Hostile, channel: FrameChannel) -> None:
    channel.send({"sign": 7, "url": [], "nonce": None, "kid": {}})


def lies_about_waiting(_: Hostile, channel: FrameChannel) -> None:
    channel.send({"problem": "wait" * 1000, "kind": "rateLimited", "asked": codec.MAX_INTEGER - 1})


@pytest.mark.parametrize(
    "play",
    [
        foreign_key,
        foreign_name,
        own_authority,
        expired,
        garbage,
        too_much,
        a_key_too,
        other_requests,
        numbers,
        lies_about_waiting,
    ],
)
def test_a_hostile_one_brings_none(hostile: Hostile, play: Play) -> None:
    try_once(hostile, play)
    assert hostile.pem() == b""
    assert hostile.signed == []
    own = hostile.bench.accepted.certificates.find(HOST)
    assert own.failures == 1
    assert own.next_key
    now = hostile.bench.context.clock.now_ms()
    assert MINUTE / 2 < own.next_try - now <= (7 * DAY if play is lies_about_waiting else MINUTE)


def test_what_serves_outlives_a_hostile_renewal(hostile: Hostile) -> None:
    try_once(hostile, give_honestly)
    hostile.bench.until(lambda: hostile.pem() != b"")
    good, own = hostile.pem(), hostile.bench.accepted.certificates.find(HOST)
    hostile.play = own_authority
    hostile.bench.accepted.certificates.put(replace(own, obtained_at=1, next_try=1))  # it is due
    hostile.bench.executor.certificates.wake()
    hostile.bench.until(lambda: any("certificate.failed" in one for one in hostile.bench.events()))
    assert hostile.pem() == good
