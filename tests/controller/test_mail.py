"""Mail against a real SMTP server (aiosmtpd, with STARTTLS and login), and against servers that mean no good."""

from __future__ import annotations

import ast
import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

import nebh
from nebh.controller.core import Core
from nebh.controller.mailing import Mailer
from nebh.host.smtp import Server, send_mail
from nebh.model.errors import BadInput, NebhError, NotFound
from nebh.model.event import Event, Severity
from nebh.model.mail import MailSettings, MailTls
from nebh.planning.mail import MOST, compose, is_wanted, problems
from nebh.signing.statements import Seed
from nebh.state.events import add_event
from nebh.state.migrate import migrate
from nebh.testing.mail_server import PASSWORD, MailServer, make_certificate

pytestmark = pytest.mark.e2e

pytest.importorskip("aiosmtpd", reason="aiosmtpd is not installed: no SMTP server to speak to")
MINUTE = 60_000
START = 1_700_000_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("cert"))


@pytest.fixture
def post(certificate: tuple[Path, Path]) -> Iterator[MailServer]:
    made = MailServer(*certificate)
    yield made
    made.close()


class Office:
    """A controller's mail with a clock of its own."""

    def __init__(self, folder: Path, certificate: Path, port: int) -> None:
        self.folder, self.now = folder, START
        migrate(folder / "controller.db")
        (folder / "password").write_text(f"{PASSWORD}\n")
        self.fields: dict[str, Any] = {
            "host": "localhost",
            "port": port,
            "sender": "nebh@example.org",
            "to": ["ops@example.org", "boss@example.org"],
            "user": "ops",
            "password_file": str(folder / "password"),
            "ca": str(certificate),
        }
        self.open()
        self.write()
        self.mailer.queue()

    def open(self) -> None:
        self.core = Core(state=self.folder, signer=Seed(b"c" * 32), tools=None, now=lambda: self.now, version="test")
        self.mailer = Mailer(self.core, self.folder)

    def write(self, **fields: Any) -> None:
        self.fields |= fields
        (self.folder / "controller.json").write_text(json.dumps({"mail": self.fields}))

    def happens(self, kind: str, severity: Severity = Severity.WARNING, message: str = "", **more: Any) -> None:
        with self.core.database.begin() as connection:
            number = int(connection.exec_driver_sql("SELECT COUNT(*) FROM events").scalar() or 0) + 1
            event = Event(
                number=number,
                at=self.now,
                source="one",
                kind=kind,
                severity=severity,
                message=message or f"{kind} has happened",
                **more,
            )
            add_event(connection, node_id="1" * 32, event=event)

    def step(self, *, later: int = 0) -> None:
        self.now += later
        asyncio.run(self.mailer.step())

    def restart(self) -> None:
        self.close()
        self.open()

    def kinds(self) -> list[str]:
        from nebh.state.events import events_after

        with self.core.database.begin() as connection:
            return [one.kind for _, one in events_after(connection, cursor=0, service="", limit=10_000)]

    def close(self) -> None:
        self.core.close()
        self.core.database.close()


@pytest.fixture
def office(tmp_path: Path, certificate: tuple[Path, Path], post: MailServer) -> Iterator[Office]:
    made = Office(tmp_path, certificate[0], post.port)
    yield made
    made.close()


def text_of(mail: Message) -> str:
    return str(mail.get_content()).replace("\r\n", "\n")  # type: ignore[attr-defined]


def test_warnings_and_alarms_go_out_and_the_rest_does_not(office: Office, post: MailServer) -> None:
    office.happens("storage.gone", Severity.ALARM, "the disk is away", hint="look at it", facts={"output": "hunter2"})
    office.happens("storage.back")
    office.happens("rehearsal.passed", Severity.INFO)
    office.step()
    (mail,) = post.mails
    assert mail["To"] == "ops@example.org, boss@example.org"
    assert mail["Subject"] == "[nebh] alarm: the disk is away (and 1 more)"
    assert mail["Auto-Submitted"] == "auto-generated"
    said = text_of(mail)
    assert "hint: look at it" in said
    assert "storage.back" in said
    assert "rehearsal.passed" not in said
    assert "hunter2" not in said, "facts may hold what a program printed"
    office.step(later=60 * MINUTE)
    assert len(post.mails) == 1, "each once"
    office.write(also=["rehearsal.*"], never=["storage.back"])
    office.happens("rehearsal.passed", Severity.INFO)
    office.happens("storage.back")
    office.step(later=60 * MINUTE)
    assert "rehearsal.passed" in text_of(post.mails[1])
    assert "storage.back" not in text_of(post.mails[1])


