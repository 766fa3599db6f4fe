"""What must hold on a node, whatever was killed: at every instant, and once it is quiet again.

`find_instant_faults` may be asked in the middle of anything; `find_rest_faults` compares journal, containers, mounts,
control groups, links, rules, names, proxy slots, processes and files of a node on which nothing is under way.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from nebh.client.frame_channel import connect_frames
from nebh.drivers.ingress.runtime import Runtime
from nebh.executor.sweep import retained_manifests
from nebh.host.run import Command, run
from nebh.images.store import NodeStore
from nebh.journal.rehearsals import Rehearsals
from nebh.model.errors import NebhError
from nebh.model.network import RESOLVER_INDEX, addresses
from nebh.model.work import InstanceRow, Role, Wanted
from nebh.testing.cloud import CGROUPS, PATIENCE, Cloud
from nebh.testing.journal_view import Journal, find_journal_faults, open_journal

Faults = list[str]


def ask_status(cloud: Cloud, *, timeout: float = 60.0) -> dict[str, Any]:
    """Return `nebh-executor status`. Raises what the door answers, or Unreachable."""
    with connect_frames(cloud.layout.executor_socket) as channel:
        found: dict[str, Any] = channel.request({"op": "status"}, timeout=timeout)[0]
    return found


def is_quiet(cloud: Cloud) -> bool:
    """Tell whether the executor answers, no transaction is open and nothing is on its way out or back."""
    try:
        status = ask_status(cloud)
    except NebhError:
        return False
    rows = status["instances"]
    return not status["transactions"] and all((one["role"], one["status"]) == ("serving", "running") for one in rows)


def wait_whole(cloud: Cloud, *, patience: float = PATIENCE) -> None:
    """Wait until a node is quiet and nothing is wrong with it. Raises AssertionError with what is."""
    end = time.monotonic() + patience
    wrong = ["it is not quiet"]
    while wrong:
        assert time.monotonic() < end, "still wrong: " + "; ".join(wrong) + "\n" + cloud.say_logs()
        if is_quiet(cloud):
            wrong = find_rest_faults(cloud)
        if wrong:
            time.sleep(0.1)


# at every instant


def find_instant_faults(cloud: Cloud) -> Faults:
    """Return what must never be so, not even for a moment: an unsound journal, a mixed triple, two owners of a port or
    of an address."""
    with open_journal(cloud.layout.journal) as journal:
        found = find_journal_faults(journal)
        rows = journal.work.instances()
        for row in rows:
            found += _triple_faults(cloud, journal, row)
    taken = Counter(row.address for row in rows)
    found += [f"address {address} has {count} owners" for address, count in taken.items() if count > 1]
    return found + find_port_faults(cloud)


def _triple_faults(cloud: Cloud, journal: Journal, row: InstanceRow) -> Faults:
    """Code, configuration and what the journal says of an instance are of one release."""
    release = journal.accepted.release(row.service, row.epoch, row.counter)
    pid = _init_of(cloud, row.id)
    if release is None or not pid:
        return []
    found = []
    tree = _tree_of(pid)
    if tree not in ("", release.images["main"].manifest):
        found.append(f"mixed triple: {row.id} runs on the tree {tree[:12]}")
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((cloud.layout.bundles / row.id / "config.json").read_bytes())
        if tuple(config["process"]["args"]) != tuple(release.argv):
            found.append(f"mixed triple: {row.id} has the arguments {config['process']['args']}")
        missing = {f"{key}={value}" for key, value in release.env.items()} - set(config["process"]["env"])
        if missing:
            found.append(f"mixed triple: {row.id} lacks {sorted(missing)}")
    return found


def _init_of(cloud: Cloud, name: str) -> int:
    """Return the first process of a container that is past its exec, 0 when there is none."""
    folder = cloud.layout.run / "crun" / name
    with contextlib.suppress(OSError, ValueError, KeyError):
        state = json.loads((folder / "status").read_bytes())
        started = int(Path(f"/proc/{state['pid']}/stat").read_text().rpartition(")")[2].split()[19])
        if started == state["process-start-time"] and not (folder / "exec.fifo").exists():
            return int(state["pid"])
    return 0


def _tree_of(pid: int) -> str:
    """Return the image tree that a process has as its root, "" when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[4] == "/":
                return Path(fields[3]).name
    return ""


