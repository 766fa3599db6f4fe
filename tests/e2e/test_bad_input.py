"""Bad input, end to end: each a clear error that says what, where and how to mend it; the running release goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.host.run import Command, Started, start
from nebh.model.errors import NotFound
from nebh.model.statement import Outcome, Phase
from nebh.signing.keys import load_key, save_key
from nebh.signing.repository import Draft, Publication, State, overlay, read_state
from nebh.signing.trust_store import TrustStore
from nebh.signing.wish import Wish, apply_wish
from nebh.testing.attacks import Attacker
from nebh.testing.cloud import Cloud
from nebh.testing.tiny_service import write_service
from nebh.wire import codec

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]
ANY = tuple(range(256))
PATIENCE = 120.0


@pytest.fixture(scope="module")
def operator(cloud: Cloud) -> Attacker:
    """The operator of a cloud on which a release of `web` answers."""
    try:
        cloud.nebh("deploy", str(write_service(cloud.folder / "spec")))
    except NotFound as error:
        pytest.skip(str(error))
    return Attacker(cloud)


class Shell:
    """`nebh` as a person types it, with what it printed kept."""

    def __init__(self, operator: Attacker, **env: str) -> None:
        self.operator = operator
        self.env = {**operator.cloud.env, **env}
        self.log = operator.cloud.folder / f"shell-{time.monotonic_ns()}"

    def begin(self, *words: str) -> Started:
        """Start a command."""
        argv = self.operator.cloud.inside(sys.executable, "-P", "-m", "nebh.programs.nebh", *words)
        with self.log.open("wb") as log:
            return start(Command(argv=argv, env=self.env), stdout=log, stderr=log)

    def run(self, *words: str) -> int:
        """Run a command to its end; return its status."""
        return self.end(self.begin(*words))

    def end(self, process: Started) -> int:
        """Wait for a command."""
        try:
            return process.wait(PATIENCE * 2)
        finally:
            process.kill()
            process.wait()

    def said(self) -> str:
        """Everything it printed."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, process: Started) -> bool:
        """Wait until it printed a text; False when it ended without."""
        end = time.monotonic() + PATIENCE
        while text not in self.said():
            if process.poll() is not None:
                return text in self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.01)
        return True


def settle(operator: Attacker) -> None:
    """Wait until nothing is under way."""
    end = time.monotonic() + PATIENCE
    while any(one["transaction"] for one in operator.status()["running"]):
        assert time.monotonic() < end
        time.sleep(0.2)


def fails(shell: Shell, *words: str, status: int, says: tuple[str, ...]) -> str:
    """A command fails with one clear error, and what runs runs on."""
    with shell.operator.untouched():
        got = shell.run(*words)
        said = shell.said()
        assert got == status, (got, said)
        check_error(said, says)
        settle(shell.operator)
    return said


def check_error(said: str, says: tuple[str, ...]) -> None:
    assert "Traceback" not in said, said
    assert said.count("nebh: ") <= 1, f"one error, not several: {said}"
    missing = [text for text in says if text not in said]
    assert not missing, f"{missing} is not in: {said}"


def deploys(operator: Attacker, page: str, **fields: str) -> None:
    """The next deploy works."""
    shell = Shell(operator)
    status = shell.run("deploy", str(write_service(operator.cloud.folder / "spec", page=page, **fields)), "--yes-widen")
    assert status == 0, shell.said() + operator.cloud.say_logs()
    assert page in operator.cloud.get("/", host="web.example", timeout=30.0)[1]


def revised(operator: Attacker, old: str, new: str, *, name: str = "bad.yaml") -> str:
    """A copy of the spec with something else in it."""
    good = write_service(operator.cloud.folder / "spec")
    text = good.read_text()
    assert old in text
    bad = good.with_name(name)
    bad.write_text(text.replace(old, new))
    return str(bad)


# the spec


@pytest.mark.parametrize(
    ("old", "new", "status", "says"),
    [
        ("argv: [", "argv: [[", 2, ("bad.yaml:4", "not YAML")),
        ("limits:", "limit:", 2, ("bad.yaml:7", "did you mean `limits`")),
        ("dir: ./web", "dir: ./nothing", 7, ("nothing", "hint:")),
        ("/bin/httpd", "/bin/nothing", 2, ("/bin/nothing", "hint:")),
        ("name: web", "name: We b", 2, ("bad.yaml:1", "name")),
        ("memory: 32M", "memory: lots", 2, ("bad.yaml:7", "limits.memory")),
        ("{", "\x00{", 2, ("bad.yaml",)),
    ],
    ids=["broken YAML", "unknown field", "missing image", "no entrypoint", "bad name", "bad size", "control character"],
)
def test_a_bad_spec_says_where(operator: Attacker, old: str, new: str, status: int, says: tuple[str, ...]) -> None:
    fails(Shell(operator), "deploy", revised(operator, old, new), status=status, says=says)


