"""systemd units: golden texts, what systemd itself says of them, and the score of what faces the network."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from nebh.cli.programs import NAMES
from nebh.cli.systemd import facts_of, steps
from nebh.cli.units import UNITS, UnitFacts, render_units
from nebh.host.layout import Layout
from nebh.host.program_tree import ProgramTree
from nebh.host.seccomp import DENIED, GROUPS
from nebh.model.local import LocalConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "units"
ANALYZE = shutil.which("systemd-analyze")
BIN = "/opt/nebh/bin"
FACTS = UnitFacts(
    state="/var/lib/nebh",
    run="/run/nebh",
    commands={
        "nebh-agent": (f"{BIN}/nebh-agent", "--state", "/var/lib/nebh/agent", "--run", "/run/nebh"),
        "nebh-controller": (f"{BIN}/nebh-controller", "serve", "--listen", "[::]:7443"),
        "nebh-executor": (f"{BIN}/nebh-executor", "--state", "/var/lib/nebh", "--run", "/run/nebh", "serve"),
    },
    env={"PYTHONDONTWRITEBYTECODE": "1", "NEBH_TREE": "src-0123456789ab venv-0123456789ab"},
    agent_user="nebh-agent",
    controller_user="nebh-controller",
)


@pytest.mark.parametrize("name", UNITS)
def test_the_text_is_the_golden_one(name):
    assert render_units(FACTS)[name] == (GOLDEN / name).read_text()


def test_all_units_are_rendered():
    assert set(render_units(FACTS)) == set(UNITS)


def test_the_executor_has_nothing_that_containers_would_inherit():
    text = render_units(FACTS)["nebh-executor.service"]
    made_of_seccomp = (
        *("SystemCall", "Restrict", "MemoryDenyWriteExecute", "LockPersonality", "ProtectHostname"),
        *("ProtectKernel", "ProtectClock", "PrivateNetwork", "PrivateDevices=yes", "ProtectControlGroups"),
    )
    assert not [line for line in text.splitlines() if line.startswith(made_of_seccomp)]
    assert "KillMode=process" in text


def test_what_holds_the_containers_has_no_process():
    # A process there would keep the unit from starting again: the kernel lets none into a folder with delegated limits.
    lines = render_units(FACTS)["nebh-containers.service"].splitlines()
    assert not [line for line in lines if line.startswith(("ExecStart=", "Restart="))]
    assert {"RemainAfterExit=yes", "Delegate=yes", "KillMode=process"} <= set(lines)


def test_a_slow_executor_is_not_ended_while_it_recovers():
    text = render_units(FACTS)["nebh-executor.service"]
    assert int(text.partition("TimeoutStartSec=")[2].split()[0]) >= 900


def test_every_program_is_started_once_and_anew_when_its_unit_changed():
    services = tuple(name for name in UNITS if name.endswith(".service"))
    assert steps(()) == (("daemon-reload",), ("enable", *services), ("start", services[0]), ("start", *services))
    assert ("restart", *services[1:]) in steps(UNITS)
    assert ("restart", "nebh-agent.service") in steps(("nebh.slice", "nebh-containers.service", "nebh-agent.service"))
    assert not [words for words in steps(UNITS) if "restart" in words and "nebh-containers.service" in words]


def test_other_code_makes_other_units(open_folder):
    layout, config = Layout(state=Path("/var/lib/nebh"), run=Path("/run/nebh")), LocalConfig(name="vm")
    (open_folder / "bin").mkdir()
    for name in NAMES:
        (open_folder / "bin" / name).write_text("#!/bin/sh\n")
        (open_folder / "bin" / name).chmod(0o755)
    found = []
    for key in ("one", "two"):
        (open_folder / f"src-{key}").mkdir()
        (open_folder / "venv-1").mkdir(exist_ok=True)
        (open_folder / "venv").unlink(missing_ok=True)
        (open_folder / "venv").symlink_to("venv-1")
        paths = (open_folder / f"src-{key}",)
        tree = ProgramTree(prefix=open_folder / "venv", python=open_folder / "venv/bin/python", paths=paths)
        found.append(render_units(facts_of(layout, config, tree)))
    changed = [name for name in UNITS if found[0][name] != found[1][name]]
    assert changed == ["nebh-executor.service", "nebh-agent.service", "nebh-controller.service"]
    assert 'Environment="NEBH_TREE=src-two venv-1"' in found[1]["nebh-agent.service"]


def test_words_that_systemd_would_read_otherwise_are_quoted():
    facts = UnitFacts(**{**vars(FACTS), "commands": {**FACTS.commands, "nebh-agent": ("/a b/$x", "100%")}})
    assert 'ExecStart="/a b/$$x" 100%%\n' in render_units(facts)["nebh-agent.service"]


@pytest.fixture
def open_folder():
    """A folder that other users can pass, unlike those of tests."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def folder(tmp_path):
    if ANALYZE is None:
        pytest.skip("systemd-analyze (Debian: systemd) is not installed")
    for name, text in render_units(FACTS).items():
        # programs that need not be installed for a score
        (tmp_path / name).write_text(re.sub(f"{BIN}/[a-z-]+", "/bin/true", text))
    return tmp_path


def score(folder: Path, name: str) -> float:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(folder / name)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


@pytest.mark.parametrize("name", ["nebh-agent.service", "nebh-controller.service"])
def test_what_faces_the_network_scores_low(folder, name):
    assert score(folder, name) <= 1.5


def test_a_unit_without_the_confinement_scores_high(folder):
    text = (folder / "nebh-agent.service").read_text()
    bare = [line for line in text.splitlines() if not line.startswith(("Protect", "Private", "Restrict", "SystemCall"))]
    (folder / "nebh-agent.service").write_text("\n".join(bare))
    assert score(folder, "nebh-agent.service") > 4


def test_systemd_finds_nothing_to_complain_about(folder):
    paths = [str(folder / name) for name in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", *paths], capture_output=True, text=True, timeout=30, check=False
    )
    assert not [line for line in done.stderr.splitlines() if str(folder) in line], done.stderr


def test_the_list_of_system_calls_is_systemds(folder):
    names: set[str] = set()
    for group in GROUPS:
        names |= members(group)
    unknown = {name for name, numbers in DENIED.items() if name not in names}
    assert not unknown
    here = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not here.exists():
        pytest.skip("no kernel headers to read the numbers from")
    numbers = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR_(\w+)\s+(\d+)", here.read_text())}
    assert not {name for name in names & numbers.keys() if DENIED.get(name, (-1,))[0] != numbers[name]}


def members(group: str) -> set[str]:
    argv = ["systemd-analyze", "syscall-filter", "--no-pager", group]
    lines = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()[1:]
    words = {line.strip() for line in lines if line.strip() and not line.strip().startswith("#")}
    return {one for one in words if one[0] != "@"}.union(*(members(one) for one in words if one[0] == "@"))
