"""The OCI config is a function of policy, release and node facts, and stricter than Docker's default (N12)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.drivers.containers.oci_config import render_config, render_process
from nebh.drivers.containers.seccomp import REMOVED, load_profile, render_profile
from nebh.model.service import Limits
from nebh.testing.container_rig import LIMITS, sample_policy, sample_release
from nebh.testing.docs import SAMPLE_FACTS

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
MOBY = Path(__file__).resolve().parents[4] / "shared" / "data" / "moby"
FACTS = SAMPLE_FACTS

NEWER_THAN_THAT_FILE = {  # system calls that Docker's default allows since
    *("cachestat", "close_range", "epoll_pwait2", "faccessat2", "fchmodat2", "map_shadow_stack", "membarrier"),
    *("futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "memfd_secret", "mseal", "openat2", "rseq"),
    *("getxattrat", "listxattrat", "removexattrat", "setxattrat", "listmount", "statmount", "process_mrelease"),
    *("landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "pidfd_open", "pidfd_send_signal"),
    *("pkey_alloc", "pkey_free", "pkey_mprotect", "riscv_hwprobe", "uretprobe"),
}


def config(*, policy=None, release=None, facts=FACTS):
    return json.loads(render_config(policy or sample_policy(), release or sample_release("/bin/app", "-v"), facts))


@pytest.mark.parametrize(
    ("name", "policy", "facts"),
    [
        ("plain", sample_policy(), FACTS),
        ("v1", sample_policy(limits=Limits(memory=1 << 28)), replace(FACTS, cgroup_v2=False)),
        ("opened", sample_policy(tmp_exec=True, cgroup_view=True), FACTS),
        (
            "files",
            sample_policy(),
            replace(FACTS, files={"/etc/app/app.conf": "/var/lib/nebh/bundles/web-7-0-1/files/0"}),
        ),
    ],
)
def test_golden(name, policy, facts):
    value = config(policy=policy, facts=facts, release=sample_release("/bin/app", "-v", env={"MODE": "fast"}))
    value["linux"]["seccomp"] = "see seccomp_profile.json"
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    assert text == (GOLDEN / f"oci_{name}.json").read_text()


def test_the_same_arguments_give_the_same_bytes():
    arguments = (sample_policy(), sample_release("/bin/app"), FACTS)
    assert render_config(*arguments) == render_config(*arguments)


def test_a_release_cannot_lie_about_what_the_node_says():
    lies = {"NEBH_SERVICE": "db", "NEBH_MEMORY_BYTES": "1", "PATH": "/opt", "LD_PRELOAD": "/x"}
    env = dict(word.split("=", 1) for word in config(release=sample_release("/a", env=lies))["process"]["env"])
    assert (env["NEBH_SERVICE"], env["NEBH_MEMORY_BYTES"], env["PATH"]) == ("web", str(LIMITS.memory), "/opt")
    assert env["NEBH_CPUS"] == "0.5"
    assert "NEBH_CPUS" not in json.dumps(config(policy=sample_policy(limits=Limits(memory=1 << 26)))["process"])


def test_nothing_outside_reaches_it():
    value = config()
    assert value.get("annotations") is None
    assert all(not names for names in value["process"]["capabilities"].values())
    assert {one["type"] for one in value["linux"]["namespaces"]} == {
        *("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
    }
    sources = {one["source"] for one in value["mounts"] if one["type"] == "bind"}
    assert sources == set(FACTS.etc_files.values())
    assert not [one for one in value["mounts"] if one["destination"].startswith("/sys")]
    for one in value["mounts"]:
        assert "nosuid" in one["options"] or one["type"] == "cgroup"
        assert "noexec" in one["options"]


def test_a_check_is_the_same_process_with_other_arguments():
    rendered = render_config(sample_policy(), sample_release("/bin/app"), FACTS)
    process = json.loads(render_process(rendered, ("/bin/check", "--now")))
    assert process == {**json.loads(rendered)["process"], "args": ["/bin/check", "--now"]}


def test_the_profile_is_what_we_say_it_is():
    names = {name for rule in load_profile()["syscalls"] for name in rule["names"]}
    assert not names & REMOVED
    forbidden = {"mount", "unshare", "setns", "bpf", "keyctl", "io_uring_setup", "userfaultfd", "chroot", "reboot"}
    assert not names & forbidden
    clone3 = next(rule for rule in load_profile()["syscalls"] if rule["names"] == ["clone3"])
    assert clone3["errnoRet"] == 38


def test_the_profile_is_derived_from_mobys():
    source = MOBY / "seccomp-default.json"
    if not source.exists():
        pytest.skip("moby's profile is not on this machine (../shared/data/moby/seccomp-default.json)")
    moby = json.loads(source.read_text())
    path = Path(render_config.__code__.co_filename).with_name("seccomp_profile.json")
    assert render_profile(moby) == path.read_text()
    theirs = {
        name for rule in moby["syscalls"] for name in rule["names"] if not (rule.get("includes") or {}).get("caps")
    }
    ours = {name for rule in load_profile()["syscalls"] for name in rule["names"]}
    assert ours < theirs


def test_the_profile_allows_nothing_that_dockers_default_forbids():
    source = MOBY / "oci-default-config.json"
    if not source.exists():
        pytest.skip("moby's profile is not on this machine (../shared/data/moby/oci-default-config.json)")
    docker = json.loads(source.read_text())
    theirs = {name for rule in docker["syscalls"] for name in rule.get("names", [rule.get("name")])}
    ours = {name for rule in load_profile()["syscalls"] for name in rule["names"] if rule["action"] == "SCMP_ACT_ALLOW"}
    newer = ours - theirs
    assert newer <= NEWER_THAN_THAT_FILE, newer
