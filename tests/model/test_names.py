"""Names, sizes and durations: one narrow spelling, and a way back for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.errors import BadInput, NebhError, Problem, Refused, SpecErrors
from nebh.model.names import RESERVED, check_name, instance_id, is_digest, is_name
from nebh.model.quantities import parse_duration, parse_size, render_duration, render_size


@pytest.mark.parametrize("name", ["a", "web", "web-2", "a" * 32, "x0"])
def test_good_names(name: str) -> None:
    assert is_name(name)
    assert check_name(name, what="service") == name


@pytest.mark.parametrize(
    "name", ["", "Web", "2web", "-a", "a-", "a--b", "a_b", "a.b", "a" * 33, "wéb", "web\n", " web", "a/b", "a\0"]
)
def test_bad_names(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(BadInput) as caught:
        check_name(name, what="node")
    assert caught.value.hint


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_words_are_for_services_only(name: str) -> None:
    with pytest.raises(BadInput, match="reserved"):
        check_name(name, what="service")
    assert check_name(name, what="group") == name


@given(st.text(max_size=40))
def test_a_name_is_safe_in_paths_and_dns(text: str) -> None:
    if is_name(text):
        assert text == text.lower().strip()
        assert text.encode("ascii").decode().replace("-", "a").isalnum()
        assert len(instance_id(service=text, counter=2**31, replica=99, attempt=10_000)) < 64


def test_digests() -> None:
    assert is_digest("0af9" * 16)
    for wrong in ("", "0AF9" * 16, "0af9" * 15, "0af9" * 16 + "\n", "g" * 64):
        assert not is_digest(wrong)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64M", 64 * 2**20),
        ("64MiB", 64 * 2**20),
        ("64MB", 64 * 10**6),
        ("1.5G", 1536 * 2**20),
        ("10", 10),
        ("7B", 7),
        (" 8K ", 8192),
        (12, 12),
        ("2T", 2 * 2**40),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "64X", "-1", "1,5G", "64 m", "64mb", "1e3", -1, True, None, "0x10", "6 4M"])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(BadInput):
        parse_size(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "duration"),
    [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1.5h", 5_400_000), ("30d", 2_592_000_000), (0, 0)],
)
def test_durations(text: str | int, duration: int) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "10", 10, "10S", "-5s", "1:30", "5 min", "1h30m", True, None])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(BadInput):
        parse_duration(text)  # type: ignore[arg-type]


@given(st.integers(0, 2**53 - 1))
def test_rendered_sizes_are_close_and_short(size: int) -> None:
    number, unit = render_size(size).split(" ")
    factor = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit)
    assert abs(float(number) * factor - size) <= max(0.06 * factor, size * 0.01)
    assert len(render_size(size)) <= 12


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.7, "0.7 ms"),
        (850, "850 ms"),
        (1200, "1.2 s"),
        (245_000, "4 m 05 s"),
        (7_800_000, "2 h 10 m"),
        (3 * 86_400_000 + 4 * 3_600_000, "3 d 4 h"),
    ],
)
def test_rendered_durations(milliseconds: float, text: str) -> None:
    assert render_duration(milliseconds) == text


def test_every_error_has_an_exit_status_of_its_own() -> None:
    kinds = NebhError.__subclasses__()
    statuses = [kind.exit_status for kind in kinds]
    assert len(set(statuses)) == len(statuses) == 8
    assert all(2 <= one <= 9 for one in statuses)
    assert Refused("cannot x", rule="N5", hint="do y").rule == "N5"


def test_problems_read_like_compiler_messages() -> None:
    one = Problem(file="a.yaml", line=3, column=7, path="limits.memory", message="it is missing", hint="add it")
    two = Problem(file="a.yaml", line=0, column=0, path="", message="it is empty")
    assert str(one) == "a.yaml:3:7: limits.memory: it is missing (add it)"
    assert str(SpecErrors((two, one))) == "a.yaml: it is empty\na.yaml:3:7: limits.memory: it is missing (add it)"
