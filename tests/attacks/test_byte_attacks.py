"""Wrong bytes: a controller that swaps what a digest means, an agent that answers with anything but what was asked."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nebh.client.frame_channel import FrameChannel, Head
from nebh.model.errors import NebhError
from nebh.model.image import ImageRef
from nebh.model.statement import Outcome
from nebh.testing.attacks import Attacker
from nebh.testing.middlemen import HostileAgent

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(600)]
MIB = 1 << 20


def new_release(attacker: Attacker) -> tuple[int, ImageRef]:
    """Publish a release whose image no node has."""
    ref = attacker.upload_image(f"page {secrets.token_hex(8)}")
    return attacker.publish_release(images={"main": ref}), ref


def page_of(attacker: Attacker, *, newest: bool = True) -> Path:
    """The controller's object of the page that `new_release` made: its newest small one."""
    found = [one for one in (attacker.layout.controller / "objects").glob("*/*") if one.stat().st_size < 100]
    return max(found, key=lambda one: one.stat().st_mtime_ns)


@pytest.mark.parametrize("what", ["object", "manifest"])
@pytest.mark.parametrize("how", ["swapped", "cut", "longer", "gone"])
def test_what_a_digest_means_cannot_be_swapped(attacker: Attacker, what: str, how: str) -> None:
    counter, ref = new_release(attacker)
    objects = attacker.layout.controller / "objects"
    path = page_of(attacker) if what == "object" else objects / ref.manifest[:2] / ref.manifest
    good = path.read_bytes()
    bad = {"swapped": bytes(byte ^ 1 for byte in good), "cut": good[:-1], "longer": good + b"x" * MIB, "gone": b""}[how]
    owner = path.stat()
    with attacker.untouched(event="transaction."):
        path.unlink()
        if how != "gone":
            path.write_bytes(bad)
            os.chown(path, owner.st_uid, owner.st_gid)
        receipt = attacker.run(counter)
        assert receipt.outcome in (Outcome.REFUSED, Outcome.FAILED), receipt
        assert receipt.detail
    path.unlink(missing_ok=True)
    path.write_bytes(good)
    os.chown(path, owner.st_uid, owner.st_gid)
    assert attacker.run(counter).outcome is Outcome.COMMITTED, "the same bytes are accepted once the swap is undone"


def _pieces(channel: FrameChannel, digest: str, chunks: Iterator[bytes], *, last: bool = True) -> None:
    for chunk in chunks:
        channel.send({"digest": digest, "last": False}, chunk)
    if last:
        channel.send({"digest": digest, "last": True})


class Liar:
    """Ways to answer a request for objects. sent: bytes that the executor let go."""

    def __init__(self, how: str) -> None:
        self._how = how
        self.sent = 0

    def __call__(self, channel: FrameChannel, head: Head) -> bool:
        """See AgentLie."""
        if head.get("op") != "objects":
            return False
        try:
            for digest, size in head["items"]:
                self._answer(channel, digest, size)
        except NebhError:
            pass  # the executor hung up
        return True

    def _answer(self, channel: FrameChannel, digest: str, size: int) -> None:
        ways: dict[str, Callable[[], Iterator[bytes]]] = {
            "wrong": lambda: iter((secrets.token_bytes(size),) if size <= MIB else ()),
            "truncated": lambda: iter((b"x" * max(0, min(size, MIB) - 1),)),
            "over-long": lambda: iter((b"x" * min(size, MIB), b"y" * MIB)),
            "endless": self._endless,
            "empty": lambda: iter(()),
        }
        if self._how == "another digest":
            channel.send({"digest": "0" * 64, "last": True}, b"x")
        elif self._how == "an error":
            channel.send({"error": "no\x1b[31m", "hint": "", "kind": "Refused", "rule": "N99"})
        elif self._how == "hang up":
            channel.send({"digest": digest, "last": False}, b"x")
            channel.shutdown()
        elif self._how == "nonsense":
            channel.send({"digest": [digest], "last": "perhaps"}, b"x")
        else:
            _pieces(channel, digest, ways[self._how]())

    def _endless(self) -> Iterator[bytes]:
        while True:
            self.sent += MIB
            yield b"\0" * MIB


