"""Nothing leaks: values that stand nowhere else go through a whole cloud - set, deployed, rotated, refused, rolled back,
killed - and are then looked for in every output, file and process there is. One leak planted in each of these places is
found by the same search."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nebh.client.api_client import Client, Login
from nebh.client.transport import UnixTransport
from nebh.host.run import CommandFailed, Result
from nebh.model import api
from nebh.signing.keys import load_key
from nebh.testing.canary import Canary, ProcessWatch, Search, core_dump_settings, descendants
from nebh.testing.cloud import Cloud
from nebh.testing.tiny_service import write_service

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]

USES = """secrets:
  - {name: db, signal: USR1}
  - {name: made, generate: 32 alnum}
  - {name: backup-password, generate: 40 alnum}
files:
  - {path: /etc/web.conf, text: "{{ word }} on {{ nebh.node }}\\n"}
  - {path: /www/word.txt, text: "{{ word }}\\n", on_change: reload, signal: USR1}
config:
  schema: {word: {type: text, default: one}}
volumes:
  data: {class: state, path: /data, size: 8M}
"""
BACKUP = "backup: {{password: backup-password, to: {store}, every: 300d}}\n"
FIRST, SECOND, LOST, HELD = Canary(), Canary(), Canary(), Canary()
ALL = (FIRST, SECOND, LOST, HELD)


class Said:
    """Every output of every command."""

    def __init__(self) -> None:
        self.outputs: list[tuple[str, bytes]] = []

    def take(self, what: str, done: Result) -> Result:
        self.outputs.append((what, done.stdout + b"\n" + done.stderr))
        return done


@pytest.fixture(scope="module")
def said() -> Said:
    return Said()


@pytest.fixture(scope="module")
def watch(cloud: Cloud) -> Iterator[Search]:
    """The process list, looked at all the time."""
    search = Search(*ALL)
    with ProcessWatch(search):
        yield search


def seen(cloud: Cloud, name: str = "db") -> bytes:
    (one,) = cloud.serving("web")
    return Path(f"/proc/{one['pid']}/root/run/secrets/{name}").read_bytes()


def files_of(cloud: Cloud, *, around: Path | None = None) -> Search:
    """Search every file that the cloud and its operator have. around: of the places only those that this one lies in."""
    search = Search(*ALL)
    places = {
        "state": cloud.layout.state,
        "run": cloud.layout.run,
        **{name: cloud.folder / name for name in ("config", "cache", "home")},
        "backup store": store_of(cloud),
        "mirror": mirror_of(cloud),
    }
    for name, root in places.items():
        if around is None:
            search.tree(name, root)
        elif around.is_relative_to(root):
            search.tree(name, around)
    search.text("up.log", (cloud.folder / "up.log").read_bytes())
    for path in (*Path("/dev/shm").glob("nebh-*"), *Path("/tmp").glob("nebh-trace-*")):
        search.tree("left behind", path) if path.is_dir() else search.text(str(path), path.read_bytes())
    return search


def store_of(cloud: Cloud) -> Path:
    """Return the folder that backups go to."""
    return cloud.folder / "backup-store"


def data_of(cloud: Cloud) -> Path:
    """Return the volume as the executor sees it; its pool is mounted nowhere else."""
    seen = Path(f"/proc/{cloud.pid_of('executor')}/root") / cloud.layout.volumes.relative_to("/")
    (found,) = (one for one in seen.glob("**/web.data.0") if one.parent.name == "volumes")
    return found / "live" / "data"


def uses(cloud: Cloud) -> str:
    """Return the lines of the spec; without restic nothing is backed up."""
    return USES + BACKUP.format(store=store_of(cloud)) if shutil.which("restic") else USES


def mirror_of(cloud: Cloud) -> Path:
    """Return the folder that is filled as a mirror."""
    return cloud.folder / "mirror"


def api_answers(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    """Yield what the API says to an operator of everything that concerns the service."""
    (key,) = (cloud.folder / "config").glob("*/operator.key")
    operator = load_key(key)
    login = Login(kind=api.Who.OPERATOR, sign=lambda data: (operator.public, operator.sign_bytes(data)))
    client = Client(UnixTransport(path=cloud.layout.controller_socket), login=login)
    paths = ("status", "nodes", "services", "services/web", "services/web/releases", "events?after=0", "history")
    for path in (*paths, "receipts?after=0", "services/web/logs"):
        yield path, b"".join(client._call("GET", f"/v1/{path}").chunks)
    for role in ("timestamp.json",):
        yield role, client.metadata(role, limit=1 << 20) or b""
    client.close()


def test_1_set_deployed_and_read_by_the_service_alone(
    cloud: Cloud, disk_folder: Path, said: Said, watch: Search
) -> None:
    spec = write_service(disk_folder, more=uses(cloud))
    (disk_folder / "web" / "data").mkdir()
    store_of(cloud).mkdir(mode=0o700)
    said.take("plan", cloud.nebh("plan", str(spec), accept=tuple(range(9))))
    refused = said.take("deploy", cloud.nebh("deploy", "--yes-widen", str(spec), accept=(2,)))
    assert b"nebh secret set web/db" in refused.stderr
    said.take("set", cloud.nebh("secret", "set", "web/db", stdin=FIRST.value))
    said.take("deploy", cloud.nebh("deploy", "--yes-widen", str(spec)))
    assert seen(cloud) == FIRST.value
    assert len(seen(cloud, "made")) == 32


def test_2_rotated_without_a_release_and_receipted(cloud: Cloud, said: Said, watch: Search) -> None:
    (before,) = cloud.serving("web")
    done = said.take("set", cloud.nebh("secret", "set", "web/db", "--json", stdin=SECOND.value))
    (row,) = json.loads(done.stdout)["secrets"]
    assert [one["outcome"] for one in row["receipts"]] == ["rotated"]
    assert seen(cloud) == SECOND.value
    made = seen(cloud, "made")
    said.take("rotate", cloud.nebh("secret", "rotate", "web/made"))
    assert seen(cloud, "made") != made
    (after,) = cloud.serving("web")
    assert (after["id"], after["pid"]) == (before["id"], before["pid"])


def test_2b_config_and_data_move_beside_it(cloud: Cloud, said: Said, watch: Search) -> None:
    """A reload, a layer, a restart with its snapshot, a rollback with the data: all with the secrets in place."""
    (before,) = cloud.serving("web")
    said.take("config", cloud.nebh("config", "set", "cluster", "word=two"))
    said.take("explain", cloud.nebh("config", "explain", "web", "--file", "/www/word.txt", "--json"))
    said.take("restart", cloud.nebh("restart", "web"))
    (after,) = cloud.serving("web")
    assert after["id"] != before["id"]
    for words in (
        ("volume", "list"),
        ("volume", "snapshots", "web"),
        ("config", "history"),
        ("config", "get", "cluster"),
    ):
        said.take(" ".join(words), cloud.nebh(*words, "--json"))
    assert seen(cloud) == SECOND.value


@pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed (packaging/packages.sh runtime)")
def test_2c_a_backup_is_made_and_restored(cloud: Cloud, said: Said, watch: Search) -> None:
    """The store is encrypted: what a backup holds is searched where it comes back, among the volumes."""
    data_of(cloud).joinpath("note").write_text("backed up")
    said.take("backup", cloud.nebh("backup", "run", "web", "--json"))
    said.take("backup list", cloud.nebh("backup", "list", "web", "--json"))
    data_of(cloud).joinpath("note").write_text("later")
    said.take("backup restore", cloud.nebh("backup", "restore", "web", "--yes", "--json"))
    assert data_of(cloud).joinpath("note").read_text() == "backed up"
    assert any(store_of(cloud).rglob("snapshots/*"))
    assert seen(cloud) == SECOND.value


def test_3_failures_say_nothing_of_it(cloud: Cloud, disk_folder: Path, said: Said, watch: Search) -> None:
    for words, given in (
        (("secret", "set", "web/db"), LOST.value * 9000),
        (("secret", "import", "web", "-"), b"DB=" + LOST.value + b"\nbroken " + LOST.value + b"\n"),
        (("secret", "import", "web", "-"), b'{"db": ["' + LOST.value + b'"]}'),
        (("secret", "set", "shop/none", "--timeout", "x"), LOST.value),
    ):
        assert said.take(" ".join(words), cloud.nebh(*words, stdin=given, accept=(2,))).status == 2
    failing = "update: {bake: 3s, drain: 1s, checks: [{http: {path: /missing}, failures: 1, interval: 200ms}]}\n"
    spec = write_service(disk_folder, page="tiny 2", more=uses(cloud))
    spec.write_text(spec.read_text().replace("update: {bake: 1s, drain: 1s}\n", failing))
    assert said.take("deploy", cloud.nebh("deploy", "--yes-widen", str(spec), accept=(8,))).status == 8
    assert seen(cloud) == SECOND.value


def test_4_a_forged_box_is_refused_and_what_runs_runs_on(cloud: Cloud, said: Said, watch: Search) -> None:
    """The controller swaps the bytes of the box after they were uploaded: nobody gets the value, everybody the reason."""
    agent = cloud.pid_of("agent")
    subprocess.run(["kill", "-STOP", str(agent)], check=True)
    try:
        done = cloud.nebh("secret", "set", "web/db", "--detach", stdin=HELD.value)
        said.take("set", done)
        lists = sorted(cloud.layout.controller.rglob("*.db.json"), key=lambda path: path.stat().st_mtime_ns)
        ((_, box),) = json.loads(lists[-1].read_bytes())["boxes"].items()
        held = next(path for path in cloud.layout.controller.rglob(f"*{box['digest'][2:]}*") if path.is_file())
        held.chmod(0o600)
        held.write_bytes(b"forged" * 13)
    finally:
        subprocess.run(["kill", "-CONT", str(agent)], check=True)
    end = time.monotonic() + 60
    while not {one["kind"] for one in events(cloud)} & {"secret.refused", "secret.unreachable"}:
        assert time.monotonic() < end, events(cloud)[-5:]
        time.sleep(0.5)
    assert seen(cloud) == SECOND.value


def events(cloud: Cloud) -> list[dict[str, str]]:
    found: list[dict[str, str]] = cloud.nebh_json("events")["events"]
    return found


def test_5_an_executor_killed_and_a_cloud_rebooted_give_it_again(cloud: Cloud, said: Said, watch: Search) -> None:
    said.take("set", cloud.nebh("secret", "set", "web/db", "--detach", stdin=SECOND.value))
    old = cloud.kill("executor")
    cloud.wait_restarted("executor", old=old)
    wait_for(cloud, SECOND.value)
    cloud.power_cut()
    cloud.up()
    wait_for(cloud, SECOND.value)
    for pid in descendants(cloud.pid_of("executor")):
        assert core_dump_settings(pid) == ("0", "00000000")


def wait_for(cloud: Cloud, value: bytes) -> None:
    """Wait until the service's one instance runs and sees this value."""
    end = time.monotonic() + 180
    found = b""
    while found != value:
        assert time.monotonic() < end, found[:6]
        time.sleep(0.3)
        with contextlib.suppress(CommandFailed, OSError, ValueError):
            found = seen(cloud)


