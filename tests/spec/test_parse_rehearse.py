"""The schedule of rehearsals in a spec."""

from __future__ import annotations

import pytest

from nebh.model.errors import SpecErrors
from nebh.model.rehearsal import DAY, RehearsalRule, Rehearsed
from nebh.model.service import ServiceSpec
from nebh.spec.parse import parse_spec

SMALL = "name: db\nimage: {dir: ./rootfs}\nargv: [/usr/bin/app]\nports: {sql: 5432}\nlimits: {memory: 64M}\n"
DATA = "volumes:\n  data: {path: /var/lib/app, class: state, size: 1G}\n"


def parse(text: str) -> ServiceSpec:
    return parse_spec(SMALL + text, file="db.yaml", base="/srv/app")


def test_what_is_left_out_is_every_night() -> None:
    assert parse(DATA).rehearse is None
    assert parse(DATA + "rehearse: {}\n").rehearse == RehearsalRule(every=DAY, at=-1, release=Rehearsed.PREVIOUS)
    said = parse(DATA + 'rehearse: {every: 12h, at: "03:30", release: running}\n').rehearse
    assert said == RehearsalRule(every=DAY // 2, at=210 * 60_000, release=Rehearsed.RUNNING)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('rehearse: {at: "24:00"}\n', "a time of day such as 03:00"),
        ("rehearse: {every: 5m}\n", "rehearse.every"),
        ("rehearse: {release: newest}\n", "rehearse.release"),
        ("rehearse: nightly\n", "rehearse: {every: 24h"),
    ],
)
def test_what_cannot_be_is_said_at_its_place(text: str, told: str) -> None:
    with pytest.raises(SpecErrors) as caught:
        parse(DATA + text)
    assert told in "\n".join(f"{one} {one.hint}" for one in caught.value.problems)


def test_without_data_there_is_nothing_to_copy() -> None:
    with pytest.raises(SpecErrors) as caught:
        parse("rehearse: {}\n")
    assert "there is no data whose copy" in str(caught.value)
