"""The platform that people have: Debian 12 with its own kernel, systemd and pure cgroup v2, in a machine that can lose
its power. `make test-long` runs it; ten to fifteen minutes where the processor is emulated."""

from __future__ import annotations

import threading
import time

import pytest

from nebh.testing.guest_cloud import CGROUPS, UNITS, GuestCloud
from nebh.testing.load import Load, summarise

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.e2e, pytest.mark.timeout(1500)]


def eventually(look, *, patience: float = 900.0, what: str = ""):
    """Return the first true thing that `look` returns; an emulated machine is slow."""
    end = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < end, f"it did not happen within {patience:g} s: {what}; last: {found!r}"
        time.sleep(0.5)
    return found


def check_none_failed(load: Load, *, at_least: int = 20) -> None:
    summary = summarise(load.rows)
    print(summary)
    assert summary["failed"] == 0, [row for row in load.rows if row.error][:10]
    assert summary["requests"] >= at_least


def check_whole(machine: GuestCloud, versions: tuple[str, ...]) -> str:
    """One whole triple answers, and node and service agree on it; return its version."""
    eventually(machine.is_quiet, what="no transaction is open")
    found = eventually(machine.triple, what="the service answers")
    assert found["config"] == found["image"]
    assert found["image"] in versions
    rows = [one for one in machine.node_status()["instances"] if one["service"] == "web"]
    assert [(one["role"], one["status"], one["counter"]) for one in rows] == [("serving", "running", found["release"])]
    return str(found["image"])


def test_comes_up_by_the_ways_of_the_readme(machine: GuestCloud):
    machine.guest.boot()
    assert machine.guest.text("cat /proc/1/comm; stat -fc %T /sys/fs/cgroup; uname -r").split()[:2] == [
        "systemd",
        "cgroup2fs",
    ]
    said = machine.install()
    assert "Nebh is installed in /opt/nebh" in said
    assert "is up; it comes back after a reboot" in said
    assert machine.active_units() == list(UNITS)
    assert machine.guest.text("systemctl --failed --no-legend --plain") == ""
    assert machine.nebh("status").startswith("guest: snapshot 1")


def test_an_update_loses_no_request(machine: GuestCloud):
    assert "committed on guest" in machine.deploy("web", "one")
    assert machine.triple() == {"release": 1, "config": "one", "image": "one"}
    with machine.load() as load:
        assert "committed on guest" in machine.deploy("web", "two")
        assert machine.triple() == {"release": 2, "config": "two", "image": "two"}
        seen = len(load.rows)
        eventually(lambda: len(load.rows) > seen + 20, what="the load goes on")
    check_none_failed(load)
    assert set(summarise(load.rows)["versions"]) == {"one", "two"}


def test_containers_are_confined_by_apparmor_too(machine: GuestCloud):
    assert machine.guest.text("cat /sys/module/apparmor/parameters/enabled") == "Y"
    process = machine.guest.text(f"head -1 {CGROUPS}/{machine.instance_of('web')}/cgroup.procs")
    assert machine.guest.text(f"cat /proc/{process}/attr/current") == "nebh-default (enforce)"
    words = dict(line.split(":\t", 1) for line in machine.guest.text(f"cat /proc/{process}/status").splitlines())
    assert (int(words["CapEff"], 16), words["NoNewPrivs"], words["Seccomp"]) == (0, "1", "2")


def test_limits_hold_and_the_neighbour_loses_nothing(machine: GuestCloud):
    assert "committed on guest" in machine.deploy("hog", "one")
    instance = machine.instance_of("hog")
    limits = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
    found = machine.guest.text(f"cd {CGROUPS}/{instance} && cat {' '.join(limits)}").splitlines()
    assert found == [str(32 << 20), "0", "1", "40", "50000 100000"]
    with machine.load() as load:
        machine.get("hog", "/cgi-bin/hog?pids", timeout=20.0)
        # RLIMIT_NPROC and pids.max are the same number, and the kernel asks the first one first.
        assert machine.guest.text(f"cat {CGROUPS}/{instance}/pids.peak") == "40"
        assert "can't fork" in machine.nebh("logs", "hog")
        machine.guest.text(
            f"for one in $(cat {CGROUPS}/{instance}/cgroup.procs); do "
            "grep -q sleep /proc/$one/comm && kill -9 $one; done; true"
        )

        before = machine.counters(instance, "cpu.stat")
        threading.Thread(target=machine.get, args=("hog", "/cgi-bin/hog?cpu"), daemon=True).start()
        eventually(lambda: machine.counters(instance, "cpu.stat")["nr_throttled"] > before["nr_throttled"] + 30)
        after = machine.counters(instance, "cpu.stat")
        spent = {name: after[name] - before[name] for name in ("usage_usec", "nr_periods")}
        # A tenth more: a processor that is emulated gives its time back late.
        assert spent["usage_usec"] <= (spent["nr_periods"] + 1) * 50_000 * 1.1, spent

        machine.get("hog", "/cgi-bin/hog?memory")
        eventually(lambda: "memory" in machine.nebh("why", "hog", accept=(0, 1, 2)), what="the reason is told")
        print(machine.nebh("why", "hog", accept=(0, 1, 2)))
    check_none_failed(load)
    machine.nebh("rm", "--yes", "hog")


