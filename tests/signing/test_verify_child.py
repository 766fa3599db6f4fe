"""The verifier as a real child process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nebh.model.errors import Broken, Refused, Unreachable
from nebh.signing.trusted_set import read_trusted_set
from nebh.signing.verify_child import Verification, verify_in_child


@pytest.fixture
def request_of(cloud, tmp_path):
    root = tmp_path / "root.json"
    root.write_bytes(cloud.genesis.root)

    def make(**changes) -> Verification:
        fields = {"directory": tmp_path / "t", "root": root, "cluster_id": cloud.genesis.cluster_id, "source": "c"}
        return Verification(**{**fields, **changes})

    return make


def test_the_child_finds_what_the_store_finds(cloud, request_of):
    found = verify_in_child(request_of(), cloud.fetch)
    assert found == read_trusted_set(cloud.store(), source="c")


def test_a_refusal_comes_back_with_its_rule_and_hint(cloud, request_of):
    with pytest.raises(Refused) as refusal:
        verify_in_child(request_of(cluster_id="f" * 32), cloud.fetch)
    assert refusal.value.rule == "N0"
    assert refusal.value.hint


def test_an_error_of_the_fetching_side_comes_back(request_of):
    def fetch(name, limit):
        raise Unreachable("cannot reach the agent", hint="start it")

    with pytest.raises(Unreachable) as error:
        verify_in_child(request_of(), fetch)
    assert error.value.hint == "start it"


def test_an_over_long_answer_is_refused(cloud, request_of):
    def fetch(name, limit):
        return b"x" * (limit + 1) if name.endswith("timestamp.json") else cloud.fetch(name, limit)

    with pytest.raises(Refused):
        verify_in_child(request_of(), fetch)


def test_a_verifier_that_takes_too_long_is_killed(cloud, request_of):
    def fetch(name, limit):
        import time

        time.sleep(0.6)
        return cloud.fetch(name, limit)

    with pytest.raises(Broken):
        verify_in_child(request_of(), fetch, timeout=0.5)


def test_the_parent_imports_no_tuf_and_the_child_no_urllib3():
    code = "import sys, nebh.signing.verify_child; print(sorted(m.split('.')[0] for m in sys.modules))"
    heavy = {"tuf", "securesystemslib", "cryptography", "urllib3"}
    src = str(Path(__file__).parents[2] / "src")
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": src}, capture_output=True, text=True, check=True
    )
    assert not heavy & set(eval(out.stdout))
    code = "import sys, nebh.signing.trust_store; print('urllib3' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": src}, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "False"


def test_statements_import_no_tuf():
    code = "import sys, nebh.signing.statements, nebh.signing.node_keys; print('tuf' in sys.modules, 'securesystemslib' in sys.modules)"
    src = str(Path(__file__).parents[2] / "src")
    out = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": src}, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "False False"