def find_port_faults(cloud: Cloud) -> Faults:
    """Return the listening ports of the node that belong to more than one program run."""
    owners: dict[str, set[int]] = {}
    listing = _inside(cloud, "ss", "-Hltnp")
    for line in listing.splitlines():
        place = line.split()[3]
        for pid in re.findall(r"pid=(\d+)", line):
            owners.setdefault(place, set()).add(_family(int(pid)))
    return [f"port {place} has the owners {sorted(pids)}" for place, pids in owners.items() if len(pids - {0}) > 1]


def _family(pid: int) -> int:
    """Return the eldest ancestor of a process that runs the same program, 0 when the process has ended."""
    name, parent = _stat(pid)
    if not name:
        return 0
    while parent > 1 and _stat(parent)[0] == name:
        pid, parent = parent, _stat(parent)[1]
    return pid


def _stat(pid: int) -> tuple[str, int]:
    with contextlib.suppress(OSError):
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        state, parent = tail.split()[:2]
        if state not in "ZX":
            return head.partition("(")[2], int(parent)
    return "", 0


# at rest


def find_rest_faults(cloud: Cloud) -> Faults:
    """Return every difference between journal and machine, and everything that nobody owns."""
    found = find_instant_faults(cloud)
    with open_journal(cloud.layout.journal) as journal:
        rows = journal.work.instances()
        found += _service_faults(journal)
        found += _folder_faults(cloud, journal)
        found += find_store_faults(cloud, journal)
        subnets = journal.accepted.nodes()
        mine = journal.accepted.meta("node_id")
        pair = next(one.subnets for one in subnets.nodes if one.node_id == mine) if subnets else ()
        routed = {row.id for row in rows if _policy_net(journal, row).routes}
        called = {row.id for row in rows if _policy_net(journal, row).ports}
        services = {row.service for row in rows if row.id in called}
    found += _differ("control groups", _cgroups(cloud), [row.id for row in rows])
    found += _differ("monitors", _monitors(cloud), [row.id for row in rows])
    found += _differ("links", _links(cloud), [f"nebh{row.address:04x}" for row in rows])
    places = {row.id: addresses(pair, row.address).v4 for row in rows}
    found += _differ("proxy slots", _slots(cloud), [places[name] for name in routed])
    leads = _endpoints(cloud)
    found += _differ("endpoints", list(leads.values()), [places[name] for name in called])
    for service in services:
        answer = _resolve(cloud, service, server=addresses(pair, RESOLVER_INDEX).v4)
        wanted = [endpoint for endpoint, place in leads.items() if _owner(rows, places, place) == service]
        found += _differ(f"the name {service}", answer, wanted)
    return found + _process_faults(cloud, rows)


def _policy_net(journal: Journal, row: InstanceRow) -> Any:
    policy = journal.accepted.effective(row.service)
    return policy.net if policy else SimpleNamespace(routes=(), ports={})


def _owner(rows: tuple[InstanceRow, ...], places: dict[str, str], place: str) -> str:
    return next((row.service for row in rows if places[row.id] == place), "")


def _differ(what: str, found: Any, wanted: Any) -> Faults:
    there, meant = Counter(found), Counter(wanted)
    lines = []
    if there - meant:
        lines.append(f"{what} that nobody owns: {sorted((there - meant).elements())}")
    if meant - there:
        lines.append(f"{what} that are missing: {sorted((meant - there).elements())}")
    return lines