def test_no_such_spec_or_service(operator: Attacker) -> None:
    fails(Shell(operator), "deploy", "/nothing.yaml", status=7, says=("/nothing.yaml", "hint:"))
    fails(Shell(operator), "rollback", "nothing", status=7, says=("nothing", "hint:"))


# the machine


def test_a_port_that_another_process_has(operator: Attacker) -> None:
    cloud = operator.cloud
    words = cloud.inside(sys.executable, "-m", "http.server", "9999", "--bind", "0.0.0.0", "--directory", "/var/empty")
    other = start(Command(argv=words))
    try:
        while cloud_listens(cloud, 9999) is False:
            assert other.poll() is None
            time.sleep(0.1)
        spec = revised(operator, "routes:\n", "routes:\n  - {tcp: 9999, port: http}\n")
        said = fails(Shell(operator), "deploy", spec, "--yes-widen", status=8, says=("9999", "hint:"))
        assert "python" in said or "in use" in said or "another" in said, said
    finally:
        other.kill()
        other.wait()
    deploys(operator, "after the port")


def cloud_listens(cloud: Cloud, port: int) -> bool:
    found = start(Command(argv=cloud.inside("curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/")))
    return found.wait(60) == 0


def test_up_where_the_http_port_is_taken(operator: Attacker, disk_folder: Path) -> None:
    with Cloud(disk_folder / "b", http_port=8081) as other:
        server = start(Command(argv=other.inside(sys.executable, "-m", "http.server", "8081")))
        try:
            while not cloud_listens(other, 8081):
                assert server.poll() is None
                time.sleep(0.1)
            other.up(wait=False)
            assert other._up is not None
            status = other._up.wait(PATIENCE)
        finally:
            server.kill()
            server.wait()
        said = (other.folder / "up.log").read_text()
        assert status == 2, said
        check_error(said, ("8081", "->", "hint:"))
    operator.answering()


def test_a_disk_too_full(operator: Attacker) -> None:
    """The executor's reserve is larger than the disk: admission refuses before anything is fetched."""
    cloud, place = operator.cloud, operator.layout.node_config
    good = place.read_bytes()
    config = codec.decode_loose(good, dict, what="node.json")
    place.write_bytes(codec.encode({**config, "reserve": 1 << 50}))
    restart(operator)
    try:
        spec = str(write_service(cloud.folder / "spec", page="too much"))
        fails(Shell(operator), "deploy", spec, status=8, says=("free", "hint:"))
    finally:
        place.write_bytes(good)
        restart(operator)
    deploys(operator, "after the disk")


def restart(operator: Attacker) -> None:
    """A new executor, which has read node.json."""
    operator.cloud.wait_restarted("executor", old=operator.cloud.kill("executor"))
    operator.cloud.wait_until_ready()


def test_a_memory_limit_too_small_to_start(operator: Attacker) -> None:
    cloud = operator.cloud
    image = cloud.folder / "spec" / "web" / "bin"
    shutil.copy(image / "httpd", image / "dd")  # reads into a buffer larger than its limit
    spec = revised(operator, '[/bin/httpd, -f, -p, "8080", -h, /www]', "[/bin/dd, if=/dev/zero, of=/dev/null, bs=256M]")
    fails(Shell(operator), "deploy", spec, status=8, says=("limits.memory", "hint:"))
    (image / "dd").unlink()
    deploys(operator, "after the memory")


# trust


def replace_published(operator: Attacker, publication: Publication) -> None:
    """Have the controller serve a set that it would not take: its files and its database are changed."""
    folder = operator.layout.controller
    owner = folder.stat()
    scratch = operator.cloud.folder / f"scratch-{time.monotonic_ns()}"
    with contextlib.closing(operator.client()) as client:
        fetch = overlay(publication, client.fetch)
        store = TrustStore(scratch, fetch, operator.root, operator.cluster_id, accept_expired=True)
        trusted = read_state(store, wanted=None).trusted
    for part, files in (("metadata", publication.metadata), ("targets", publication.targets)):
        for name, data in files.items():
            path = folder / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            for one in (path, path.parent):
                os.chown(one, owner.st_uid, owner.st_gid)
    pid = operator.cloud.pid_of("controller")
    os.kill(pid, signal.SIGSTOP)
    with contextlib.closing(sqlite3.connect(folder / "controller.db", timeout=30)) as database:
        database.execute(
            "UPDATE publication SET snapshot = ?, timestamp = ?, trusted = ?",
            (trusted.versions["snapshot"], publication.metadata["timestamp.json"], codec.encode(trusted)),
        )
        database.commit()
    for path in folder.glob("controller.db*"):
        os.chown(path, owner.st_uid, owner.st_gid)
    os.kill(pid, signal.SIGKILL)
    operator.cloud.wait_restarted("controller", old=pid)
    wait_controller(operator)


