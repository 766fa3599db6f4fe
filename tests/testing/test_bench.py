"""The arithmetic of measurements, what they leave on disk, and that the published page says what the rows say."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from nebh.testing.bench import sampling
from nebh.testing.bench.client import read_seen
from nebh.testing.bench.machine import calibrate_once
from nebh.testing.bench.page import newest, read_all, render_page
from nebh.testing.bench.record import Record, computed, read_record, write_record
from nebh.testing.bench.stage import in_turns
from nebh.testing.bench.stamp import program
from nebh.testing.bench.status import total_calls

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
