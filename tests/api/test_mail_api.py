"""Mail through a real controller: events of nodes go out by themselves, also after a restart, and operators can try it."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace

import pytest

from nebh.model.api import ReportRequest
from nebh.model.errors import BadInput, NotFound
from nebh.model.event import Event, Severity
from nebh.testing.mail_server import PASSWORD, USER, MailServer, make_certificate

pytestmark = pytest.mark.e2e

pytest.importorskip("aiosmtpd", reason="aiosmtpd is not installed: no SMTP server to speak to")


@pytest.fixture
def post(tmp_path):
    made = MailServer(*make_certificate(tmp_path))
    yield made
    made.close()


def until(is_so, patience: float = 40.0) -> None:
    end = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_events_go_out_by_themselves_and_operators_can_try(cloud, post, tmp_path) -> None:
    with pytest.raises(NotFound, match="no settings"):
        cloud.as_operator().test_mail()
    assert cloud.as_operator().mail().server == ""
    (tmp_path / "password").write_text(PASSWORD)
    mail = {
        "host": "localhost",
        "port": post.port,
        "sender": "nebh@example.org",
        "to": ["ops@example.org"],
        "user": USER,
        "password_file": str(tmp_path / "password"),
        "ca": str(tmp_path / "cert.pem"),
        "gap": 10,
    }
    settings = cloud.state / "controller.json"
    settings.write_text(json.dumps({"mail": mail}))
    done = cloud.as_operator().test_mail()
    assert (done.ok, done.said) == (True, "it took the mail")
    assert post.mails[0]["Subject"] == "[home] a test of mail"
    assert cloud.as_operator().mail().waiting == 0, "what was before is no news"
    event = Event(number=1, at=1, source="one", kind="storage.gone", severity=Severity.ALARM, message="no disk")
    cloud.as_node().report(ReportRequest(receipts=(), events=(event,)))
    assert cloud.stop(signal.SIGKILL) == -signal.SIGKILL
    cloud.start()
    until(lambda: len(post.mails) == 2)
    assert post.mails[1]["Subject"] == "[home] alarm: no disk"
    cloud.as_node().report(ReportRequest(receipts=(), events=(replace(event, number=2, message="still none"),)))
    until(lambda: len(post.mails) == 3)
    settings.write_text("{")
    with pytest.raises(BadInput):
        cloud.as_operator().mail()
    settings.unlink()
