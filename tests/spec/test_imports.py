"""Values from other tools' files arrive as they were meant, and what is wrong is said with its line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.errors import BadInput, SpecErrors
from nebh.spec.imports import format_of, import_values
from nebh.spec.layers import LayerText, parse_layer, parse_value, render_layer


def values_of(kind: str, text: str):
    return import_values(text, kind=kind, file="f")[0]


def test_env() -> None:
    text = (
        "# comment\nexport PORT=8080\nDEBUG=true\nZIP=007\nNAME=web app # note\n"
        'Q="a\\n\\"b\\"" # x\nS=\'a\\n\'\nEMPTY=\nURL=http://x/#y\n'
    )
    assert values_of("env", text) == {
        "PORT": 8080,
        "DEBUG": True,
        "ZIP": "007",
        "NAME": "web app",
        "Q": 'a\n"b"',
        "S": "a\\n",
        "EMPTY": "",
        "URL": "http://x/#y",
    }
    with pytest.raises(SpecErrors) as caught:
        values_of("env", 'A=1\nnonsense\nB="open\n')
    assert [one.line for one in caught.value.problems] == [2, 3]


def test_ini() -> None:
    assert values_of("ini", "top=1\n[db]\nHost = a%b\nport: 5432\n") == {"top": 1, "db": {"Host": "a%b", "port": 5432}}
    with pytest.raises(SpecErrors, match="x stands here for the second time"):
        values_of("ini", "[a]\nx=1\nx=2\n")


def test_toml() -> None:
    found, notes = import_values("a = 0.10\nd = 2020-01-01\n[s]\nl = [1, true]\n", kind="toml", file="f")
    assert found == {"a": "0.10", "d": "2020-01-01", "s": {"l": [1, True]}}
    assert notes == ("d: 2020-01-01 is kept as text",)
    with pytest.raises(SpecErrors) as caught:
        values_of("toml", "a = 1\nb = \n")
    assert caught.value.problems[0].line == 2


def test_json() -> None:
    found, notes = import_values('{"a": 1.50, "b": null, "c": {"d": null, "e": "{{ x }}"}}', kind="json", file="f")
    assert found == {"a": "1.50", "c": {"e": "{{ x }}"}}
    holds = "c.e: it holds a template of another tool, which is text here"
    assert notes == ("b: it is empty: left out", "c.d: it is empty: left out", holds)
    for bad in ("[1]", '{"a": 1,}', "[" * 100_000):
        with pytest.raises(SpecErrors):
            values_of("json", bad)


def test_yaml() -> None:
    assert values_of("yaml", "---\na: 1\nb: [x, true, 0.5]\n") == {"a": 1, "b": ["x", True, "0.5"]}
    assert values_of("yaml", "---\n# nothing\n") == {}
    for bad in ("a: &x 1\nb: *x\n", "a: !vault |\n  12\n", "a: yes\n", "a: 010\n", "a:\n"):
        with pytest.raises(SpecErrors):
            values_of("yaml", bad)


def test_formats_by_name() -> None:
    assert [format_of(one) for one in (".env", "a/app.env", "x.yml", "y.conf")] == ["env", "env", "yaml", "ini"]
    with pytest.raises(BadInput, match="the format of README"):
        format_of("README")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("0", 0),
        ("007", "007"),
        ("1.5", "1.5"),
        ("true", True),
        ("yes", "yes"),
        ("", ""),
        ("[a, 1]", ["a", 1]),
        ('{"a": {"b": [1]}}', {"a": {"b": [1]}}),
        ("[broken", "[broken"),
        ("²", "²"),
    ],
)
def test_a_word_of_the_command_line(text: str, value: object) -> None:
    found = parse_value(text)
    assert (found, type(found)) == (value, type(value))


KEYS = st.text("abc_", min_size=1, max_size=3)
SCALARS = st.one_of(st.integers(-99, 99), st.booleans(), st.text("ab1: #'\n-ü", max_size=6))
VALUES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=2), st.dictionaries(KEYS, inner, min_size=1, max_size=2)
        ),
        max_leaves=5,
    ),
    max_size=3,
)


@given(VALUES, st.sampled_from([(), ("template/a", "machine/b")]))
def test_a_layer_written_for_an_editor_is_read_back_the_same(values, extends) -> None:
    layer = LayerText(values=values, merge={"a.b": "by name"}, extends=extends, group_order=("eu",))
    read = parse_layer(render_layer(layer), file="f")
    assert repr(read) == repr(layer)


def test_a_layer_with_mistakes_says_all_of_them() -> None:
    with pytest.raises(SpecErrors) as caught:
        parse_layer("valus: {}\nmerge: {a: sum}\nextends: [nothing]\nvalues: 3\n", file="f")
    said = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "did you mean `values`?" in said


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("json", '{"a": ' + "9" * 5000 + "}", "f:1:1: it holds a number that is too long"),
        ("toml", "a = " + "9" * 5000, "f:1:1: it holds a number that is too long"),
        ("json", '{"a": {"b": 1, "b": 2}}', "`b` stands twice"),
        ("env", "A=1\n\nA=2", "f:3:1: A stands here for the second time"),
        ("json", '{"a":' * 5000, "nested too deep"),
        ("toml", "a = " + "[" * 5000, "it is not TOML"),
        ("ini", "b=1\nb=2", "f:2:1: b stands here for the second time"),
        ("ini", "[a]\nx=1\n[a]\ny=1", r"f:3:1: the section \[a\] stands here"),
        ("ini", "just words", "f:1:1: it is neither"),
        ("ini", "a=1\n[a]\nb=2", "a is a key above all sections, and a section"),
        ("yaml", "$ANSIBLE_VAULT;1.1;AES256\n6162\n", "encrypted by ansible-vault"),
        ("yaml", "a: !vault |\n  $ANSIBLE_VAULT;1.1\n", "explicit tags"),
        ("json", "[1]", "no mapping"),
        ("json", "", "it is not JSON"),
    ],
)
def test_what_cannot_be_imported_is_said_with_its_place(kind: str, text: str, said: str) -> None:
    with pytest.raises(SpecErrors, match=said):
        import_values(text, kind=kind, file="f")


@pytest.mark.parametrize("kind", ["env", "ini", "toml"])
def test_a_mark_of_an_editor_is_no_part_of_the_first_key(kind: str) -> None:
    assert import_values("\ufeffa = 1\n", kind=kind, file="f")[0] == {"a": 1}


def test_what_is_left_out_is_said() -> None:
    values, notes = import_values('{"a": null, "b": [1, null], "c": {"d": null}}', kind="json", file="f")
    assert values == {"b": [1], "c": {}}
    assert sorted(one.split(":")[0] for one in notes) == ["a", "b.1", "c.d"]


@given(st.binary(max_size=300), st.sampled_from(["env", "ini", "toml", "json", "yaml"]))
def test_any_text_is_values_or_one_clear_error(data: bytes, kind: str) -> None:
    with contextlib.suppress(SpecErrors):
        assert isinstance(import_values(data.decode(errors="replace"), kind=kind, file="f")[0], dict)