def _service_faults(journal: Journal) -> Faults:
    found = [f"a transaction of {row.service} is {row.state}" for row in journal.work.open_transactions()]
    for service in journal.work.services():
        rows = journal.work.instances(service.service)
        count = service.replicas if service.wanted is Wanted.RUNNING and service.counter else 0
        serving = sorted(row.replica for row in rows if row.role is Role.SERVING)
        if serving != list(range(count)):
            found.append(f"{service.service}: the replicas {serving} serve of {count}")
        found += [f"{row.id} is {row.role}" for row in rows if row.role is not Role.SERVING]
        found += [
            f"{row.id} serves, committed is {service.counter}"
            for row in rows
            if (row.epoch, row.counter) != (service.epoch, service.counter)
        ]
    return found


def _folder_faults(cloud: Cloud, journal: Journal) -> Faults:
    layout, names = cloud.layout, [row.id for row in journal.work.instances()]
    found = _differ("bundles", _entries(layout.bundles), names)
    found += _differ("states of crun", _entries(layout.run / "crun"), names)
    found += _differ("persist folders", _entries(layout.run / "persist"), names)
    found += [f"an exit code of nobody: {name}" for name in set(_entries(layout.run / "exits")) - set(names)]
    former = {name for service in journal.work.services() for name in journal.work.former(service.service)}
    found += [f"logs of nobody: {name}" for name in set(_entries(layout.logs)) - former - set(names)]
    return found


def find_store_faults(cloud: Cloud, journal: Journal, *, deep: bool = False) -> Faults:
    """Return the files of images that no retained release needs, that are missing, or (deep) are not what they say."""
    layout, store = cloud.layout, NodeStore(cloud.layout.state)
    context = SimpleNamespace(work=journal.work, accepted=journal.accepted, rehearsals=Rehearsals(journal.database))
    kept = {name for name in retained_manifests(cast("Any", context)) if store.read_manifest(name) is not None}
    trees = [name for name in _entries(layout.trees) if not name.startswith(".")]
    found = [f"a tree that nobody keeps: {name[:12]}" for name in set(trees) - kept]
    found += [
        f"a manifest that nobody keeps: {n[:12]}" for n in {p.stem for p in layout.manifests.glob("*.json")} - kept
    ]
    wanted = {f"{one.sha256}.{one.mode:03o}" for name in kept for one in store.manifest(name).entries if one.size}
    held = {path.name for path in layout.objects.glob("*/*")}
    found += [f"an object that nobody keeps: {name[:12]}" for name in held - wanted]
    found += [
        f"unfinished: {path}"
        for path in (*layout.trees.glob(".*"), *layout.manifests.glob(".*"), *layout.manifests.glob("*.unsynced"))
    ]
    for row in journal.work.instances():
        release = journal.accepted.release(row.service, row.epoch, row.counter)
        if release is not None and release.images["main"].manifest not in trees:
            found.append(f"{row.id} has no tree")
    if deep:
        found += [f"a tree differs: {one}" for n in trees for one in store.verify_tree(store.manifest(n), digest=n)]
        found += [f"an object is not what it says: {name}" for name in store.scrub()]
    return found


def _entries(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()] if folder.exists() else []


def _cgroups(cloud: Cloud) -> set[str]:
    """Control groups of instances, in whichever controllers."""
    own = {"ingress", "dns"}
    tops = (*CGROUPS.glob(cloud.name), *CGROUPS.glob(f"*/{cloud.name}"))
    return {
        path.name
        for top in tops
        for path in top.iterdir()
        if path.is_dir() and path.name not in own and "-" in path.name
    }


def _links(cloud: Cloud) -> list[str]:
    lines = _inside(cloud, "ip", "-o", "link").splitlines()
    names = [line.split(":")[1].strip().partition("@")[0] for line in lines]
    return [name for name in names if name.startswith("nebh0")]


