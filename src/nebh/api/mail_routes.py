"""Operations about mail."""

from __future__ import annotations

from litestar import get, post
from litestar.di import NamedDependency

from nebh.api.access import allow
from nebh.controller.core import Core
from nebh.controller.mailing import Mailer
from nebh.model.api import MailState, MailTest, Who


@get("/v1/mail", opt=allow(Who.OPERATOR), sync_to_thread=False)
def mail_state(core: NamedDependency[Core]) -> MailState:
    """How mail stands: where it goes, what waits, and what the server said last."""
    return Mailer(core, core.state).state_of()


@post("/v1/mail/test", opt=allow(Who.OPERATOR, fails=(404,)), status_code=200)
async def mail_test(core: NamedDependency[Core]) -> MailTest:
    """Send one mail now, by the settings as they are; at most one at a time."""
    async with core.testing_mail:
        return await Mailer(core, core.state).test()


HANDLERS = (mail_state, mail_test)
