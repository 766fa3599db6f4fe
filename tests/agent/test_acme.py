"""The agent's half of a conversation with an ACME authority, against a double of our own that answers wrong on demand:
what a real server (tests/acme) does not do by itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nebh.agent.acme import PATIENCE, Conversation, Problem

Answer = tuple[int, dict[str, str], Any]
URN = "urn:ietf:params:acme:error:"


class Double:
    """answers: by the last word of a path, what it says in turn; the last one again and again."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.nonces = 0
        double = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                word = self.path.rpartition("/")[2]
                double.asked.append((self.command, word))
                double.bodies.append(body)
                turns = double.answers[word]
                status, headers, value = turns.pop(0) if len(turns) > 1 else turns[0]
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                double.nonces += 1
                for name, text in {
                    "Content-Type": "application/json",
                    "Replay-Nonce": f"n{double.nonces}",
                    **headers,
                }.items():
                    if text:
                        self.send_header(name, text)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_HEAD = do_POST = _do  # noqa: N815 - the server's names

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        at = self.base
        self.answers: dict[str, list[Answer]] = {
            "directory": [
                (200, {}, {"newNonce": f"{at}/nonce", "newAccount": f"{at}/account", "newOrder": f"{at}/order"})
            ],
            "nonce": [(200, {}, b"")],
            "account": [(201, {"Location": f"{at}/account/1"}, {"status": "valid"})],
            "order": [
                (201, {"Location": f"{at}/order1"}, {"status": "pending", "authorizations": [f"{at}/authz"]}),
            ],
            "authz": [
                (200, {}, {"status": "pending", "challenges": [{"type": "http-01", "url": f"{at}/challenge"}]}),
                (200, {}, {"status": "processing"}),
                (200, {}, {"status": "valid"}),
            ],
            "challenge": [(200, {}, {"status": "processing"})],
            "order1": [
                (200, {}, {"status": "ready", "finalize": f"{at}/finalize"}),
                (200, {}, {"status": "valid", "certificate": f"{at}/cert"}),
            ],
            "finalize": [(200, {}, {"status": "processing"})],
            "cert": [(200, {"Content-Type": "application/pem-certificate-chain"}, b"CHAIN")],
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def double() -> Iterator[Double]:
    made = Double()
    yield made
    made.close()


class Time:
    """Sleeping takes no time; it is written down."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


def talk(double: Double, time: Time | None = None, directory: str = "") -> tuple[bytes, list[tuple[str, str]]]:
    signed: list[tuple[str, str]] = []
    time = time or Time()

    def sign(kind: str, url: str, nonce: str, kid: str) -> bytes:
        signed.append((kind, nonce))
        assert (kid == "") == (kind == "account")
        return json.dumps({"kind": kind, "url": url}).encode()

    conversation = Conversation(
        directory=directory or f"{double.base}/directory",
        host="a.test",
        ca="",
        sign=sign,
        monotonic=lambda: time.now,
        sleep=time.sleep,
    )
    return conversation.run(), signed


def fails(double: Double, time: Time | None = None) -> Problem:
    with pytest.raises(Problem) as caught:
        talk(double, time)
    return caught.value


def test_from_the_directory_to_the_chain(double: Double) -> None:
    chain, signed = talk(double)
    assert chain == b"CHAIN"
    kinds = [kind for kind, _ in signed]
    assert kinds[:4] == ["account", "order", "get", "challenge"]
    assert kinds[-3:] == ["finalize", "get", "get"]
    assert len({nonce for _, nonce in signed}) == len(signed)  # none twice


def test_a_nonce_that_is_refused_is_replaced(double: Double) -> None:
    bad: Answer = (400, {}, {"type": f"{URN}badNonce", "detail": "old"})
    double.answers["order"] = [bad, bad, *double.answers["order"]]
    assert talk(double)[0] == b"CHAIN"
    double.answers["account"] = [bad]
    assert fails(double).kind == "badNonce"
    assert [word for _, word in double.asked].count("account") < 10


def test_a_rate_limit_says_how_long(double: Double) -> None:
    double.answers["order"] = [(429, {"Retry-After": "86400"}, {"type": f"{URN}rateLimited", "detail": "too many"})]
    problem = fails(double)
    assert (problem.kind, problem.detail, problem.asked) == ("rateLimited", "too many", 86400.0)
    double.answers["order"] = [(503, {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, b"busy")]
    problem = fails(double)
    assert problem.kind == "rateLimited"
    assert problem.asked > 86_400


def test_it_looks_as_often_as_the_authority_likes(double: Double) -> None:
    waiting: Answer = (200, {"Retry-After": "7"}, {"status": "processing"})
    double.answers["authz"][1:1] = [waiting, waiting]
    time = Time()
    talk(double, time)
    assert time.slept.count(7.0) == 2


def test_a_challenge_that_failed_gives_the_authoritys_words(double: Double) -> None:
    error = {"type": f"{URN}connection", "detail": "192.0.2.1: Connection refused\x1b[2J"}
    double.answers["authz"][1:] = [
        (200, {}, {"status": "invalid", "challenges": [{"type": "http-01", "status": "invalid", "error": error}]})
    ]
    problem = fails(double)
    assert (problem.kind, problem.detail) == ("connection", error["detail"])


Break = Callable[[Double], None]
WRONG: dict[str, Break] = {
    "no directory": lambda d: d.answers.update(directory=[(404, {}, b"")]),
    "a list": lambda d: d.answers.update(directory=[(200, {}, [1])]),
    "no JSON": lambda d: d.answers.update(order=[(200, {}, b"{")]),
    "deep": lambda d: d.answers.update(order=[(200, {}, b"[" * 100_000)]),
    "numbers for texts": lambda d: d.answers.update(
        directory=[(200, {}, {"newNonce": 1, "newAccount": 2, "newOrder": 3})]
    ),
    "no nonce": lambda d: d.answers.update(
        directory=[(200, {"Replay-Nonce": ""}, d.answers["directory"][0][2])], nonce=[(200, {"Replay-Nonce": ""}, b"")]
    ),
    "no HTTP-01": lambda d: d.answers.update(
        authz=[(200, {}, {"status": "pending", "challenges": [7, {"type": "dns-01"}]})]
    ),
    "no challenges": lambda d: d.answers.update(authz=[(200, {}, {"status": "pending", "challenges": "x"})]),
    "another scheme": lambda d: d.answers.update(
        account=[(201, {"Location": "x"}, {})],
        order=[(201, {"Location": "file:///etc/passwd"}, {"authorizations": ["file:///etc/passwd"]})],
    ),
    "plain HTTP elsewhere": lambda d: d.answers.update(order=[(201, {}, {"authorizations": ["http://192.0.2.1/x"]})]),
    "endless": lambda d: d.answers.update(cert=[(200, {}, b"x" * 300_000)]),
    "never ready": lambda d: d.answers.update(order1=[(200, {}, {"status": "processing"})]),
    "hung up": lambda d: d.close(),
}


@pytest.mark.parametrize("name", WRONG)
def test_nonsense_is_a_problem_and_ends(double: Double, name: str) -> None:
    WRONG[name](double)
    time = Time()
    problem = fails(double, time)
    assert problem.kind in {"nonsense", "unreachable"}
    assert problem.detail
    assert time.now <= PATIENCE
