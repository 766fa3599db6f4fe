"""The arithmetic of measurements, what they leave on disk, and that the published page says what the rows say."""

from __future__ import annotations

import importlib
import math
import random
import subprocess
import time
from pathlib import Path

import pytest

from nebh.host.cgroups import CgroupTree
from nebh.model.errors import Failed
from nebh.signing.genesis import init_cluster
from nebh.signing.statements import Seed
from nebh.signing.trust_store import TrustStore
from nebh.spec.parse import parse_spec
from nebh.testing.bench import floods, page, sampling, verify
from nebh.testing.bench.__main__ import NAMES
from nebh.testing.bench.client import read_seen
from nebh.testing.bench.machine import calibrate_once
from nebh.testing.bench.page import newest, read_all, render_page
from nebh.testing.bench.record import Record, computed, read_record, write_record
from nebh.testing.bench.stage import in_turns
from nebh.testing.bench.stamp import program
from nebh.testing.bench.status import total_calls
from nebh.testing.flooder import end_flood, kill_others, write_flooder
from nebh.testing.load import Row

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"


def test_quantiles_interpolate() -> None:
    assert sampling.median([3, 1, 2]) == 2
    assert sampling.median([4, 1, 2, 3]) == 2.5
    assert sampling.quantile([0, 10], 0.1) == 1
    with pytest.raises(ValueError, match="no values"):
        sampling.median([])


def test_the_interval_holds_the_median_and_is_the_same_each_time() -> None:
    chance = random.Random(1)
    values = [chance.gauss(10, 1) for _ in range(50)]
    low, high = sampling.bootstrap(values)
    assert low < sampling.median(values) < high
    assert high - low < 1.5
    assert sampling.bootstrap(values) == (low, high)


@pytest.mark.parametrize(("failed", "expected"), [(0, 2.9957), (1, 4.7439), (10, 16.962)])
def test_the_upper_bound_is_that_of_poisson(failed: int, expected: float) -> None:
    assert math.isclose(sampling.upper_bound(failed, 1000) * 1000, expected, rel_tol=1e-3)


def test_paired_ratios_see_through_noise_that_both_share() -> None:
    chance = random.Random(2)
    loads = [chance.choice((1, 1, 1, 9)) for _ in range(60)]
    pairs = [(1.2 * load, 1.0 * load) for load in loads]
    assert math.isclose(sampling.median(sampling.ratios(pairs)), 1.2)


def test_the_order_changes_every_round() -> None:
    done: list[str] = []
    for number in range(2):
        in_turns(number, lambda: done.append("a"), lambda: done.append("b"))
    assert done == ["b", "a", "a", "b"]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Record(name="x", title="X", facts={"date": "2026-01-01"})
    for number in range(5):
        record.add("rounds", took=number + 1.0, other=2.0, way="a" if number else "b")
    record.figure("took", "how long", table="rounds", columns=("took",), where={"way": "a"}, limit=3.0)
    record.figure("ratio", "against the other", unit="x", table="rounds", columns=("took", "other"), statistic="ratio")
    record.figure("nothing", "no rows", table="none", columns=("took",))
    write_record(record, tmp_path)
    found = read_record(tmp_path / "x.json")
    assert [(one.name, one.value, one.count, one.holds) for one in found.figures] == [
        ("took", 3.5, 4, False),
        ("ratio", 1.5, 5, True),
    ]
    assert [computed(one, found.tables[one.table]) for one in found.figures] == found.figures


def test_calibration_says_what_it_saw() -> None:
    found = calibrate_once(5)
    assert found["low"] <= found["ratio"] <= found["high"]


def test_a_summary_of_strace_is_read(tmp_path: Path) -> None:
    text = "% time     seconds  usecs/call     calls    errors syscall\n100.00    0.001234           1       998        33 total\n"
    (tmp_path / "s").write_text(text)
    assert total_calls(tmp_path / "s") == 998


def test_half_a_line_of_a_client_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("1 2 3 v1 200\n4 5 6 v2 200\n7 8")
    assert [one.version for one in read_seen(tmp_path / "seen")] == ["v1", "v2"]


def test_the_program_of_the_first_instruction_is_small() -> None:
    assert len(program()) < 256


def test_every_measurement_on_the_page_can_be_made() -> None:
    assert sorted(NAMES) == sorted(page.ORDER)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_can_be_measured_and_has_a_place_on_the_page(name: str) -> None:
    module = importlib.import_module(f"nebh.testing.bench.{name}")
    assert name == module.NAME
    assert module.TITLE
    assert callable(module.measure)
    assert name in page.ORDER


def judged(record: Record, folder: Path) -> dict[str, float]:
    """Return the figures by name, once what was written gives the same and the page shows them."""
    record.facts = {"date": "2026-01-01", "load_before": {"pressure": 1.0}, "load_after": {"pressure": 2.0}}
    record.facts["calibration"] = {"ratio": 1.2}
    write_record(record, folder)
    found = read_record(folder / f"{record.name}.json")
    assert [computed(one, found.tables[one.table]) for one in found.figures] == found.figures == record.figures
    shown = page._section(found, folder)
    assert all(one.what in shown for one in found.figures)
    return {one.name: one.value for one in found.figures}


def a_request(sent: float, latency: float, error: str = "") -> Row:
    return Row(sent, sent + latency / 1000, 1, "fresh", "GET", 0 if error else 200, "1", error, latency)