def test_every_unit_is_restarted_under_load(machine: GuestCloud):
    before = machine.node_status()["instances"]
    with machine.load() as load:
        for unit in UNITS:
            machine.guest.sh(f"systemctl restart {unit}")
            eventually(lambda: machine.active_units() == list(UNITS), what=f"all units run after a restart of {unit}")
            eventually(machine.is_quiet, what=f"the executor answers after a restart of {unit}")
        for unit in UNITS[1:]:
            machine.guest.sh(f"systemctl kill -s KILL --kill-who=main {unit}")
            eventually(lambda: machine.active_units() == list(UNITS), what=f"all units run after {unit} was killed")
        eventually(machine.is_quiet, what="the executor answers")
        machine.guest.sh("systemctl daemon-reload && systemctl daemon-reexec")
        seen = len(load.rows)
        eventually(lambda: len(load.rows) > seen + 20, what="the load goes on")
    check_none_failed(load)
    same = ("id", "pid", "started")
    assert [[one.get(word) for word in same] for one in machine.node_status()["instances"]] == [
        [one.get(word) for word in same] for one in before
    ]
    check_whole(machine, ("two",))


def test_an_upgrade_starts_the_programs_anew_and_nothing_else(machine: GuestCloud):
    def main_pids() -> list[str]:
        return machine.guest.text(f"systemctl show -P MainPID {' '.join(UNITS[1:])}").split()

    programs, containers = main_pids(), machine.node_status()["instances"]
    machine.guest.sh("echo '# a newer version' >> /root/nebh/src/nebh/__init__.py")
    with machine.load() as load:
        machine.guest.sh("cd /root/nebh && make install && nebh up", timeout=900.0)
        eventually(machine.is_quiet, what="the executor answers")
        assert machine.active_units() == list(UNITS)
        assert not set(programs) & set(main_pids())
        again = main_pids()
        machine.guest.sh("nebh up", timeout=900.0)
        assert main_pids() == again, "the same code is not started a second time"
    check_none_failed(load)
    assert [one["started"] for one in machine.node_status()["instances"]] == [one["started"] for one in containers]
    check_whole(machine, ("two",))


def test_the_plug_is_pulled_in_mid_cut_over(machine: GuestCloud):
    machine.guest.sh(
        "mkdir -p /run/systemd/system/nebh-executor.service.d && cd /run/systemd/system/nebh-executor.service.d && "
        "printf '[Service]\\nEnvironment=NEBH_FAULT_PAUSE=cutover.switch.after\\n' > fault.conf && "
        "systemctl daemon-reload && systemctl restart nebh-executor"
    )
    eventually(machine.is_quiet, what="the executor answers")
    machine.write_service("web", "three")
    machine.guest.sh("cd /root/svc && (setsid nebh deploy --yes-widen web.yaml > /root/deploy.log 2>&1 &)")
    stopped = "grep -q '^State:.*stopped' /proc/$(systemctl show -P MainPID nebh-executor)/status"
    eventually(lambda: machine.guest.sh(stopped, accept=(0, 1, 2)).status == 0, what="the executor stops in cut-over")
    seen = machine.triple()
    assert seen["image"] in ("two", "three")
    machine.guest.pull_plug()

    machine.guest.boot()
    eventually(lambda: machine.active_units() == list(UNITS), what="all units run after the boot")
    check_whole(machine, ("two", "three"))
    assert machine.guest.text("systemctl --failed --no-legend --plain") == ""


def test_the_plug_is_pulled_as_the_new_version_answers(machine: GuestCloud):
    machine.write_service("web", "four")
    with machine.load(rate=20.0) as load:
        machine.guest.sh("cd /root/svc && (setsid nebh deploy --yes-widen web.yaml > /root/deploy.log 2>&1 &)")
        eventually(lambda: load.rows and load.rows[-1].version == "four", what="the new version answers")
        machine.guest.pull_plug()
    machine.guest.boot()
    came_back = check_whole(machine, ("two", "three", "four"))
    print(f"after the power cut: {came_back}")
    eventually(lambda: "guest  active" in machine.nebh("status"), what="the node is heard")
    assert "committed on guest" in machine.deploy("web", "five")
    check_whole(machine, ("five",))
