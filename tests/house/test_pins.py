"""What is installed is decided by hashes in this folder, wherever it is fetched from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2]


def requirements(kind: str) -> dict[str, str]:
    text = (HOUSE / "requirements" / f"{kind}.txt").read_text().replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return {re.split(r"[=\s]", line, maxsplit=1)[0].lower(): line for line in lines if line}


@pytest.mark.parametrize("kind", ["runtime", "dev", "acme"])
def test_every_requirement_is_one_version_with_hashes(kind: str) -> None:
    for line in requirements(kind).values():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==\S+( ; [^-]+)?(\s+--hash=sha256:[0-9a-f]{64})+", line), line[:80]


def test_tests_run_what_is_installed() -> None:
    runtime, dev = requirements("runtime"), requirements("dev")
    assert {name: dev.get(name) for name in runtime} == runtime


def test_every_declared_dependency_is_pinned() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=]", text)[0].lower() for text in project["dependencies"]}
    listed = {
        re.split(r"[<>=]", line)[0].lower() for line in (HOUSE / "requirements" / "runtime.in").read_text().split()
    }
    assert declared == listed
    assert declared <= set(requirements("runtime"))
