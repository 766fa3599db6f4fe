"""Releases that change nothing but texts of files: replaced under what runs, told, checked, and back again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from nebh.model.config import ConfigFile, OnChange
from nebh.model.config_layer import Bundle, Part
from nebh.model.errors import Failed
from nebh.model.service import Check, CheckKind, Update
from nebh.model.statement import Outcome, Phase
from nebh.model.transaction import State
from nebh.model.volume import Hook, HookPoint
from nebh.model.work import Wanted
from nebh.planning.config_bundle import encode_bundle

pytestmark = pytest.mark.slow

HUP = ConfigFile(path="/etc/hup", template="t", on_change=OnChange.RELOAD, signal="HUP")
RUN = ConfigFile(path="/etc/run", template="t", on_change=OnChange.RELOAD, argv=("/bin/sh", "-c", "exit 0"))
SILENT = ConfigFile(path="/etc/silent", template="t", on_change=OnChange.NOTHING)
PLAIN = ConfigFile(path="/etc/plain", template="p")
GOOD = Check(name="good", kind=CheckKind.HTTP, port=8080, interval=100)
BAD = replace(GOOD, name="bad", path="/bad", failures=1)


class Files:
    """Releases of one image that differ in a word."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.images: Any = None

    def add(self, counter: int, word: str, *, files: tuple[ConfigFile, ...] = (HUP,), **fields: Any) -> None:
        values = fields.pop("values", {})
        bundle = Bundle(
            format=1,
            cluster_id=self.bench.accepted.meta("cluster_id"),
            service="web",
            parts=(Part(layer="cluster", version=counter, values={"word": word, "plain": "same", **values}),),
            templates={"t": "{{ word }}\n", "p": "{{ plain }}\n"},
        )
        data, ref = encode_bundle(bundle)
        self.bench.agent.bytes[ref.digest] = data
        if self.images is not None:
            fields.setdefault("images", self.images)
        release = self.bench.add_release(counter, config=ref, files=files, **fields)
        self.images = self.images or release.images

    def run(self, counter: int, *, replicas: int = 1, phase: Phase = Phase.RUN) -> Outcome:
        nonce = self.bench.assign(counter, replicas=replicas, phase=phase)
        self.bench.settle()
        return self.bench.outcome(nonce)

    def seen(self) -> list[tuple[str, int, dict[str, bytes]]]:
        rows = self.bench.serving()
        return [(one.id, one.counter, self.bench.containers.files_of(one.id)) for one in rows]

    def signals(self) -> list[str]:
        return [name for verb, name in self.bench.containers.calls if verb == "signal"]

    def newest(self) -> Any:
        return self.bench.work.history("web", limit=1)[0]


@pytest.fixture
def files(bench) -> Files:
    return Files(bench)


def test_a_reload_changes_files_under_the_instance_and_tells_it(bench, files):
    files.add(1, "one")
    assert files.run(1) is Outcome.COMMITTED
    ((name, _, _),) = files.seen()
    made = bench.containers.calls.count(("create", name))
    mounts = json.loads(bench.containers._containers[name].plan.config)["mounts"]
    assert [one["destination"] for one in mounts if one["source"].endswith("/live")] == ["/dev/nebh"]
    assert "/etc/hup" not in {one["destination"] for one in mounts}
    files.add(2, "two")
    assert files.run(2) is Outcome.COMMITTED
    assert files.seen() == [(name, 2, {"/etc/hup": b"two\n"})]
    assert files.signals() == [name]
    assert (bench.containers.calls.count(("create", name)), files.newest().live) == (made, True)
    assert [one.counter for one in bench.work.services()] == [2]
    nodes = {path.stem for path in bench.context.layout.configs.iterdir()}
    assert len(nodes) == 2, "the bundle of the release before is kept to go back to"
    assert files.run(1) is Outcome.COMMITTED
    assert files.seen() == [(name, 1, {"/etc/hup": b"one\n"})]


def test_nothing_is_told_to_nobody(bench, files):
    files.add(1, "one", files=(SILENT, PLAIN))
    files.run(1)
    ((name, _, _),) = files.seen()
    files.add(2, "two", files=(SILENT, PLAIN))
    assert files.run(2) is Outcome.COMMITTED
    assert files.seen() == [(name, 2, {"/etc/silent": b"two\n"})]
    assert files.signals() == []
    # and where not one text differs on this node, not even that happens
    files.add(3, "two", files=(SILENT, PLAIN), values={"unused": "x"})
    before = list(bench.containers.calls)
    assert files.run(3) is Outcome.COMMITTED
    assert {verb for verb, _ in bench.containers.calls[len(before) :]} <= {"give_files"}
    assert files.seen()[0][:2] == (name, 3)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"values": {"plain": "other"}}, "a file of the kind restart differs"),
        ({"files": (replace(HUP, signal="USR1"), PLAIN)}, "it is told in another way"),
        ({"files": (replace(HUP, mode=0o400), PLAIN)}, "the mode differs"),
        ({"env": {"A": "b"}}, "a variable differs"),
        ({"images": None}, "the image differs"),
        ({"hooks": (Hook(name="h", at=HookPoint.BEFORE_SWITCH, argv=("/bin/sh", "-c", "exit 0")),)}, "a hook"),
    ],
)
def test_whatever_else_differs_makes_new_instances(bench, files, changes, why):
    files.add(1, "one", files=(HUP, PLAIN))
    files.run(1)
    ((name, _, _),) = files.seen()
    if "images" in changes:
        files.images, changes = None, {}
    files.add(2, "two", **{"files": (HUP, PLAIN), **changes})
    assert files.run(2) is Outcome.COMMITTED
    ((after, counter, seen),) = files.seen()
    assert (after != name, counter, seen["/etc/hup"], files.newest().live) == (True, 2, b"two\n", False), why


