"""The verifier as a real child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nebh.model.errors import Broken, Refused, Unreachable
from nebh.signing.trusted_set import read_trusted_set
from nebh.signing.verify_child import Verification, Verifiers, verify_in_child

SRC = os.pathsep.join(filter(None, sys.path))


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


def children() -> list[int]:
    """Return the verifiers that this thread started; other tests in this process may have children too."""
    pids = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return [int(pid) for pid in pids if b"nebh.programs.verifier" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_the_next_verifier_waits_and_finds_the_same(cloud, request_of):
    verifiers = Verifiers()
    found = verifiers.verify(request_of(), cloud.fetch, another=True)
    (waiting,) = children()
    assert verifiers.verify(request_of(), cloud.fetch) == found
    assert not children(), "it was used, and nothing waits any more"
    assert not Path(f"/proc/{waiting}").exists()


def test_each_verifies_once(cloud, request_of):
    verifiers = Verifiers()
    seen = set()
    for _ in range(3):
        verifiers.verify(request_of(), cloud.fetch, another=True)
        seen.update(children())
    verifiers.close()
    assert len(seen) == 3
    assert not children()


def test_one_that_nobody_needs_is_ended(cloud, request_of):
    verifiers = Verifiers(patience=0.2)
    verifiers.expect()
    assert len(children()) == 1
    end = time.monotonic() + 20
    while children():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_one_that_died_waiting_is_replaced(cloud, request_of):
    verifiers = Verifiers()
    verifiers.expect()
    (waiting,) = children()
    os.kill(waiting, signal.SIGKILL)
    os.waitid(os.P_PID, waiting, os.WEXITED | os.WNOWAIT)
    assert verifiers.verify(request_of(), cloud.fetch) == read_trusted_set(cloud.store(), source="c")


def test_one_whose_parent_died_ends_by_itself(tmp_path):
    code = (
        "import os; from nebh.signing.verify_child import Child; c = Child(); print(c._process.pid, flush=True); "
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": SRC}
    )
    pid, end = int(done.stdout), time.monotonic() + 20
    while Path(f"/proc/{pid}/cmdline").exists() and b"verifier" in Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.02)


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
