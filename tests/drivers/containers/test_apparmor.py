"""The AppArmor profile: its text is one that the parser takes, and a kernel without AppArmor is no trouble."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.drivers.containers.apparmor import NAME, PROFILE, ensure_profile, is_loaded
from nebh.drivers.containers.oci_config import render_config
from nebh.testing.container_rig import sample_policy, sample_release
from nebh.testing.docs import SAMPLE_FACTS


def test_the_parser_takes_it(tmp_path: Path) -> None:
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin")
    if parser is None:
        pytest.skip("apparmor_parser (Debian: apparmor) is not installed")
    path = tmp_path / "profile"
    path.write_text(PROFILE)
    words = [parser, "--skip-kernel-load", "--skip-cache", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_container_gets_it_where_it_is_loaded() -> None:
    def profile(facts_name: str) -> object:
        facts = replace(SAMPLE_FACTS, apparmor=facts_name)
        config = json.loads(render_config(sample_policy(), sample_release("/bin/app"), facts))
        return config["process"].get("apparmorProfile")

    assert profile(NAME) == NAME
    assert profile("") is None


def test_only_an_enforced_profile_counts() -> None:
    assert is_loaded(f"other (enforce)\n{NAME} (enforce)\n")
    assert not is_loaded(f"{NAME} (complain)\nmy-{NAME} (enforce)\n")
    assert not is_loaded("")


@pytest.mark.skipif(Path("/sys/module/apparmor").exists(), reason="this kernel has AppArmor")
def test_a_kernel_without_it_is_no_trouble(tmp_path: Path) -> None:
    assert ensure_profile(tmp_path) == ""
    assert not list(tmp_path.iterdir())
