"""Objects on their way to the executor: patched, from neighbours and mirrors first, never wrong, going on where a source
broke off. Sources are real (`Sharing` over HTTP) but for those that break."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.agent import delivery
from nebh.agent.delivery import SMALL, Delivery, Held
from nebh.agent.sharing import Sharing
from nebh.agent.sources import MirrorSource, Sources, parse_mirror
from nebh.host.throttle import Throttle
from nebh.images.delta import make_patch
from nebh.images.delta_pack import Packed
from nebh.images.store import NodeStore
from nebh.model.errors import BadInput, NebhError, NotFound, Unreachable


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def item(data: bytes) -> tuple[str, int]:
    return sha(data), len(data)


@pytest.fixture
def make_node(tmp_path):
    """Return a maker of nodes: contents -> (what it holds, the address where it shares it)."""
    shares: list[Sharing] = []

    def make(*contents: bytes) -> tuple[Held, str]:
        root = tmp_path / f"node{len(shares)}"
        store = NodeStore(root)
        for data in contents:
            store.put(sha(data), len(data), [data], mode=0o755)
        shares.append(Sharing(Held(root), "127.0.0.1:0"))
        return Held(root), f"http://127.0.0.1:{shares[-1].port}"

    yield make
    for one in shares:
        one.close()


class Controller:
    """Stands for the controller: whole objects, patches; counts what it was asked for. breaks: cuts large ones."""

    def __init__(self, *contents: bytes, patches: tuple[Packed, ...] = (), breaks: int = 0) -> None:
        self.known = {sha(data): data for data in contents}
        self.made, self.breaks = patches, breaks
        self.asked: list[str] = []

    def patches(self, digests: tuple[str, ...]) -> Iterator[Packed]:
        return (one for one in self.made if one.digest in digests)

    def objects(self, items, take) -> None:
        for digest, _ in items:
            self.asked.append(digest)
            if digest not in self.known:
                raise NotFound("no such object")
            take(iter([self.known[digest]]))

    def rest(self, one, offset: int) -> Iterator[bytes]:
        self.asked.append(f"{one[0]} {offset}")
        if one[0] not in self.known:
            raise NotFound("no such object")
        data = self.known[one[0]][offset:]
        if self.breaks:
            self.breaks -= 1
            yield data[: len(data) // 2]
            raise Unreachable("cut")
        yield from (data[at : at + 100_000] for at in range(0, len(data), 100_000))


def deliver(items, sources, *, patches=None, held=None) -> list[bytes]:
    got: list[tuple[tuple[str, int], bytes]] = []
    one = Delivery(items, lambda item, chunks: got.append((item, b"".join(chunks))), held=held, throttle=Throttle())
    try:
        one.run(patches or Controller(), sources)
    finally:
        assert [item for item, _ in got] == list(items[: len(got)])
        assert all(sha(data) == digest for (digest, _), data in got)
    return [data for _, data in got]


LARGE = random.Random(1).randbytes(SMALL * 4 + 5)
CONTENTS = (b"one", LARGE, b"", b"two", LARGE[::-1], b"three")
ITEMS = tuple(map(item, CONTENTS))


def test_everything_comes_in_order_small_and_large():
    assert deliver(ITEMS, (Controller(*CONTENTS),)) == list(CONTENTS)


def test_a_neighbour_is_asked_first_and_the_controller_for_the_rest(make_node):
    _, url = make_node(b"one", LARGE)
    neighbour, controller = parse_mirror(url, pins=()), Controller(*CONTENTS)
    assert deliver(ITEMS, (neighbour, controller)) == list(CONTENTS)
    asked = {one.partition(" ")[0] for one in controller.asked}
    assert asked == {sha(data) for data in CONTENTS} - {sha(b"one"), sha(LARGE)}


def test_two_nodes_share_what_one_of_them_has(make_node):
    _, url = make_node(*CONTENTS[:2], *CONTENTS[3:])
    controller = Controller(b"")
    sources = Sources(controller, (), neighbours=(parse_mirror(url, pins=()),))
    got: list[bytes] = []
    wanted = tuple(one for one in ITEMS if one[1])
    sources.objects(wanted, lambda _, chunks: got.append(b"".join(chunks)))
    assert [item(data) for data in got] == list(wanted)
    assert controller.asked == []


def test_a_large_object_goes_on_where_a_source_broke_off():
    controller = Controller(LARGE, breaks=2)
    assert deliver((item(LARGE),), (controller,)) == [LARGE]
    half = len(LARGE) // 2
    assert controller.asked == [f"{sha(LARGE)} {at}" for at in (0, half, half + (len(LARGE) - half) // 2)]


def test_another_source_goes_on_with_it(make_node):
    _, url = make_node(LARGE)
    controller = Controller(LARGE, breaks=100)
    assert deliver((item(LARGE),), (controller, parse_mirror(url, pins=()))) == [LARGE]
    assert len(controller.asked) == delivery.TRIES


def test_a_patch_spares_the_object(make_node):
    old, new, other = LARGE, b"new" + LARGE, b"x" * 5000
    held, _ = make_node(old)
    good = Packed(sha(new), len(new), base=sha(old), patch=make_patch(old, new))
    controller = Controller(new, other, patches=(good,))
    assert deliver((item(new), item(other)), (controller,), patches=controller, held=held) == [new, other]
    assert controller.asked == [sha(other)]


@pytest.mark.parametrize("lie", ["other bytes", "noise", "no base", "size"])
def test_a_patch_that_does_not_fit_is_forgotten(make_node, lie):
    old, new = random.Random(2).randbytes(5000), random.Random(3).randbytes(5000)
    held, _ = make_node(old)
    patch = {"other bytes": make_patch(old, old), "noise": b"noise"}.get(lie, make_patch(old, new))
    base = "1" * 64 if lie == "no base" else sha(old)
    made = Packed(sha(new), 4999 if lie == "size" else 5000, base=base, patch=patch)
    controller = Controller(new, patches=(made,))
    assert deliver((item(new),), (controller,), patches=controller, held=held) == [new]
    assert controller.asked == [sha(new)]


class Liar(Controller):
    def objects(self, items, take) -> None:
        for _, size in items:
            take(iter([b"x" * size]))

    def rest(self, one, offset: int) -> Iterator[bytes]:
        yield b"x" * (one[1] - offset)


def test_a_lying_source_is_replaced_before_anything_is_handed_on():
    small = (b"one", b"two")
    assert deliver(tuple(map(item, small)), (Liar(), Controller(*small))) == list(small)


def test_a_large_lie_is_an_error_and_its_source_is_left_out(make_node, monkeypatch):
    _, url = make_node(LARGE)
    liar = parse_mirror(url, pins=())
    wrong = LARGE[:-1] + b"?"
    monkeypatch.setattr(MirrorSource, "rest", lambda _, one, offset: iter([wrong[offset:]]))
    sources = Sources(Controller(LARGE), (liar,))
    got: list[bytes] = []
    with pytest.raises(BadInput):
        sources.objects((item(LARGE),), lambda _, chunks: got.append(b"".join(chunks)))
    assert got == []
    sources.objects((item(LARGE),), lambda _, chunks: got.append(b"".join(chunks)))
    assert got == [LARGE]


def test_nothing_anywhere_is_said(make_node):
    _, url = make_node()
    for wanted in (item(b"one"), item(LARGE)):
        with pytest.raises(NotFound):
            deliver((wanted,), (parse_mirror(url, pins=()), Controller()))


def test_what_is_handed_on_in_vain_is_not_fetched_again():
    controller = Controller(b"one")

    def gone(_, chunks) -> None:
        list(chunks)
        raise Unreachable("the executor hung up")

    with pytest.raises(Unreachable, match="hung up"):
        Delivery((item(b"one"),), gone, held=None, throttle=Throttle()).run(controller, (controller, controller))
    assert len(controller.asked) == 1


@pytest.mark.parametrize(
    "target", ["/", "/objects/", f"/objects/aa/{'b' * 64}", "/objects/../manifests/x", f"/objects/{'a' * 64}"]
)
def test_sharing_gives_objects_and_nothing_else(make_node, target):
    held, url = make_node(b"one")
    assert held.open("../../etc/passwd") is None
    with pytest.raises((NotFound, NebhError)):
        b"".join(parse_mirror(url, pins=())._get(target, 100))
    assert b"".join(parse_mirror(url, pins=()).rest(item(b"one"), 1)) == b"ne"


def test_manifests_are_held_too(tmp_path: Path):
    (tmp_path / "manifests").mkdir()
    (tmp_path / "objects").mkdir()
    (tmp_path / "manifests" / f"{sha(b'm')}.json").write_bytes(b"m")
    assert Held(tmp_path).open(sha(b"m")) is not None


def test_signed_mirrors_are_asked_before_the_controller(make_node):
    _, url = make_node(b"one")
    controller = Controller(b"two")
    sources = Sources(controller, ())
    got: list[bytes] = []
    wanted = (item(b"one"), item(b"two"))
    sources.objects(wanted, lambda _, chunks: got.append(b"".join(chunks)), signed=("ftp://no", "http://[", url))
    assert got == [b"one", b"two"]
    assert controller.asked == [sha(b"two")]
    assert sources.metadata("mirror-2", "metadata/timestamp.json", 100, signed=("ftp://no", "http://[", url)) is None
    for source in ("mirror-0", "mirror-1", "mirror-3"):
        with pytest.raises(Unreachable):
            sources.metadata(source, "metadata/timestamp.json", 100, signed=("ftp://no", "http://[", url))
