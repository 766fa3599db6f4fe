"""Fields of a route's certificate."""

from __future__ import annotations

from nebh.model.names import NAME_PATTERN
from nebh.model.service import LETS_ENCRYPT
from nebh.spec.shape import Choice, Either, Field, Section, Text

_FILE = Text(expects="an absolute path", pattern=r"/[^\n]*")

ACME = Section(
    fields=(
        Field(
            key="directory",
            shape=Text(
                expects="the https URL of an ACME directory (http only on this machine itself)",
                pattern=r"https://[!-~]+|http://(?:127\.0\.0\.1|localhost|\[::1\])[:/][!-~]*",
                longest=512,
            ),
            doc="The authority's ACME directory.",
            default=LETS_ENCRYPT,
        ),
        Field(
            key="email",
            shape=Text(expects="a mail address", pattern=r"[!-?A-~]+@[A-Za-z0-9.-]+", longest=254),
            doc="Given to the authority with the node's account.",
        ),
        Field(
            key="ca",
            shape=_FILE,
            doc="PEM authorities on the node that the directory and its certificates are checked by.",
            default="the system's",
        ),
    )
)
TLS = Either(
    short=Choice(values=("acme",)),
    long=Section(
        fields=(
            Field(key="cert", shape=_FILE, doc="Certificate chain (PEM) on the node."),
            Field(key="key", shape=_FILE, doc="Its key (PEM) on the node; never leaves it."),
            Field(
                key="secret",
                shape=Text(expects="a name", pattern=NAME_PATTERN, longest=32),
                doc="Secret of this service with certificate chain and key as PEM, set by `nebh secret set`. It need not "
                "stand under `secrets`, and reaches the node's proxy alone.",
            ),
            Field(key="acme", shape=ACME, doc="The node makes the key, gets the certificate by HTTP-01 and renews it."),
        ),
        instead="write `tls: acme`, `tls: {secret: NAME}` or `tls: {cert: PATH, key: PATH}`",
    ),
)
