"""Fields of `secrets:`."""

from __future__ import annotations

from nebh.model.names import NAME_PATTERN
from nebh.model.secret import SIGNALS
from nebh.spec.shape import Choice, Field, Listing, Section, Text

GENERATE = r"[1-9]\d{0,3} (?:alnum|hex|base64|digits)"

SECRET = Section(
    fields=(
        Field(
            key="name",
            shape=Text(
                expects="a name (1-32 of a-z, 0-9 and single -, starting with a letter)",
                pattern=NAME_PATTERN,
                longest=32,
            ),
            doc="What `nebh secret set SERVICE/NAME` calls it.",
            required=True,
        ),
        Field(
            key="path",
            shape=Text(expects="an absolute path", pattern=r"/[^\n]*"),
            doc="File in the container, mode 0400 of its user, in a folder that the image leaves empty.",
            default="/run/secrets/NAME",
        ),
        Field(
            key="env",
            shape=Text(expects="a variable name", pattern=r"[A-Za-z_][A-Za-z0-9_]*"),
            doc="Variable that holds it too, until the instance ends. Files are better: see docs/secrets.md.",
        ),
        Field(
            key="signal",
            shape=Choice(values=SIGNALS),
            doc="Sent to the instance when the value was rotated; left out: the program looks by itself.",
        ),
        Field(
            key="generate",
            shape=Text(
                expects="a length and a kind, such as `32 alnum` (alnum, hex, base64, digits)", pattern=GENERATE
            ),
            doc="Make a value where there is none yet, by the first deploy.",
        ),
    )
)
SECRETS = Listing(item=SECRET, most=64, instead="write a list: `- name: db-password`")
