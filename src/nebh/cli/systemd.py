"""Handing the programs to systemd: write units, reload, enable. Safe to repeat."""

from __future__ import annotations

import os
from pathlib import Path

from nebh.cli.programs import NAMES, words_of
from nebh.cli.units import PARENT, UNITS, UnitFacts, render_units
from nebh.host.files import read_bounded, write_atomic
from nebh.host.layout import Layout
from nebh.host.program_tree import ProgramTree, own_tree, unreachable_for_others
from nebh.host.run import Command, run
from nebh.model.errors import BadInput
from nebh.model.local import LocalConfig

__all__ = ["PARENT", "facts_of", "install", "is_running", "remove"]
FOLDER = Path("/etc/systemd/system")
_RUNNING = Path("/run/systemd/system")


def is_running() -> bool:
    """Tell whether systemd is this machine's service manager."""
    return _RUNNING.is_dir()


def facts_of(layout: Layout, config: LocalConfig, tree: ProgramTree) -> UnitFacts:
    """Return what the units say. Raises BadInput for folders that units cannot have."""
    if layout.run.parts[:2] != ("/", "run") or len(layout.run.parts) < 3:
        raise BadInput(f"cannot write units: {layout.run} is not below /run", hint="leave --run out, or --foreground")
    blocked = next((one for one in map(unreachable_for_others, (tree.prefix, *tree.paths)) if one), None)
    if blocked is not None:
        raise BadInput(f"cannot write units: other users cannot pass {blocked}", hint="`make install`, then `nebh up`")
    installed = tree.prefix.parent / "bin"
    commands: dict[str, tuple[str, ...]] = {}
    whole = all(os.access(installed / name, os.X_OK) for name in NAMES)
    for name in NAMES:
        program = (str(installed / name),) if whole else tree.argv(name.removeprefix("nebh-"))
        commands[name] = (*program, *words_of(name, layout, config))
    return UnitFacts(
        state=str(layout.state),
        run=str(layout.run),
        commands=commands,
        env={"PYTHONDONTWRITEBYTECODE": "1", "NEBH_TREE": _code_of(tree)} if whole else tree.env,
        agent_user=config.agent_user,
        controller_user=config.controller_user,
    )


def _code_of(tree: ProgramTree) -> str:
    """Name the code that runs: an upgrade changes it, and with it the units, so that the programs are started anew."""
    return " ".join(path.resolve().name for path in (tree.paths[0], tree.prefix))


def install(layout: Layout, config: LocalConfig, *, folder: Path = FOLDER) -> tuple[str, ...]:
    """Write the units, have systemd read them, start them now and at every boot. Returns what was done, for people."""
    changed: list[str] = []
    for name, text in render_units(facts_of(layout, config, own_tree())).items():
        path = folder / name
        if not path.exists() or read_bounded(path, limit=1 << 20) != text.encode():
            write_atomic(path, text.encode())
            changed.append(name)
    for words in steps(tuple(changed)):
        systemctl(*words)
    return tuple(f"{folder / name} written" for name in changed) or ("the units are as they should be",)


def steps(changed: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return what systemctl has to do after these units were written: every program is started once, and anew when
    its unit says something else now. The folders of the containers stay as they are."""
    services = tuple(name for name in UNITS if name.endswith(".service"))
    anew = tuple(name for name in services if name in changed and name != "nebh-containers.service")
    restart = (("restart", *anew),) if anew else ()
    return (
        ("daemon-reload",),
        ("enable", *services),
        ("start", "nebh-containers.service"),
        *restart,
        ("start", *services),
    )


def remove(*, folder: Path = FOLDER) -> tuple[str, ...]:
    """Stop the units and take them away, the holder of the containers last. Returns the names of those that were."""
    there = [name for name in reversed(UNITS) if (folder / name).exists()]
    if there and is_running():
        for name in there:
            if name.endswith(".service"):
                systemctl("disable", "--now", name, accept=(0, 1, 5))
        systemctl("stop", "nebh.slice", accept=(0, 1, 5))
    for name in there:
        (folder / name).unlink(missing_ok=True)
    if there and is_running():
        systemctl("daemon-reload")
        systemctl("reset-failed", accept=(0, 1))
    return tuple(there)


def systemctl(*words: str, accept: tuple[int, ...] = (0,)) -> None:
    """Run systemctl. Raises CommandFailed."""
    run(Command(argv=("systemctl", *words), timeout=900.0, accept=accept))