def test_a_flood_is_judged_by_the_requests_sent_in_its_windows(tmp_path: Path) -> None:
    record = Record(name="floods", title=floods.TITLE)
    pairs, rows = [], []
    for number in range(3):
        begin = 100.0 * number
        pair = floods.Pair(flood="log", number=number, pressure=1.0)
        pair.windows["quiet"] = floods.Window(begin=begin, end=begin + 10)
        pair.windows["flooded"] = floods.Window(begin=begin + 20, end=begin + 30, flooder_ms=5.0)
        pairs.append(pair)
        rows += [a_request(begin + second, 2.0) for second in range(10)]
        rows += [a_request(begin + second, 6.0) for second in range(20, 30)]
        rows.append(a_request(begin + 15, 900.0))  # between both
        rows.append(a_request(begin + 10, 900.0))  # as one window ends
    floods._fill(record, pairs, rows)
    floods._figures(record)
    values = judged(record, tmp_path)
    assert (values["log_quiet"], values["log_flooded"], values["log_ratio"]) == (2.0, 6.0, 3.0)
    assert (values["requests"], values["failed"], values["flooder"]) == (66, 0, 5.0)
    assert "fork_ratio" not in values


def test_a_request_that_fails_between_two_windows_is_missed_too(tmp_path: Path) -> None:
    record = Record(name="floods", title=floods.TITLE)
    pair = floods.Pair(flood="cpu", number=0, pressure=1.0)
    pair.windows = {"quiet": floods.Window(begin=0, end=2), "flooded": floods.Window(begin=4, end=6)}
    floods._fill(record, [pair], [a_request(1, 1.0), a_request(3, 20_000.0, "timeout"), a_request(5, 1.0)])
    floods._figures(record)
    assert judged(record, tmp_path)["failed"] == 1
    assert [one.name for one in record.figures if not one.holds] == ["failed"]
    assert record.tables["failures"][0]["error"] == "timeout"


def test_the_flooder_knows_every_flood_and_its_spec_is_one(tmp_path: Path) -> None:
    source = ROOT / "src" / "nebh" / "testing" / "flooder.c"
    assert all(f'strcmp(kind, "{word}")' in source.read_text() for word, _ in floods.FLOODS.values())
    spec = write_flooder(tmp_path, "noisy", (source,), memory="96M", more="connects: [sink:8080]\n")
    found = parse_spec(spec.read_text(), file=str(spec), base=str(tmp_path))
    assert (found.name, found.limits.memory, len(found.connects)) == ("noisy", 96 << 20, 1)
    assert (tmp_path / "noisy" / "bin" / "flooder.c").exists()


def test_a_flood_is_ended_and_its_server_is_not(tmp_path: Path) -> None:
    tree = CgroupTree(parent="cloud", v2=True, root=tmp_path)
    server, *others = [subprocess.Popen(("sleep", "60")) for _ in range(3)]
    try:
        procs = tmp_path / "cloud" / "noisy" / "cgroup.procs"
        procs.parent.mkdir(parents=True)
        procs.write_text("".join(f"{one.pid}\n" for one in (server, *others)))
        kill_others(tree, "noisy", server.pid, patience=10)
        assert [one.wait(10) for one in others] == [-9, -9]
        assert server.poll() is None
        procs.write_text("")
        with pytest.raises(Failed, match="is not of noisy"):
            end_flood(tree, "noisy", server.pid)
    finally:
        for one in (server, *others):
            one.kill()
            one.wait()


def test_signatures_are_counted_where_they_are_checked(tmp_path: Path) -> None:
    genesis = init_cluster(
        name="home",
        operator=Seed(b"o" * 32),
        controller=Seed(b"c" * 32).public,
        entropy=b"e" * 16,
        cluster_id="c" * 32,
        now=int(time.time()),
    )
    served = {f"metadata/{name}": data for name, data in genesis.publication.metadata.items()}
    counted = []
    for _ in range(2):
        store = TrustStore(tmp_path, lambda name, _: served.get(name), genesis.root, "c" * 32)
        counted.append(verify.Counted())
        verify._counting(counted[-1], store.refresh)
    assert counted[0].signatures == 4  # root, timestamp, snapshot, targets
    assert counted[1].signatures == 5  # the stored timestamp, too
    assert 1000 < counted[0].bytes < 2 * sum(map(len, served.values()))


def test_the_share_of_verifying_is_that_of_the_same_round(tmp_path: Path) -> None:
    record = Record(name="verify", title=verify.TITLE)
    for number, pace in enumerate((1.0, 4.0, 9.0)):
        row = {f"{kind}_verify": 3 * pace for kind in ("new", "again")}
        row |= {f"{kind}_start": 12 * pace for kind in ("new", "again")}
        record.add("rounds", round=number, **row)
    record.add("exact", new_signatures=7, revived_verifiers=0)
    verify._figures(record)
    values = judged(record, tmp_path)
    assert (values["new_verify"], values["new_share"], values["again_share"]) == (12.0, 0.25, 0.25)
    assert (values["new_signatures"], values["revived_verifiers"]) == (7, 0)


def test_the_executor_passes_every_mark_that_verifying_is_measured_by() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "src" / "nebh" / "executor").glob("*.py"))
    wanted = {mark for pair in verify.PARTS.values() for mark in pair} | {
        "verifier.begin",
        "verifier.done",
        "start.done",
    }
    assert not {mark for mark in wanted if f'marks.mark("{mark}")' not in text}


def test_every_published_figure_is_found_in_its_rows() -> None:
    folder = newest(RESULTS)
    assert folder is not None
    for record in read_all(folder):
        assert record.figures, record.name
        for figure in record.figures:
            assert computed(figure, record.tables[figure.table]) == figure, figure.name
            assert not record.facts["quick"]


def test_the_page_is_not_stale() -> None:
    assert (ROOT / "docs" / "performance.md").read_text() == render_page(RESULTS), "run `make docs`"
