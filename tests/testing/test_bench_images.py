"""What the parts of the bench about images count, and the table of sizes that docs/images.md shows."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from nebh.host.channels import Listener, connect_unix
from nebh.testing.bench import cold_build, images, large_files, page
from nebh.testing.bench.record import Record, computed, read_record, write_record
from nebh.testing.bench.sizes import BEGIN, END, fill_page, newest_sizes
from nebh.testing.bench.wire import Wire, shares
from nebh.testing.memory_groups import Peaks, forget_peak, peak
from nebh.testing.tiny_service import write_random

MIB = 1 << 20
SENT = 1 << 16  # what sockets hold that nobody reads yet


def judged(record: Record, folder: Path) -> dict[str, float]:
    """Return the figures by name, once what was written gives the same and the page shows them."""
    record.facts |= {"date": "2026-01-01", "load_before": {"pressure": 1.0}, "load_after": {"pressure": 2.0}}
    record.facts["calibration"] = {"ratio": 1.2}
    write_record(record, folder)
    found = read_record(folder / f"{record.name}.json")
    assert [computed(one, found.tables[one.table]) for one in found.figures] == found.figures == record.figures
    assert all(one.what in page._section(found, folder) for one in found.figures)
    return {one.name: one.value for one in found.figures}


def test_the_metadata_of_a_push_is_all_but_the_contents(tmp_path: Path) -> None:
    record = Record(name="images", title=images.TITLE)
    row = shares(sent=100 << 10, up=103 << 10, down=2 << 10, packs=(100 << 10, 4 << 10, 95 << 10))
    assert row["moved"] == sum(row[one] for one in ("contents", "manifest", "heads", "requests", "answers"))
    record.add("metadata", plain=400.0, **row)
    images._metadata_figures(record)
    values = judged(record, tmp_path)
    assert (values["first_heads"], values["first_requests"], values["first_answers"]) == (1, 3, 2)
    assert (values["metadata"], values["metadata_plain"]) == (0.09524, 0.025)
    assert [one.name for one in record.figures if not one.holds] == ["metadata"]
    with pytest.raises(AssertionError, match="its packs have 99"):
        shares(sent=100, up=103, down=2, packs=(99, 4, 90))


@pytest.mark.parametrize(("uid", "counted"), [(os.getuid(), (SENT, 3)), (os.getuid() + 1, (0, 0))])
def test_the_wire_hands_on_and_counts_its_own_user(tmp_path: Path, uid: int, counted: tuple[int, int]) -> None:
    path = tmp_path / "s"
    real = Listener(path, mode=0o600)
    with Wire(path, uid=uid) as wire:
        with connect_unix(path) as channel:
            channel.send(bytes(SENT))
            channel.finish()
            with real.accept() as server:
                assert len(server.receive(SENT, timeout=20.0)) == SENT
                assert server.receive_some(1, timeout=20.0) == b""
                server.send(b"yes")
            assert channel.receive(3, timeout=20.0) == b"yes"
        assert (wire.up, wire.down) == counted
    with connect_unix(path), real.accept():
        pass
    real.close()


def test_builds_are_compared_within_a_round_and_stand_alone_without_docker(tmp_path: Path) -> None:
    record = Record(name="building", title="x", facts={"docker": "20.10"})
    for number, pace in enumerate((1.0, 3.0, 2.0)):
        sizes = {"nebh_mib": 28.0, "docker_mib": 140.0, "base_mib": 100.0}
        record.add("fetched", round=number, nebh=5000 * pace, docker=20_000 * pace, **sizes)
    cold_build.add_figures(record)
    values = judged(record, tmp_path)
    assert (values["fetched_nebh"], values["fetched_ratio"], values["fetched_docker_mib"]) == (10_000, 0.25, 140)
    alone = Record(name="building", title="x", tables={"fetched": [{"nebh": 1.0, "nebh_mib": 2.0}]})
    cold_build.add_figures(alone)
    assert set(judged(alone, tmp_path)) == {"fetched_nebh", "fetched_nebh_mib"}


def test_a_peak_is_seen_though_the_memory_is_given_back() -> None:
    text = "import sys; held = bytearray(96 << 20); del held; print(flush=True); sys.stdin.read()"
    with subprocess.Popen((sys.executable, "-c", text), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with Peaks(lambda: (process.pid, 0)) as seen:
            process.stdout.readline()
            time.sleep(0.1)
        assert 96 * MIB < seen.largest == seen.together < 160 * MIB
        forget_peak(process.pid)
        assert peak(process.pid) < 64 * MIB
        process.communicate(b"")


def test_an_image_of_any_size_has_the_same_bound(tmp_path: Path) -> None:
    record = Record(name="images", title=images.TITLE)
    for image, factor in (("small", 1.0), ("large", 2.0), ("patched", 1.1)):
        record.add("peaks", image=image, mib=64, **dict.fromkeys(large_files.WHO, 100 * factor))
    record.add(
        "large",
        **{f"{who}_{one}": 100.0 * (1 + (one == "large")) for who in large_files.WHO for one in ("small", "large")},
    )
    record.add("group", limit=512, most=512.0, killed=1)
    large_files.add_figures(record)
    values = judged(record, tmp_path)
    assert (values["peak_node_large"], values["peak_node_growth"]) == (200, 2)
    missed = {one.name for one in record.figures if not one.holds}
    assert {"peak_node_growth", "peak_publisher_growth", "group_killed"} <= missed


def a_building(folder: Path, *, quick: bool = False) -> None:
    record = Record(name="building", title="x", facts={"date": "2026-01-02", "quick": quick})
    record.add("examples", example="nginx", files=22, size=9.5, whole=30.0)
    record.add("examples", example="static", files=7, size=667 / 1024, whole=667 / 1024)
    write_record(record, folder)


def test_the_sizes_on_the_page_are_those_of_the_newest_record(tmp_path: Path) -> None:
    text = f"before\n\n{BEGIN}old\n{END}\nafter\n"
    assert newest_sizes(tmp_path) is None
    assert fill_page(text, tmp_path) == text
    a_building(tmp_path / "2026-01-02-here")
    a_building(tmp_path / "2026-01-03-short", quick=True)
    filled = fill_page(text, tmp_path)
    assert "bench/results/2026-01-02-here/building.examples.csv.gz" in filled
    rows = [line for line in filled.splitlines() if line.startswith("| [")]
    assert rows == [
        "| [static](../examples/images/static/image.yaml): one C program | 7 | 667 KiB | 667 KiB |",
        "| [nginx](../examples/images/nginx/image.yaml) | 22 | 9.5 MiB | 30 MiB |",
    ]
    assert "old" not in filled
    assert filled.startswith("before\n")
    assert filled.endswith("after\n")
    assert fill_page(filled, tmp_path) == filled
    with pytest.raises(ValueError, match="substring"):
        fill_page("no marks", tmp_path)


def test_random_bytes_do_not_become_shorter(tmp_path: Path) -> None:
    digest = write_random(tmp_path / "large", 4 * MIB)
    data = (tmp_path / "large").read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest
    assert len(zstandard.compress(data)) > len(data) == 4 * MIB