def test_6_nothing_that_was_written_printed_or_run_holds_it(
    cloud: Cloud, disk_folder: Path, said: Said, watch: Search
) -> None:
    for words in (
        ("status",),
        ("events",),
        ("releases", "web"),
        ("history",),
        ("inspect", "web"),
        ("why", "web"),
        ("logs", "web"),
        ("secret", "list"),
        ("secret", "who", "web/db"),
        ("trust", "show"),
        ("plan", str(disk_folder / "web.yaml")),
    ):
        for form in ((), ("--json",)):
            said.take(" ".join(words), cloud.nebh(*words, *form, accept=tuple(range(10))))
    said.take("status", cloud.nebh_executor("status", "--json"))
    said.take("inspect", cloud.nebh_executor("inspect", "web", accept=tuple(range(10))))
    said.take(
        "push",
        cloud.nebh(
            "image",
            "push",
            str(disk_folder / "web"),
            "--config-of",
            "web",
            "--to",
            str(mirror_of(cloud)),
            accept=tuple(range(10)),
        ),
    )
    search = files_of(cloud)
    assert any(one.is_file() for one in mirror_of(cloud).rglob("*")), said.outputs[-1]
    for what, data in (*said.outputs, *api_answers(cloud)):
        search.text(what, data)
    assert search.places > 200
    assert not search.leaks, "\n".join(map(str, search.leaks))
    assert watch.places > 1000
    assert not watch.leaks, "\n".join(map(str, watch.leaks))