def test_a_flood_is_few_short_mails(office: Office, post: MailServer) -> None:
    for _ in range(700):
        office.happens("instance.exited", message="x" * 500)
    office.step()
    assert len(post.mails) == 1
    said = text_of(post.mails[0])
    assert said.count("has happened") + said.count("xxx" * 100) == MOST
    assert "and 650 more:\n  650 x instance.exited" in said
    sent = []
    for minute in range(5 * 60):
        office.happens("instance.exited")
        office.step(later=MINUTE)
        if len(post.mails) > 1 + len(sent):
            sent.append(minute)
    assert len(sent) <= 10, "the wait doubles up to an hour while there is always something"
    assert len(sent) >= 6
    office.step(later=600 * MINUTE)
    office.happens("storage.gone")
    before = len(post.mails)
    office.step(later=600 * MINUTE)
    assert len(post.mails) == before + 1


def test_a_restart_loses_none_and_a_crash_after_sending_is_recognised(office: Office, post: MailServer) -> None:
    port = office.fields["port"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        office.write(port=closed.getsockname()[1])
    office.happens("backup.failed")
    office.step()
    assert post.mails == []
    assert "cannot speak SMTP" in office.mailer.queue().error
    office.restart()
    office.write(port=port)
    office.step(later=1000)
    assert post.mails == [], "tried again later"

    def crash(_: object) -> None:
        raise KeyboardInterrupt

    keep, office.mailer.keep = office.mailer.keep, crash  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        office.step(later=2 * MINUTE)
    office.mailer.keep = keep  # type: ignore[method-assign]
    office.restart()
    office.step()
    first, second = post.mails
    assert first["Message-ID"] == second["Message-ID"]
    office.step(later=60 * MINUTE)
    assert len(post.mails) == 2
    assert office.mailer.state_of().waiting == 0


def test_an_hour_without_mail_is_an_event_once(office: Office, post: MailServer) -> None:
    office.write(password_file=str(office.folder / "wrong"))
    (office.folder / "wrong").write_text("guess")
    office.happens("storage.gone")
    for _ in range(10):
        office.step(later=20 * MINUTE)
    assert office.kinds().count("mail.failed") == 1
    assert post.logins <= 16, "with growing pauses"
    assert office.mailer.state_of().failing_since > 0
    office.write(password_file=str(office.folder / "password"))
    office.step(later=60 * MINUTE)
    said = text_of(post.mails[0])
    assert "storage.gone" in said
    assert "mail.failed" in said
    assert office.mailer.state_of().failing_since == 0


def test_the_test_says_what_the_server_said(office: Office, post: MailServer) -> None:
    good = asyncio.run(office.mailer.test())
    assert (good.ok, good.said) == (True, "it took the mail")
    assert "nebh mail test" in text_of(post.mails[0])
    (office.folder / "password").write_text("wrong")
    bad = asyncio.run(office.mailer.test())
    assert not bad.ok
    assert "535 5.7.8 Authentication credentials invalid" in bad.said
    (office.folder / "password").write_text(PASSWORD)
    post.refuse = {"boss@example.org": "550 who is that?"}
    some = asyncio.run(office.mailer.test())
    assert (some.ok, some.said) == (False, "boss@example.org: 550 who is that?")
    post.refuse["ops@example.org"] = "550 nobody"
    assert "takes mail for nobody of those named" in asyncio.run(office.mailer.test()).said
    (office.folder / "controller.json").unlink()
    with pytest.raises(NotFound, match="no settings"):
        asyncio.run(office.mailer.test())


def test_one_bad_address_is_told_once_and_the_others_get_theirs(office: Office, post: MailServer) -> None:
    post.refuse = {"boss@example.org": "550 who is that?"}
    office.happens("storage.gone")
    for _ in range(4):
        office.step(later=61 * MINUTE)
    assert office.kinds().count("mail.recipient-refused") == 1
    assert len(post.mails) == 2, "the event, and that one address is wrong"


def test_the_password_goes_to_nobody_else(office: Office, certificate: tuple[Path, Path]) -> None:
    open_post = MailServer(*certificate, tls=False)  # it would take the password in the open
    try:
        office.write(port=open_post.port)
        assert "STARTTLS" in asyncio.run(office.mailer.test()).said
        office.write(tls="none")
        assert asyncio.run(office.mailer.test()).ok, "the control: on this computer, and because it was asked for"
        assert open_post.logins == 1
    finally:
        open_post.close()


def test_a_stranger_with_a_certificate_gets_nothing(office: Office, post: MailServer) -> None:
    office.write(ca="")
    said = asyncio.run(office.mailer.test()).said
    assert "cannot trust localhost" in said
    office.write(ca=str(office.folder.parent / "nowhere.pem"))
    with pytest.raises(BadInput, match="cannot read the authorities"):
        asyncio.run(office.mailer.test())
    assert (post.logins, post.mails) == (0, [])


def test_bad_settings_are_said_once_and_all_at_once(office: Office, post: MailServer) -> None:
    office.write(to=["nobody", "x@y\r\nBcc: all@example.org"], host="a b", gap=1, user="")
    office.happens("storage.gone")
    office.step()
    office.step(later=MINUTE)
    assert office.kinds().count("mail.bad-settings") == 1
    with pytest.raises(BadInput) as caught:
        office.mailer.settings()
    assert {word for word in ("mail.to", "mail.host", "mail.gap", "mail.user") if word in str(caught.value)} == {
        "mail.to",
        "mail.host",
        "mail.gap",
        "mail.user",
    }
    (office.folder / "controller.json").write_text('{"mail": {"hots": 1}}')
    office.step(later=MINUTE)
    assert office.kinds().count("mail.bad-settings") == 2
    assert post.mails == []


def test_a_password_needs_encryption_or_this_computer() -> None:
    base = {"sender": "a@example.org", "to": ("a@example.org",), "user": "u", "password_file": "/p"}
    assert problems(MailSettings(host="mail.example.org", tls=MailTls.NONE, **base)) != ()  # type: ignore[arg-type]
    assert problems(MailSettings(host="127.0.0.1", tls=MailTls.NONE, **base)) == ()  # type: ignore[arg-type]
    assert problems(MailSettings(host="mail.example.org", **base)) == ()  # type: ignore[arg-type]


def test_text_of_nodes_makes_no_headers() -> None:
    event = Event(
        number=1,
        at=START,
        source="o\r\nne",
        kind="x.y",
        severity=Severity.ALARM,
        message="a\r\nBcc: all@example.org\x1b[2J",
    )
    mail = compose([(1, event)], cluster="c" * 32, cloud="home")
    assert "\n" not in mail.subject
    assert "\r" not in mail.subject + mail.body
    assert "\x1b" not in mail.body


@pytest.fixture
def hostile() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Return a function that starts a server which does to whoever connects what it is given; it returns the port."""
    listening: list[socket.socket] = []

    def start(act: Callable[[socket.socket], None]) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def work() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    act(connection)
                except OSError:
                    pass

        threading.Thread(target=work, daemon=True).start()
        return int(server.getsockname()[1])

    yield start
    for one in listening:
        one.close()


def endless(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"220-more\r\n" * 1000)


def one_line(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * 65_536)


def drip(connection: socket.socket) -> None:
    for _ in range(1000):
        connection.sendall(b"2")
        time.sleep(0.1)


def silence(connection: socket.socket) -> None:
    connection.recv(1)


def no_smtp(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("act", [endless, one_line, drip, silence, no_smtp])
def test_a_hostile_server_costs_little_time_and_memory(
    act: Callable[[socket.socket], None], hostile: Callable[..., int]
) -> None:
    from email.message import EmailMessage

    server = Server(host="127.0.0.1", port=hostile(act), tls=MailTls.NONE, deadline=1.5)
    begun = time.monotonic()
    with pytest.raises(NebhError):
        send_mail(server, EmailMessage(), sender="a@example.org", to=("b@example.org",))
    assert time.monotonic() - begun < 10


def test_a_server_that_says_the_password_back_brings_it_nowhere(hostile: Callable[..., int]) -> None:
    from email.message import EmailMessage

    def act(connection: socket.socket) -> None:
        file = connection.makefile("rb")
        connection.sendall(b"220 hi\r\n")
        file.readline()
        connection.sendall(b"250-hi\r\n250 AUTH PLAIN\r\n")
        said = file.readline().strip()
        connection.sendall(b"535 you said " + said + b" which is " + PASSWORD.encode() + b"\r\n")
        file.readline()

    server = Server(host="127.0.0.1", port=hostile(act), tls=MailTls.NONE, user="ops", password=PASSWORD)
    with pytest.raises(NebhError) as caught:
        send_mail(server, EmailMessage(), sender="a@example.org", to=("b@example.org",))
    assert "535 you said AUTH PLAIN *** which is ***" in str(caught.value)
    assert PASSWORD not in repr(server)


def test_what_is_bad_news_goes_out_by_default() -> None:
    """Every event that tells of something gone, failed or refused has a severity that is mailed."""
    bad = ("gone", "back", "failed", "held", "stuck", "refused", "damaged", "broken", "expires", "left")
    checked = []
    source = Path(nebh.__file__).parent
    for path in sorted((*(source / "executor").glob("*.py"), *(source / "controller").glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            kind = node.args[0]
            if node.func.attr not in ("event", "report_event") or not isinstance(kind, ast.Constant):
                continue  # `tell` is a warning unless it says more
            if not str(kind.value).endswith(bad):
                continue
            given = [word.value for word in node.keywords if word.arg == "severity"] or node.args[1:2]
            said = ast.unparse(given[0]) if given else "Severity.INFO"
            assert "WARNING" in said or "ALARM" in said, f"{path.name}: {kind.value} is {said}"
            checked.append(str(kind.value))
    assert len(checked) >= 8, checked
    settings = MailSettings(host="h", sender="a@example.org", to=("a@example.org",))
    for severity, wanted in ((Severity.INFO, False), (Severity.WARNING, True), (Severity.ALARM, True)):
        event = Event(number=1, at=1, source="one", kind="a.b", severity=severity, message="m")
        assert is_wanted(settings, event) is wanted
