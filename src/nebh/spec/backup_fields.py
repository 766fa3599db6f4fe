"""Fields of `backup:`."""

from __future__ import annotations

from nebh.spec.data_fields import DAY, NAME
from nebh.spec.shape import Duration, Field, Listing, Section, Text, Whole

_SECRET = "a name that stands under `secrets:`; no container gets that secret"  # noqa: S105 - words
_MANY = Whole(low=0, high=1000)

KEEP = Section(
    fields=(
        Field(key="last", shape=_MANY, doc="The newest ones; one always is.", default="3"),
        Field(key="daily", shape=_MANY, doc="The last one of so many days.", default="7"),
        Field(key="weekly", shape=_MANY, doc="The last one of so many weeks.", default="4"),
        Field(key="monthly", shape=_MANY, doc="The last one of so many months.", default="6"),
    )
)
BACKUP = Section(
    fields=(
        Field(
            key="to",
            shape=Text(expects="/path, sftp:user@host:/path or s3:https://host/bucket", longest=1024),
            doc="Where backups go: a folder on the node that is another disk, an SFTP server, an S3-compatible store.",
            required=True,
        ),
        Field(
            key="password",
            shape=NAME,
            doc=f"What they are encrypted with: {_SECRET}. Keep a copy off the cluster.",
            required=True,
            hint="`password: backup-password`, and `secrets: [{name: backup-password, generate: 40 alnum}]`",
        ),
        Field(
            key="every",
            shape=Duration(low=60_000, high=365 * DAY),
            doc="How often; one that was missed is made up for.",
            default="1d",
        ),
        Field(key="keep", shape=KEEP, doc="Which ones stay in the store."),
        Field(
            key="volumes",
            shape=Listing(item=NAME, unique=True, least=1, instead="write a list: [data]"),
            doc="Which volumes, all from one moment.",
            default="all but `cache` and `temp`",
        ),
        Field(key="ssh_key", shape=NAME, doc=f"SFTP: the private key, {_SECRET}."),
        Field(
            key="host_key",
            shape=Text(expects="a key type and base64", pattern=r"(?:ssh|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+"),
            doc="SFTP: the server's public key, as `ssh-keyscan` prints it without the name.",
        ),
        Field(key="port", shape=Whole(low=1, high=65_535), doc="SFTP: the server's port.", default="22"),
        Field(
            key="access_key",
            shape=Text(expects="letters, digits and -_", pattern=r"[A-Za-z0-9_-]{1,128}"),
            doc="S3: the access key's id.",
        ),
        Field(key="secret_key", shape=NAME, doc=f"S3: the secret key, {_SECRET}."),
        Field(key="region", shape=Text(expects="a region", pattern=r"[a-z0-9-]{1,64}"), doc="S3: its region."),
    ),
    instead="write `backup: {to: /srv/backups, password: backup-password}`",
)