def wait_controller(operator: Attacker) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with contextlib.closing(operator.client()) as client:
                client.health()
                return
        except Exception:
            assert time.monotonic() < end, operator.cloud.say_logs()
            time.sleep(0.2)


def test_metadata_expired(operator: Attacker) -> None:
    """Targets, snapshot and timestamp over their dates: nothing new, everything old goes on; renewing mends it."""
    running = next(one for one in operator.status()["running"] if one["service"] == "web")["counter"]
    state = operator.state()
    draft = Draft.of(state, now=int(time.time()) - 3 * 366 * 86_400)
    release = operator.next_release(state)
    draft.put(f"release/web/{release.counter}.json", codec.encode(release), role="rel-web")
    draft.touched |= {"targets"}
    replace_published(operator, draft.finish(operator.operator))
    spec = str(write_service(operator.cloud.folder / "spec", page="never"))
    fails(Shell(operator), "deploy", spec, status=3, says=("expired", "nebh trust renew"))
    with operator.untouched(event="metadata.refused"):
        receipt = operator.run(release.counter)
        assert receipt.outcome is Outcome.REFUSED
        assert "nebh trust renew" in receipt.hint + receipt.detail
    assert operator.run(running, phase=Phase.RESTART).outcome is Outcome.COMMITTED, "what was accepted goes on"
    shell = Shell(operator)
    assert shell.run("trust", "renew") == 0, shell.said()
    deploys(operator, "renewed")


def signed_now(state: State) -> Wish:
    """The policy again."""
    old = state.trusted.policies["web"]
    return Wish(policies=(dataclasses.replace(old, version=old.version + 1, signed_at=int(time.time())),))


def test_the_clock_is_wrong(operator: Attacker) -> None:
    """An operator signed in the node's future (N13): one of the two clocks is wrong, so nothing new is taken."""
    running = next(one for one in operator.status()["running"] if one["service"] == "web")["counter"]
    state = operator.state()
    later = int(time.time()) + 7200
    policy = state.trusted.policies["web"]
    policy = dataclasses.replace(policy, version=policy.version + 1, signed_at=later)
    wish = Wish(policies=(policy,), releases=(operator.next_release(state),))
    operator.send(apply_wish(state, wish, key=operator.operator, now=later).publication)
    try:
        with operator.untouched(event="metadata.refused"):
            receipt = operator.run(wish.releases[0].counter)
            assert receipt.outcome is Outcome.REFUSED, receipt.detail
            assert receipt.rule == "N13", receipt.detail
            assert "clock" in receipt.detail, receipt.detail
        assert operator.run(running, phase=Phase.RESTART).outcome is Outcome.COMMITTED
    finally:
        operator.publish(signed_now)  # by a right clock
    deploys(operator, "the clock is right")


# the operator's computer


@pytest.fixture
def elsewhere(operator: Attacker) -> Iterator[Path]:
    """A copy of the operator's folder, to be broken."""
    place = operator.cloud.folder / f"config-{time.monotonic_ns()}"
    shutil.copytree(operator.cloud.folder / "config", place)
    yield place
    shutil.rmtree(place)


def test_the_operators_key_is_missing(operator: Attacker, elsewhere: Path) -> None:
    (elsewhere / "test" / "operator.key").unlink()
    spec = str(write_service(operator.cloud.folder / "spec", page="never"))
    fails(
        Shell(operator, NEBH_CONFIG=str(elsewhere)), "deploy", spec, status=7, says=("operator.key", "nebh key recover")
    )


def test_a_wrong_passphrase(operator: Attacker, elsewhere: Path) -> None:
    path = elsewhere / "test" / "operator.key"
    key = load_key(path)
    path.unlink()
    save_key(path, key, passphrase="right")
    secret = elsewhere / "passphrase"
    secret.write_text("wrong\n")
    spec = str(write_service(operator.cloud.folder / "spec", page="with a passphrase"))
    shell = Shell(operator, NEBH_CONFIG=str(elsewhere), NEBH_PASSPHRASE_FILE=str(secret))
    fails(shell, "deploy", spec, status=2, says=("operator.key", "passphrase", "hint:"))
    without = Shell(operator, NEBH_CONFIG=str(elsewhere))
    fails(without, "deploy", spec, status=2, says=("passphrase", "NEBH_PASSPHRASE_FILE"))
    secret.write_text("right\n")
    assert shell.run("plan", spec) == 0, shell.said()


