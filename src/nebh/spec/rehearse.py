"""The `rehearse:` part of a spec: its fields, and what they say."""

from __future__ import annotations

from nebh.model.rehearsal import DAY, RehearsalRule, Rehearsed
from nebh.model.volume import EXCLUSIVE, VolumeBound
from nebh.spec.read import Reader, Value
from nebh.spec.shape import Choice, Duration, Field, Section, Text

HOUR = 3_600_000
REHEARSE = Section(
    fields=(
        Field(key="every", shape=Duration(low=HOUR, high=31 * DAY), doc="Time between two rehearsals.", default="24h"),
        Field(
            key="at",
            shape=Text(expects="a time of day such as 03:00", pattern=r"([01]\d|2[0-3]):[0-5]\d", longest=5),
            doc="When, UTC. Left out: `every` after the last one.",
        ),
        Field(
            key="release",
            shape=Choice(values=tuple(one.value for one in Rehearsed)),
            doc="previous: the one that a rollback would go back to. running: the one that runs.",
            default="previous",
        ),
    ),
    instead='write `rehearse: {every: 24h, at: "03:00"}`',
)


def parse_rehearse(reader: Reader, root: Value, bounds: tuple[VolumeBound, ...]) -> RehearsalRule | None:
    """Return the schedule, None without one."""
    value = root.get("rehearse")
    if value is None:
        return None
    if not any(one.kind in EXCLUSIVE for one in bounds) and "volumes" not in {
        one.path.partition(".")[0] for one in reader.problems
    }:
        hint = "declare it below `volumes:`, or leave `rehearse` out"
        reader.complain(value, "rehearse", "there is no data whose copy a release could be rehearsed on", hint)
    every, at, release = value.get("every"), value.get("at"), value.get("release")
    hour, _, minute = str(at.data).partition(":") if at is not None else ("", "", "")
    known = hour.isdecimal() and minute.isdecimal()
    return RehearsalRule(
        every=every.data if every is not None else DAY,
        at=(int(hour) * 60 + int(minute)) * 60_000 if known else -1,
        release=Rehearsed(release.data) if release is not None else Rehearsed.PREVIOUS,
    )
