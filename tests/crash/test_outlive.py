"""Containers outlive whatever of ours ends; what is shared comes back by itself; the journal stays small."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from nebh.model.policy import ServiceState
from nebh.model.service import Update
from nebh.model.statement import Action, Outcome, Phase
from nebh.signing.wish import Wish
from nebh.testing.node import GOOD, Node
from nebh.testing.whole import check_whole, outcomes

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


def who(node: Node) -> list[tuple[str, int, int]]:
    return [(one["id"], one["pid"], one["started"]) for one in node.instances("serving")]


def release(node: Node) -> int:
    counter: int = node.instances("serving")[0]["counter"]
    return counter


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_containers_outlive_the_executor(node: Node, number: signal.Signals) -> None:
    before = who(node)
    status = node.end_executor(number)
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0), node.tail()
    assert node.page() == f"v{before[0][0].split('-')[1]}"
    node.start()
    assert who(node) == before
    check_whole(node, release(node))
    os.kill(before[0][1], signal.SIGKILL)  # it is adopted: its end is noticed
    node.until(lambda: who(node) and who(node)[0][1] not in (0, before[0][1]), "it was made anew")
    check_whole(node, release(node))


def test_containers_outlive_the_agent(node: Node) -> None:
    before = who(node)
    node.end_agent()
    assert node.page() == f"v{release(node)}"
    node.agent = node.fork("agent")
    assert who(node) == before
    check_whole(node, release(node))


def test_sigterm_in_the_middle_of_an_update_leaves_it_to_the_next(node: Node) -> None:
    counter = node.publish_release(update=Update(bake=3000, checks=(GOOD,), drain=500))
    nonce = node.assign(counter)
    node.until(lambda: any(one["state"] == "CHECKING" for one in node.status()["transactions"]), "it bakes")
    assert node.end_executor(signal.SIGTERM) == 0
    assert node.page() == f"v{counter}"
    assert "Traceback" not in node.log.read_text()
    node.start()
    check_whole(node, counter)
    assert outcomes(node, nonce)[-1] is Outcome.COMMITTED


@pytest.mark.parametrize("program", ["haproxy", "dnsmasq"])
def test_a_killed_helper_is_back(node: Node, program: str) -> None:
    before = who(node)
    pids = helpers(node, program)
    assert pids
    for pid in pids:
        with_it_gone(pid)
    node.until(lambda: helpers(node, program) and not helpers(node, program) & pids, f"{program} is back")
    node.until(lambda: node.page() == f"v{release(node)}", "the service answers")
    check_whole(node, release(node))
    assert who(node) == before


def helpers(node: Node, program: str) -> set[int]:
    """Return the pids of a program of this node."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if line.split(b"\0")[0].endswith(program.encode()) and str(node.folder).encode() + b"/" in line:
            found.add(int(path.parent.name))
    return found


def with_it_gone(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_a_killed_monitor_means_a_new_instance(node: Node) -> None:
    (before,) = who(node)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0") if path.exists() else [b""]
        if words[0].endswith(b"conmon") and before[0].encode() in words:
            os.kill(int(path.parent.name), signal.SIGKILL)
    node.until(lambda: who(node) and who(node)[0][1] not in (0, before[1]), "it was made anew")
    check_whole(node, release(node))


def test_scale_restart_stop_start_remove(node: Node) -> None:
    counter = release(node)
    node.assign(counter, replicas=3)
    check_whole(node, counter, replicas=3)
    node.end_executor()
    node.start()
    check_whole(node, counter, replicas=3)
    node.assign(counter, replicas=1)
    check_whole(node, counter)
    (before,) = who(node)
    nonce = node.assign(counter, phase=Phase.RESTART)
    node.settle()
    assert outcomes(node, nonce)[-1] is Outcome.COMMITTED
    assert who(node)[0][0] != before[0]
    check_whole(node, counter)
    for state in (ServiceState.STOPPED, ServiceState.RUNNING):
        node.sign(Wish(policies=(node.next_policy(state=state.value),)))
        node.submit("hint")
        node.until(lambda s=state: bool(node.instances("serving")) == (s is ServiceState.RUNNING), f"it is {state}")
        node.settle()
    check_whole(node, counter)
    nonce = node.order(Action.REMOVE)
    node.until(lambda: Outcome.REMOVED in outcomes(node, nonce), "it is removed")
    node.settle()
    assert node.instances() == []
    assert not list(node.layout.bundles.iterdir())
    node.until(lambda: not list(node.layout.trees.iterdir()), "nothing of it is kept")