def test_the_controller_cannot_be_reached(operator: Attacker) -> None:
    path = operator.layout.controller_socket
    aside = path.with_name("aside.sock")
    path.rename(aside)
    try:
        spec = str(write_service(operator.cloud.folder / "spec", page="never"))
        fails(Shell(operator), "deploy", spec, status=5, says=("controller", "hint:"))
        fails(Shell(operator), "status", status=5, says=("controller", "hint:"))
    finally:
        aside.rename(path)
    deploys(operator, "reached")


def test_no_cloud_is_known_here(operator: Attacker) -> None:
    fails(Shell(operator, NEBH_CONFIG="/var/empty"), "status", status=7, says=("no cloud", "hint:"))


# two at once


def test_a_second_deploy_while_one_runs(operator: Attacker) -> None:
    settle(operator)
    before = operator.answering()
    first, second = Shell(operator), Shell(operator)
    spec = str(write_service(operator.cloud.folder / "spec", page="slow", bake="600s"))
    process = first.begin("deploy", spec)
    assert first.wait_for("cut over", process), first.said()
    assert second.run("deploy", spec) == 6, second.said()
    check_error(second.said(), ("is being deployed", "nebh abort web"))
    assert Shell(operator).run("abort", "web") == 0
    assert first.end(process) == 8, first.said()
    check_error(first.said(), ("rolled back", "hint:"))
    assert operator.answering() == before, "the release that ran before runs on: the same container"
    deploys(operator, "after two")


def test_two_operators_at_once(operator: Attacker, elsewhere: Path) -> None:
    """One wins; the other builds upon it, or is told. Nothing that was signed is lost."""
    settle(operator)
    before = set(listed(operator))
    folder = operator.cloud.folder
    one, two = Shell(operator), Shell(operator, NEBH_CONFIG=str(elsewhere), NEBH_CACHE=str(folder / "cache-2"))
    first = one.begin("deploy", str(write_service(folder / "spec-1", page="from the first")))
    second = two.begin("deploy", str(write_service(folder / "spec-2", page="from the second")))
    ends = (one.end(first), two.end(second))
    said = one.said() + two.said()
    assert 0 in ends, said
    assert set(ends) <= {0, 6, 8}, (ends, said)
    for end, shell in zip(ends, (one, two), strict=True):
        check_error(shell.said(), () if end == 0 else ("hint:",))
    settle(operator)
    new = set(listed(operator)) - before
    signed = said.count("signed release ")
    assert len(new) == signed, f"each signed release stands under its own number: {new}, {said}"
    page = operator.cloud.get("/", host="web.example", timeout=30.0)[1]
    assert page.startswith("from the "), page
    deploys(operator, "after both")


def listed(operator: Attacker) -> tuple[int, ...]:
    return tuple(one.counter for one in operator.state().trusted.releases.values() if one.service == "web")


# Ctrl-C


@pytest.mark.parametrize(
    "moment",
    ["loading argparse", "loading nebh.cli.rollout", "image", "release", "signed release", "accepted", "cut over"],
)
def test_ctrl_c_at_any_moment(operator: Attacker, moment: str) -> None:
    """Nothing is half-done: the release that ran, or the one that was asked for, answers; the next deploy works."""
    settle(operator)
    operator.answering()
    old = operator.cloud.get("/", host="web.example", timeout=30.0)[1].strip()
    page = f"interrupted at {moment} {time.monotonic_ns()}"
    loading = moment.startswith("loading ")
    shell = Shell(operator, **({"PYTHONPROFILEIMPORTTIME": "1"} if loading else {}))
    process = shell.begin("deploy", str(write_service(operator.cloud.folder / "spec", page=page)))
    shell.wait_for(moment.removeprefix("loading"), process)
    if process.poll() is None:  # once it is collected, its number may be another's
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of the command
    status = shell.end(process)
    said = shell.said()
    assert "Traceback" not in said, said
    # Python itself ends by the signal when it came inside of a dataclass being made: shells call both 130
    assert status in (130, -signal.SIGINT, 0), (status, said)
    assert status == 0 or "interrupted" in said, said
    settle(operator)
    operator.answering()
    assert operator.cloud.get("/", host="web.example", timeout=30.0)[1].strip() in (old, page)
    end = time.monotonic() + PATIENCE
    while list(operator.layout.controller.glob("staging-*")):
        assert time.monotonic() < end, "a publication was left half-done"
        time.sleep(0.2)


def test_after_every_ctrl_c_the_next_deploy_works(operator: Attacker) -> None:
    deploys(operator, "after Ctrl-C")


def test_no_program_left_a_traceback(operator: Attacker) -> None:
    for log in operator.layout.state.glob("*.log"):
        assert "Traceback" not in log.read_text(errors="replace"), operator.cloud.say_logs()
