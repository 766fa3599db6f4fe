"""The fields of a service's data: volumes, data rules, hooks."""

from __future__ import annotations

from nebh.model.names import NAME_PATTERN
from nebh.model.volume import HookPoint, OnFailureData, Unavailable, VolumeClass
from nebh.spec.shape import Choice, Duration, Field, Flag, Listing, Section, Size, Table, Text, Whole

DAY = 86_400_000
MOST = 2**53 - 1
NAME = Text(expects="a name (1-32 of a-z, 0-9 and single -, starting with a letter)", pattern=NAME_PATTERN, longest=32)
PLACE = Text(expects="an absolute path such as /var/lib/app", pattern=r"/[^\n]*", longest=1024)
ARGV = Listing(
    item=Text(expects="text", numbers=True), least=1, instead="write a list, one word per item: [/usr/bin/app, --flag]"
)
ENV = Table(
    key=Text(expects="a variable name", pattern=r"[A-Za-z_][A-Za-z0-9_]*"),
    item=Text(expects="text", numbers=True, longest=32_768),
)

VOLUME = Section(
    fields=(
        Field(key="path", shape=PLACE, doc="Where the instance sees it: a directory of the image.", required=True),
        Field(
            key="class",
            shape=Choice(values=tuple(one.value for one in VolumeClass)),
            doc="state: snapshot at every release, goes back with it. shared-state: snapshot, but stays on rollback. "
            "cache: never copied, may vanish. bulk: no snapshots. temp: gone with the instance.",
            required=True,
            hint="data that must go back with a release is `class: state`",
        ),
        Field(
            key="size",
            shape=Size(low=1 << 20, high=MOST),
            doc="Most bytes it may hold.",
            required=True,
            hint="every volume needs a bound: `size: 2G`; `nebh volume list` shows what is used",
        ),
        Field(
            key="user", shape=Whole(low=0, high=65_533), doc="Owner of its top inside the container.", default="`user`"
        ),
        Field(key="read_only", shape=Flag(), doc="The instance may only read it.", default="false"),
        Field(
            key="unavailable",
            shape=Choice(values=tuple(one.value for one in Unavailable)),
            doc="When its storage is gone: end the service, or freeze it where it stands.",
            default="stop",
        ),
    ),
    instead="write `data: {path: /var/lib/app, class: state, size: 2G}`",
)
VOLUMES = Table(key=NAME, item=VOLUME, most=16)

QUIESCE = Section(
    fields=(
        Field(key="before", shape=ARGV, doc="Run inside the instance before a snapshot outside an update."),
        Field(key="after", shape=ARGV, doc="Run after it, also when it failed."),
        Field(key="timeout", shape=Duration(low=100, high=600_000), doc="For each of the two.", default="10s"),
    )
)
DATA = Section(
    fields=(
        Field(
            key="reads",
            shape=Listing(item=Whole(low=1, high=MOST), unique=True, instead="write a list: [1, 2]"),
            doc="Versions of its data that this release can read.",
            default="[writes]",
        ),
        Field(
            key="writes",
            shape=Whole(low=1, high=MOST),
            doc="Version that its data has once this release has run; raise it when a release converts the data.",
            default="1",
        ),
        Field(
            key="keep_discarded",
            shape=Duration(low=0, high=365 * DAY),
            doc="How long what a restore put away is kept (`nebh volume undo`).",
            default="7d",
        ),
        Field(key="snapshots", shape=Whole(low=1, high=100), doc="Snapshots kept of each volume.", default="3"),
        Field(key="quiesce", shape=QUIESCE, doc="How the writer rests for a snapshot. Left out: it is frozen."),
    )
)
HOOK = Section(
    fields=(
        Field(key="name", shape=NAME, doc="Shown while it runs and when it fails.", required=True),
        Field(
            key="at",
            shape=Choice(values=tuple(one.value for one in HookPoint)),
            doc="migrate: the old instance has ended, the snapshot is taken. prepare: nothing visible has changed. "
            "before_switch: the new side is ready. after_switch: it serves. before_rollback: before the new side leaves.",
            required=True,
        ),
        Field(key="argv", shape=ARGV, doc="A program of the image; exit 0 lets the update go on.", required=True),
        Field(key="env", shape=ENV, doc="Environment variables besides the service's own."),
        Field(key="timeout", shape=Duration(low=100, high=DAY), doc="Then it failed.", default="5m"),
    )
)
HOOKS = Listing(item=HOOK, most=16, instead="write a list: `- {name: convert, at: migrate, argv: [/usr/bin/app]}`")
ON_FAILURE_DATA = Choice(values=tuple(one.value for one in OnFailureData))