HOWS = ("wrong", "truncated", "over-long", "endless", "empty", "another digest", "an error", "hang up", "nonsense")


def test_an_agent_that_lies_about_objects_gets_nothing_in(attacker: Attacker) -> None:
    counter, ref = new_release(attacker)
    for how in HOWS:
        liar = Liar(how)
        with attacker.untouched(event="transaction."), HostileAgent(attacker.layout.agent_socket, liar) as agent:
            receipt = attacker.run(counter)
            assert receipt.outcome in (Outcome.REFUSED, Outcome.FAILED), (how, receipt)
            assert agent.lies, how
        assert liar.sent < 64 * MIB, "the executor stops at the size that was signed"
        assert not (attacker.layout.manifests / f"{ref.manifest}.json").exists(), how
        assert not list(attacker.layout.objects.glob("**/.new-*")), "nothing half-done stays"
    assert attacker.run(counter).outcome is Outcome.COMMITTED, "an honest agent's bytes are taken"


def _metadata_lie(answer: Callable[[FrameChannel, int], None]) -> Callable[[FrameChannel, Head], bool]:
    def lie(channel: FrameChannel, head: Head) -> bool:
        if head.get("op") != "metadata":
            return False
        try:
            answer(channel, int(head["max"]))
        except NebhError:
            pass
        return True

    return lie


def _never_ending(channel: FrameChannel, limit: int) -> None:
    channel.send({"ok": True, "size": limit}, b"")
    for _ in range(1000):
        channel.send({"ok": True}, b"{" * MIB)


def _too_long(channel: FrameChannel, limit: int) -> None:
    channel.send({"ok": True, "size": limit + 1}, b"x")


def _deep(channel: FrameChannel, limit: int) -> None:
    data = (b"[" * 200_000)[:limit]
    channel.send({"ok": True, "size": len(data)}, data)


def _no_size(channel: FrameChannel, _: int) -> None:
    channel.send({"ok": True, "size": "many"}, b"x")


@pytest.mark.parametrize("answer", [_never_ending, _too_long, _deep, _no_size], ids=lambda one: one.__name__[1:])
def test_an_agent_that_lies_about_metadata_gets_nothing_in(
    attacker: Attacker, answer: Callable[[FrameChannel, int], None]
) -> None:
    counter = attacker.publish_release()
    with (
        attacker.untouched(event="metadata."),
        HostileAgent(attacker.layout.agent_socket, _metadata_lie(answer)) as agent,
    ):
        receipt = attacker.run(counter)
        assert receipt.outcome is Outcome.REFUSED, receipt
        assert agent.lies
    assert attacker.run(counter).outcome is Outcome.COMMITTED


def test_an_agent_that_lies_about_probes_can_only_hold_back(attacker: Attacker) -> None:
    """It makes a new release fail its checks: the node goes back, what ran runs on."""

    def lie(channel: FrameChannel, head: Head) -> bool:
        if head.get("op") != "probe":
            return False
        channel.send({"ok": "yes", "detail": "\x1b[2J" + "x" * 5000})
        return True

    counter = attacker.publish_release(health=quick(attacker))
    with attacker.untouched(event="transaction."), HostileAgent(attacker.layout.agent_socket, lie):
        receipt = attacker.run(counter)
        assert receipt.outcome in (Outcome.ROLLED_BACK, Outcome.FAILED), receipt
        assert len(receipt.detail) < 2000
    assert attacker.run(counter).outcome is Outcome.COMMITTED


def quick(attacker: Attacker) -> object:
    """The health checks of the newest release, given up after 3 s."""
    releases = attacker.state().trusted.releases
    newest = max((one for one in releases.values() if one.service == "web"), key=lambda one: one.counter)
    return dataclasses.replace(newest.health, startup_timeout=3000)


def test_no_program_left_a_traceback(attacker: Attacker) -> None:
    for log in attacker.layout.state.glob("*.log"):
        assert "Traceback" not in log.read_text(errors="replace"), attacker.cloud.say_logs()
