"""A real SIGKILL, and a power cut, in the middle of a rotation: the next executor finishes it, once told, with no hand."""

from __future__ import annotations

import signal

import pytest

from nebh.model.statement import Outcome
from nebh.testing.node import Node
from nebh.testing.node_secrets import newest_version, read_token, rotating
from nebh.testing.whole import outcomes

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

POINTS = ("rotate.give.before", "rotate.give.after", "rotate.signal.before", "rotate.signal.after")


def found(node: Node) -> bytes:
    """Return what the instance sees, nothing while it is not up again."""
    try:
        return read_token(node)
    except (OSError, ValueError):
        return b""


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("power", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_rotation_cut_short_is_finished(node: Node, point: str, power: bool) -> None:
    node.end_executor()
    node.start(fault=point)
    node.settle()
    counter, nonce = rotating(node)
    assert node.wait_executor(patience=120) == -signal.SIGKILL, node.tail()
    if power:
        node.power_cut()
        node.power_on()
    else:
        node.start()
    node.settle()
    wanted = f"value {newest_version(node)}".encode()
    node.until(lambda: found(node) == wanted, "the newest value is in place")
    if not power:  # after a boot it is there from the start: nothing was rotated
        node.until(lambda: outcomes(node, nonce) == [Outcome.ROTATED], "it is receipted, once")
    (one,) = node.instances("serving")
    assert one["counter"] == counter
    node.until(lambda: node.page() == f"v{counter}", "it serves")