def test_a_new_policy_another_number_and_a_restart_make_new_instances(bench, files):
    files.add(1, "one")
    files.run(1)
    ((name, _, _),) = files.seen()
    files.add(2, "two")
    assert files.run(2, replicas=2) is Outcome.COMMITTED
    assert name not in {one[0] for one in files.seen()}
    bench.set_policy(version=2)
    files.add(3, "three")
    assert files.run(3, replicas=2) is Outcome.COMMITTED
    assert [files.newest().live, {one[2]["/etc/hup"] for one in files.seen()}] == [False, {b"three\n"}]
    files.add(4, "four")
    assert files.run(4, replicas=2) is Outcome.COMMITTED
    assert [files.newest().live, {one[2]["/etc/hup"] for one in files.seen()}] == [True, {b"four\n"}]
    names = {one[0] for one in files.seen()}
    assert files.run(4, replicas=3) is Outcome.COMMITTED, "a scale keeps what runs"
    assert len(files.seen()) == 3
    assert names <= {one[0] for one in files.seen()}
    assert files.run(4, replicas=3, phase=Phase.RESTART) is Outcome.COMMITTED
    assert {one[1:2] for one in files.seen()} == {(4,)}
    assert not names & {one[0] for one in files.seen()}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"files": (replace(RUN, argv=("/bin/sh", "-c", "exit 3")),)}, "the reload command of /etc/run failed"),
        ({"update": Update(bake=1500, checks=(BAD,), drain=100)}, "bad"),
    ],
)
def test_a_failing_command_or_check_brings_the_files_back(bench, files, fields, said):
    both = {**fields, "update": fields.get("update", Update(bake=150, checks=(GOOD,), drain=100))}
    files.add(1, "one", **both)
    files.run(1)
    ((name, _, first),) = files.seen()
    bench.agent.sick.add("/bad")
    files.add(2, "two", **both)
    assert files.run(2) is Outcome.ROLLED_BACK
    assert said in bench.receipts[-1].detail
    assert [one[1:] for one in files.seen()] == [(1, first)]
    assert bench.accepted.release_row("web", 1, 2).failed
    verbs = [verb for verb, one in bench.containers.calls if one == name]
    if "files" in fields:  # a program that cannot even be told to go back is made anew
        assert "signal" in verbs
        bench.until(lambda: [bench.containers.observe(one[0]).status.value for one in files.seen()] == ["running"])
    else:
        assert verbs.count("signal") == 2, "told of both"
        assert files.seen()[0][0] == name


def test_files_that_cannot_be_written_roll_back_and_what_runs_runs_on(bench, files):
    files.add(1, "one")
    files.run(1, replicas=2)
    before = files.seen()
    files.add(2, "two")
    bench.containers.fail_next("give_files", Failed("no space left"))
    assert files.run(2, replicas=2) is Outcome.ROLLED_BACK
    assert files.seen() == before


def test_a_newer_command_while_it_is_checked_brings_the_files_back(bench, files):
    slow = Update(bake=1500, checks=(GOOD,), drain=100)
    files.add(1, "one", update=slow)
    files.run(1)
    before = files.seen()
    files.add(2, "two", update=slow)
    nonce = bench.assign(2)
    bench.until_state("CHECKING")
    assert [one[1:] for one in files.seen()] == [(2, {"/etc/hup": b"two\n"})]
    assert files.run(1) is Outcome.COMMITTED
    assert bench.outcome(nonce) is Outcome.ROLLED_BACK
    assert files.seen() == before


def test_a_prepared_release_waits_and_a_reboot_prepares_it_anew(bench, files):
    files.add(1, "one")
    files.run(1)
    files.add(2, "two")
    bench.assign(2, phase=Phase.PREPARE)
    bench.until(lambda: files.newest().state is State.PREPARED)
    assert files.newest().live
    assert files.seen()[0][1:] == (1, {"/etc/hup": b"one\n"})
    bench.restart(reboot=True)
    bench.until(lambda: [one.counter for one in bench.serving()] == [1])
    bench.until(lambda: files.newest().state is State.PREPARED)
    assert files.run(2) is Outcome.COMMITTED
    assert [one[1:] for one in files.seen()] == [(2, {"/etc/hup": b"two\n"})]
    assert bench.work.services()[0].wanted is Wanted.RUNNING


def test_an_instance_that_is_made_anew_has_the_files_of_its_release(bench, files):
    files.add(1, "one")
    files.run(1)
    files.add(2, "two")
    files.run(2)
    ((name, _, _),) = files.seen()
    bench.containers.exit(name, 1)
    bench.until(lambda: bench.containers.calls.count(("create", name)) == 2)
    bench.until(lambda: bench.containers.observe(name).status.value == "running")
    assert files.seen() == [(name, 2, {"/etc/hup": b"two\n"})]
    # and its earlier end does not fail the next reload
    files.add(3, "three")
    assert files.run(3) is Outcome.COMMITTED
    assert files.seen() == [(name, 3, {"/etc/hup": b"three\n"})]