def _slots(cloud: Cloud) -> list[str]:
    """Addresses of the proxy's slots that get requests, once per backend."""
    runtime = Runtime(cloud.layout.run / "ingress" / "admin.sock", cloud.layout.run / "ingress" / "master.sock")
    try:
        servers = runtime.servers()
    except NebhError as error:
        return [f"(the proxy does not answer: {error})"]
    finally:
        runtime.close()
    return [one.address for one in servers.values() if one.address and str(one.state) != "maint"]


def _endpoints(cloud: Cloud) -> dict[str, str]:
    rules = _inside(cloud, "nft", "list", "map", "inet", "nebh", "endpoints4")
    pairs = rules.partition("elements = {")[2].partition("}")[0].replace("\n", " ").split(",")
    found = [pair.split(" : ") for pair in pairs if " : " in pair]
    return {endpoint.strip(): instance.strip() for endpoint, instance in found}


def _resolve(cloud: Cloud, service: str, *, server: str) -> list[str]:
    answer = _inside(cloud, "busybox", "nslookup", "-type=a", f"{service}.nebh.internal", server)
    return [line.split()[-1] for line in answer.splitlines() if line.startswith("Address") and ":53" not in line]


def _monitors(cloud: Cloud) -> list[str]:
    """Return the instance of every conmon of this cloud."""
    return [
        words[words.index(b"-c") + 1].decode()
        for words in _command_lines(cloud).values()
        if words[0].endswith(b"conmon") and b"-c" in words
    ]


def _command_lines(cloud: Cloud) -> dict[int, list[bytes]]:
    found = {}
    needle = str(cloud.folder).encode() + b"/"
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if any(needle in word for word in words) and _stat(int(path.parent.name))[0]:
                found[int(path.parent.name)] = words
    return found


def _process_faults(cloud: Cloud, rows: tuple[InstanceRow, ...]) -> Faults:
    """No second proxy or resolver, no helper of a dead executor, no mount of an instance that is gone."""
    found = []
    lines = _command_lines(cloud)
    for program in (b"haproxy", b"nebh.programs.executor", b"nebh.programs.agent"):
        own = {pid for pid, words in lines.items() if any(word.endswith(program) for word in words[:6])}
        families = {_family_in(pid, lines) for pid in own}
        if len(families) > 1:
            found.append(f"{program.decode()} runs {len(families)} times: {[_describe(pid) for pid in sorted(own)]}")
    # one resolver for names inside, one for all names: each once
    resolvers = Counter(b" ".join(words) for words in lines.values() if words[0].endswith(b"dnsmasq"))
    found += [f"dnsmasq runs {count} times: {line!r}" for line, count in resolvers.items() if count > 1]
    names = {row.id for row in rows}
    bundles = f"{cloud.layout.bundles.name}/"
    for pid in cloud.processes():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
                place = line.split()[4]
                name = place.partition(bundles)[2].partition("/")[0]
                if str(cloud.folder) in place and name and name not in names:
                    found.append(f"process {pid} holds the mount {place}")
    return found


def _describe(pid: int) -> str:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        sockets = [os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()]
        return f"{pid} of {fields[1]} {fields[0]} since {fields[19]} {sorted(sockets)}"
    return f"{pid} gone"


def _family_in(pid: int, lines: dict[int, list[bytes]]) -> int:
    while (parent := _stat(pid)[1]) in lines and lines[parent][0] == lines[pid][0]:
        pid = parent
    return pid


def _inside(cloud: Cloud, *argv: str) -> str:
    return run(Command(argv=cloud.inside(*argv), accept=tuple(range(256)), timeout=60)).text


def wait_until(is_so: Callable[[], bool], what: str, cloud: Cloud, *, patience: float = PATIENCE) -> float:
    """Wait for something; return the seconds it took. Raises AssertionError."""
    begin = time.monotonic()
    while not is_so():
        assert time.monotonic() < begin + patience, f"not so after {patience:.0f} s: {what}\n{cloud.say_logs()}"
        time.sleep(0.05)
    return time.monotonic() - begin