STORES = (
    "controller",
    "agent",
    "executor",
    "journal",
    "bundles",
    "logs",
    "run",
    "config",
    "cache",
    "configs",
    "objects",
    "volumes",
    "mirror",
    "backup",
    "controller's database",
    "traceback",
    "core dump",
    "outputs",
    "processes",
    "API",  # the last one: what it plants stays in a log
)


def planted_row(database: Path) -> Iterator[None]:
    """Hold a row with the canary in a database for a moment."""
    with sqlite3.connect(database, timeout=30) as connection:
        connection.execute("CREATE TABLE planted (value BLOB)")
        connection.execute("INSERT INTO planted VALUES (?)", (FIRST.value,))
    connection.close()
    yield
    with sqlite3.connect(database, timeout=30) as connection:
        connection.execute("DROP TABLE planted")
    connection.close()


def planted_file(folder: Path) -> Iterator[None]:
    """Hold a file with the canary in a folder for a moment."""
    folder.mkdir(exist_ok=True)
    planted = folder / "planted"
    planted.write_bytes(b"a line\n" + FIRST.value + b"\n")
    yield
    planted.unlink()


def planted_core(folder: Path) -> Iterator[None]:
    """Hold what a core dump is, large and mostly holes, for a moment."""
    core = folder / "core.4711"
    with core.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(700 << 20)
        file.write(FIRST.value)
    yield
    core.unlink()


