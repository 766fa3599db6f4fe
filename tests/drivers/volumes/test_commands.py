"""Commands of a storage of one's own: what is declared wrongly is said at once, and every bad end is told exactly."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from nebh.drivers.volumes.base import OutOfSpace, StorageGone, Unable
from nebh.drivers.volumes.command import CommandVolumes, StorageCommands, commands_of
from nebh.model.errors import BadInput, Conflict, Failed, NotFound
from nebh.model.stored import Ability, StoredSnapshot, StoredVolume, VolumePlan

NAME = "db.data.0"
NOTHING = ("/bin/true",)


@pytest.fixture
def plain(tmp_path):
    (tmp_path / NAME).mkdir()
    return StorageCommands(
        path=f"{tmp_path}/{{volume}}",
        snapshot=NOTHING,
        restore=NOTHING,
        delete=NOTHING,
        list=("/bin/echo", f"volume {NAME} 4096"),
        timeout=2,
    )


def test_only_what_is_declared_can_be_done(plain, tmp_path):
    driver = CommandVolumes(plain)
    assert driver.abilities == frozenset()
    assert driver.make(VolumePlan(name=NAME)) == tmp_path / NAME
    with pytest.raises(NotFound, match=r"web\.data\.0"):
        driver.make(VolumePlan(name="web.data.0"))
    for verb, word in (
        (lambda: driver.remove(NAME), "remove"),
        (lambda: driver.resize(NAME, 1), "resize"),
        (lambda: driver.clone(NAME, to=VolumePlan(name="a.b.0")), "clone"),
    ):
        with pytest.raises(Unable, match=f"no command `{word}`"):
            verb()
    assert CommandVolumes(replace(plain, quotas=True, live=True)).abilities == {Ability.QUOTA, Ability.LIVE}


@pytest.mark.parametrize(
    ("status", "kind"), [(3, NotFound), (4, Conflict), (5, OutOfSpace), (6, StorageGone), (7, Unable), (1, Failed)]
)
def test_an_exit_status_is_an_error(plain, status, kind):
    driver = CommandVolumes(replace(plain, snapshot=("/bin/sh", "-c", f"echo why it is >&2; exit {status}")))
    with pytest.raises(kind) as caught:
        driver.snapshot(NAME, "r1")
    assert type(caught.value) is kind
    assert f"status {status}: why it is" in str(caught.value)
    assert "cannot snapshot volume db.data.0: `/bin/sh -c" in str(caught.value)


def test_a_command_that_hangs_is_ended_with_all_it_started(plain, tmp_path):
    flag = tmp_path / "late"
    driver = CommandVolumes(replace(plain, snapshot=("/bin/sh", "-c", f"(sleep 4; touch {flag}) | cat"), timeout=1))
    begin = time.monotonic()
    with pytest.raises(Failed, match="did not end within 1 s"):
        driver.snapshot(NAME, "r1")
    assert time.monotonic() - begin < 4
    time.sleep(4)
    assert not flag.exists()


def test_no_word_passes_a_shell(plain, tmp_path):
    driver = CommandVolumes(replace(plain, snapshot=("/bin/sh", "-c", 'printf "%s|" "$@" > "$0"', "{path}/said", "$(id)", ";", "{snapshot}")))  # fmt: skip
    driver.snapshot(NAME, "r1")
    assert (tmp_path / NAME / "said").read_text() == "$(id)|;|r1|"


@pytest.mark.parametrize(
    "line", ["volume", "volume ../x 1", f"volume {NAME} much", f"snapshot {NAME} r1 5", f"snapshot {NAME} r1 5 lost"]
)
def test_a_list_that_makes_no_sense_is_refused(plain, line):
    driver = CommandVolumes(replace(plain, list=("/bin/echo", f"volume {NAME} 4096\n{line}")))
    with pytest.raises(Failed, match="line 2 of `list`"):
        driver.list()
    with pytest.raises(Failed, match="line 2 of `list`"):
        driver.check()


def test_a_list_is_read(plain):
    text = f"volume {NAME} 4096\nvolume a.b.0 0\n\nsnapshot {NAME} r1 5 kept\nsnapshot {NAME} undo 9 discarded"
    driver = CommandVolumes(replace(plain, list=("/bin/echo", text)))
    snapshots = (StoredSnapshot(name="r1", taken_at=5), StoredSnapshot(name="undo", taken_at=9, discarded=True))
    assert driver.list() == (StoredVolume(name="a.b.0"), StoredVolume(name=NAME, quota=4096, snapshots=snapshots))


def test_all_that_is_wrong_with_a_declaration_is_said_at_once():
    with pytest.raises(BadInput) as caught:
        CommandVolumes(
            StorageCommands(
                path="volumes",
                snapshot=("snap", "{volume}", "{keep_as}"),
                restore=(),
                delete=NOTHING,
                list=NOTHING,
                timeout=0,
            )
        )
    for word in ("no command `restore`", "'snap' is no absolute", "{keep_as} is none of", "`path`", "`timeout`"):
        assert word in str(caught.value)
    with pytest.raises(BadInput) as caught:
        commands_of({"path": 1, "list": "ls", "shell": ["x"], "live": "yes"})
    for word in (
        "'path' is no str",
        "'list' is no list",
        "'shell' is no field",
        "'live' is no bool",
        "'restore' is missing",
    ):
        assert word in str(caught.value)
    found = commands_of(
        {"path": "/srv/{volume}", **{verb: ["/bin/true"] for verb in ("snapshot", "restore", "delete", "list")}}
    )
    assert found.list == NOTHING


def test_a_program_that_is_not_there_is_named(plain):
    driver = CommandVolumes(replace(plain, snapshot=("/no/such/program",)))
    with pytest.raises(Failed, match="/no/such/program"):
        driver.snapshot(NAME, "r1")
