"""Garbage collection takes exactly what nobody keeps."""

from hypothesis import given
from hypothesis import strategies as st

from nebh.model.image import EntryType, TreeEntry, TreeManifest
from nebh.planning.retention import (
    ReleaseFacts,
    ServiceFacts,
    find_unneeded,
    find_unneeded_objects,
    keep_manifests,
    keep_releases,
    objects_of,
)


def facts(counter: int, committed: int = 0, epoch: int = 1) -> ReleaseFacts:
    return ReleaseFacts(epoch=epoch, counter=counter, committed_at=committed)


def test_the_last_n_committed_pinned_and_running_stay() -> None:
    rows = (*(facts(n, committed=n * 10) for n in range(1, 8)), facts(8), facts(9))
    kept = keep_releases(rows, running=frozenset({(1, 9)}), pins=frozenset({2, 99}), retention=3)
    assert kept == {(1, 7), (1, 6), (1, 5), (1, 2), (1, 9)}


def test_after_going_back_the_time_of_commit_counts() -> None:
    rows = (facts(1, 10), facts(2, 20), facts(3, 15))
    assert keep_releases(rows, running=frozenset(), pins=frozenset(), retention=2) == {(1, 2), (1, 3)}


def test_pins_are_of_the_epoch() -> None:
    rows = (facts(1, epoch=1), facts(1, epoch=2))
    assert keep_releases(rows, running=frozenset(), pins=frozenset({1}), retention=1) == {(2, 1)}
    assert keep_releases(rows, running=frozenset(), pins=frozenset({1}), retention=1, epoch=1) == {(1, 1)}


@given(
    st.dictionaries(st.integers(1, 20), st.integers(0, 100), max_size=12),
    st.integers(1, 5),
    st.frozensets(st.integers(1, 20), max_size=3),
)
def test_safe_and_live(commits: dict[int, int], retention: int, pins: frozenset[int]) -> None:
    rows = tuple(facts(n, at) for n, at in commits.items())
    running = frozenset({(1, 3)})
    kept = keep_releases(rows, running=running, pins=pins, retention=retention)
    assert running <= kept
    assert {(1, n) for n in pins & commits.keys()} <= kept
    newest = sorted((at, n) for n, at in commits.items() if at)[-retention:]
    assert {(1, n) for _, n in newest} <= kept
    assert len(kept) <= retention + len(pins) + 1


def tree(*files: tuple[str, str, int]) -> TreeManifest:
    return TreeManifest(
        format=1,
        entries=tuple(
            TreeEntry(path=path, type=EntryType.FILE, mode=0o644, size=size, sha256=sha) for path, sha, size in files
        ),
    )


def test_objects_shared_by_a_kept_tree_stay() -> None:
    old, new = tree(("a", "1", 5), ("b", "2", 7)), tree(("a", "1", 5), ("e", "0", 0))
    held = {("1", 0o644): 5, ("2", 0o644): 7, ("3", 0o755): 11}
    assert objects_of(new) == {("1", 0o644)}
    assert find_unneeded_objects(held, kept=[new]) == ((("2", 0o644), ("3", 0o755)), 18)
    assert find_unneeded_objects(held, kept=[old, new]) == ((("3", 0o755),), 11)
    assert find_unneeded(["m1", "m2"], kept={"m2"}) == ("m1",)


def test_bundles_stay_as_long_as_their_releases() -> None:
    releases = tuple(facts(counter, committed=counter) for counter in range(1, 6))
    service = ServiceFacts(
        releases=releases,
        retention=2,
        manifests={(1, counter): "same" for counter in range(1, 6)},
        bundles={(1, counter): f"b{counter}" for counter in range(1, 6)},
        pins=frozenset({1}),
    )
    assert keep_manifests([service]) == {"same", "b1", "b4", "b5"}
