"""The node's scrub: what decayed is fetched anew through the agent, or said to be lost; the node says both."""

from __future__ import annotations

from nebh.executor.scrub import Scrubber


def names_of(bench) -> set[str]:
    return {event.kind for event in bench.executor.context.outbox.events_after(0)}


def decay(context, digest: str) -> None:
    (path,) = context.store.objects.glob(f"{digest[:2]}/{digest}.*")
    mode = path.stat().st_mode & 0o777
    path.chmod(0o644)
    path.write_bytes(b"?" * path.stat().st_size)
    path.chmod(mode)


def test_a_decayed_object_is_fetched_anew(bench):
    context = bench.executor.context
    bench.deploy(1)
    digest = next(one.name[:64] for one in context.store.objects.glob("*/*"))
    assert Scrubber(context, rate=0).scrub() == (0, 0)
    decay(context, digest)
    assert Scrubber(context, rate=0).scrub() == (1, 1)
    assert "object.mended" in names_of(bench)
    assert Scrubber(context, rate=0).scrub() == (0, 0)


def test_what_cannot_be_fetched_is_said(bench):
    context = bench.executor.context
    bench.deploy(1)
    digest = next(one.name[:64] for one in context.store.objects.glob("*/*"))
    bench.agent.bytes.pop(digest)
    decay(context, digest)
    assert Scrubber(context, rate=0).scrub() == (1, 0)
    assert "object.damaged" in names_of(bench)