def searched_while(planting: Callable[[], Iterator[None]], cloud: Cloud, *, around: Path) -> Search:
    with contextlib.contextmanager(planting)():
        return files_of(cloud, around=around)


def said_while(cloud: Cloud, store: str) -> Search:
    """Plant the canary in what is said, not in what is written."""
    search, needle = Search(*ALL), FIRST.value
    if store == "outputs":
        search.text("an output", b"value: " + needle.hex().encode())
    elif store == "processes":
        with ProcessWatch(search, every=0.01):
            subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)", needle.decode()], check=True)
    elif store == "traceback":
        done = subprocess.run([sys.executable, "-c", f"raise ValueError({needle!r})"], capture_output=True, check=False)
        search.text("a traceback", done.stderr)
    else:
        (one,) = cloud.serving("web")
        with (cloud.layout.logs / one["id"] / "ctr.log").open("ab") as log:  # as its program would print it
            log.write(b"2026-01-01T00:00:00.000000000+00:00 stdout F " + needle + b"\n")
        for what, data in api_answers(cloud):
            search.text(what, data)
    return search


@pytest.mark.parametrize("store", STORES)
def test_7_a_leak_planted_in_each_place_is_found(cloud: Cloud, store: str) -> None:
    layout = cloud.layout
    folders = {
        "controller": layout.controller,
        "agent": layout.agent,
        "executor": layout.executor,
        "bundles": layout.bundles,
        "logs": layout.logs,
        "run": layout.run,
        "config": cloud.folder / "config",
        "cache": cloud.folder / "cache",
        "configs": layout.configs,
        "objects": layout.objects,
        "volumes": layout.state / "volumes",
        "mirror": mirror_of(cloud),
        "backup": store_of(cloud),
    }
    where = store
    if store in folders:
        where = str(folders[store] / "planted")
        search = searched_while(lambda: planted_file(folders[store]), cloud, around=folders[store])
    elif store == "core dump":
        where = "core.4711"
        search = searched_while(lambda: planted_core(layout.executor), cloud, around=layout.executor)
    elif store == "journal":
        where = "journal.db"
        search = searched_while(lambda: planted_row(layout.journal), cloud, around=layout.journal.parent)
    elif store == "controller's database":
        where, database = "controller.db", layout.controller / "controller.db"
        search = searched_while(lambda: planted_row(database), cloud, around=database.parent)
    else:
        where = {"outputs": "an output", "processes": "process list", "traceback": "a traceback"}.get(store, "web/logs")
        search = said_while(cloud, store)
    # there, not where an earlier one left a trace: a database forgets a row without wiping it
    assert [one for one in search.leaks if where in one.place], (store, search.leaks)
