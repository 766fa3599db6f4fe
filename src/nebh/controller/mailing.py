"""Mail: events go to people. The events in the database are the queue; a cursor says how far they have been told, so a
restart loses none, and one that was told and then forgotten by a crash carries the same Message-ID."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nebh.controller.core import Core
from nebh.host.files import read_bounded
from nebh.model.api import MailState, MailTest
from nebh.model.errors import BadInput, NebhError, NotFound
from nebh.model.event import Event, Severity
from nebh.model.mail import ControllerConfig, MailQueue, MailSettings, MailText
from nebh.planning import mail as planning
from nebh.state.events import events_after, last_cursor
from nebh.state.mail import drop_queue, read_queue, write_queue
from nebh.wire import codec

if TYPE_CHECKING:
    from nebh.host.smtp import Server

LOOK_S: Final = 60.0
SETTLE_S: Final = 2.0
"""What happens together is told together."""
PAGE: Final = 500
MOST_READ: Final = 20_000
"""Events that one mail counts."""
FILE: Final = "controller.json"


@dataclass
class Mailer:
    """One controller's mail. complained: what was last said to be wrong with the settings; missed: of recipients."""

    core: Core
    state: Path
    complained: str = ""
    missed: str = ""

    def settings(self) -> MailSettings | None:
        """Return the settings as the file says them now, None without. Raises BadInput with all that is wrong."""
        path = self.state / FILE
        try:
            data = read_bounded(path, limit=64 * 1024)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror or error}", hint="docs/operations.md, Mail") from error
        found = codec.decode_loose(data, ControllerConfig, what=str(path)).mail
        wrong = planning.problems(found) if found is not None else ()
        if wrong:
            raise BadInput(f"cannot use {path}: {'; '.join(wrong)}", hint="docs/operations.md, Mail")
        return found

    def server(self, settings: MailSettings) -> Server:
        """Return where mail is handed in. Raises BadInput where the password cannot be read."""
        from nebh.host.smtp import Server  # a controller without mail needs no smtplib

        password = ""
        if settings.password_file:
            try:
                data = read_bounded(Path(settings.password_file), limit=4096)
                password = data.decode().removesuffix("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise BadInput(
                    f"cannot read the password of mail in {settings.password_file}: {error}",
                    hint="the file is to hold it alone, and the user nebh-controller is to be able to read it",
                ) from error
        return Server(
            host=settings.host,
            port=settings.real_port,
            tls=settings.tls,
            user=settings.user,
            password=password,
            ca=settings.ca,
            name=settings.sender.rpartition("@")[2],
        )

    # what is to be told

    def queue(self) -> MailQueue:
        """Return the queue; one that begins now begins with what happens from now on."""
        with self.core.database.begin() as connection:
            found = read_queue(connection)
            if found is None:
                found = MailQueue(cursor=last_cursor(connection))
                write_queue(connection, found)
        return found

    def keep(self, queue: MailQueue) -> None:
        """Remember it."""
        with self.core.database.begin() as connection:
            write_queue(connection, queue)

    def waiting(self, settings: MailSettings, queue: MailQueue) -> tuple[tuple[tuple[int, Event], ...], int]:
        """Return the (cursor, event)s to tell, and the cursor of the last event looked at."""
        found: list[tuple[int, Event]] = []
        cursor = queue.cursor
        for _ in range(MOST_READ // PAGE):
            with self.core.database.begin() as connection:
                page = events_after(connection, cursor=cursor, service="", limit=PAGE)
            found += [(number, one) for number, one in page if planning.is_wanted(settings, one)]
            cursor = page[-1][0] if page else cursor
            if len(page) < PAGE:
                break
        return tuple(found), cursor

    # sending

    async def step(self) -> float:
        """Tell what is to be told, if it may be now; return the seconds until the next look is due."""
        try:
            settings = self.settings()
        except BadInput as error:
            self._complain(error)
            return LOOK_S
        self.complained = ""
        if settings is None:
            with self.core.database.begin() as connection:
                drop_queue(connection)
            return LOOK_S
        queue, now = self.queue(), self.core.now()
        if now < queue.next_at:
            return min((queue.next_at - now) / 1000, 4 * LOOK_S)
        found, cursor = self.waiting(settings, queue)
        if not found:
            if cursor != queue.cursor:
                self.keep(replace(queue, cursor=cursor))
            return LOOK_S
        await self._send(settings, queue, found, cursor)
        return 1.0

    async def _send(
        self, settings: MailSettings, queue: MailQueue, found: tuple[tuple[int, Event], ...], cursor: int
    ) -> None:
        text = planning.compose(found, cluster=self._cluster()[0], cloud=self._cluster()[1])
        try:
            refused = await asyncio.to_thread(self._hand_in, settings, text)
        except (NebhError, OSError) as error:
            self._failed(queue, error)
            return
        self.keep(planning.after_sending(queue, settings, cursor=cursor, now=self.core.now()))
        words = "; ".join(f"{who}: {said}" for who, said in refused.items())
        if words and words != self.missed:
            self.core.report_event("mail.recipient-refused", Severity.WARNING, f"mail reached not everybody: {words}")
        self.missed = words

    def _failed(self, queue: MailQueue, error: Exception) -> None:
        now = self.core.now()
        later = planning.after_failing(queue, error=str(error)[:500], now=now)
        if planning.is_long(later, now=now):
            later = replace(later, told=True)
            self.core.report_event(
                "mail.failed",
                Severity.WARNING,
                f"mail has not gone out for an hour: {error}",
                hint="`nebh mail test` shows what the server says; what waits is kept and sent later",
            )
        self.keep(later)

    def _hand_in(self, settings: MailSettings, text: MailText) -> dict[str, str]:
        """In a worker thread."""
        from email.message import EmailMessage
        from email.utils import formatdate

        from nebh.host.smtp import send_mail

        message = EmailMessage()
        message["From"], message["To"] = settings.sender, ", ".join(settings.to)
        message["Subject"] = text.subject
        message["Date"] = formatdate(self.core.now() / 1000)
        message["Message-ID"] = f"<{text.id}@{settings.sender.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text.body)
        return send_mail(self.server(settings), message, sender=settings.sender, to=settings.to)

    def _complain(self, error: NebhError) -> None:
        if error.message != self.complained:
            self.core.report_event("mail.bad-settings", Severity.WARNING, error.message, hint=error.hint)
        self.complained = error.message

    def _cluster(self) -> tuple[str, str]:
        """Return the cluster's id and name."""
        settings = self.core.trusted.settings if self.core.trusted is not None else None
        return (settings.cluster_id, settings.name) if settings is not None else ("unfounded", "nebh")

    # for people

    async def test(self) -> MailTest:
        """Send one mail now. Raises NotFound without settings, BadInput for bad ones."""
        settings = self.settings()
        if settings is None:
            raise NotFound(
                "cannot send mail: the controller has no settings for it",
                hint=f"write them to {self.state / FILE}: docs/operations.md, Mail",
            )
        cluster, cloud = self._cluster()
        text = MailText(
            id=f"nebh.{cluster[:16]}.test.{self.core.now()}",
            subject=f"[{cloud}] a test of mail",
            body="This mail was asked for by `nebh mail test`. Events of the cloud will come the same way.\n",
        )
        place = f"{settings.host}:{settings.real_port}"
        try:
            refused = await asyncio.to_thread(self._hand_in, settings, text)
        except BadInput:
            raise
        except NebhError as error:
            return MailTest(ok=False, server=place, to=settings.to, said=error.message, hint=error.hint)
        words = "; ".join(f"{who}: {said}" for who, said in refused.items())
        return MailTest(ok=not refused, server=place, to=settings.to, said=words or "it took the mail")

    def state_of(self) -> MailState:
        """Return how mail stands. Raises BadInput for bad settings."""
        settings = self.settings()
        if settings is None:
            return MailState()
        queue = self.queue()
        found, _ = self.waiting(settings, queue)
        return MailState(
            server=f"{settings.host}:{settings.real_port}",
            to=settings.to,
            least=settings.least,
            waiting=len(found),
            sent_at=queue.sent_at,
            failing_since=queue.failing_since,
            error=queue.error,
        )


async def keep_telling(core: Core) -> None:
    """Send mail whenever there is something to tell, for ever."""
    mailer = Mailer(core, core.state)
    while True:
        try:
            seconds = await mailer.step()
        except (NebhError, OSError):  # a full disk: the events are still there
            seconds = LOOK_S
        if await core.events.wait(seconds):
            await asyncio.sleep(SETTLE_S)
