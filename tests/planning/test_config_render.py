"""Templates become files, and every line says where it comes from."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebh.model.config_layer import Bundle, NodeFacts, Part
from nebh.model.rendering import NodeRendering
from nebh.planning.config_render import MAX_OUTPUT, Renderer

NODE = NodeFacts(name="n1", groups=("front",))
CLUSTER = Part(
    layer="cluster",
    version=3,
    values={
        "db": {"host": "db.nebh.internal", "port": 5432, "tls": True, "items": "shadowed"},
        "hosts": ["a", "b"],
        "debug": False,
        "users": [{"name": "ann", "admin": True}, {"name": "bob", "admin": False}],
        "limits": {"soft": 1, "hard": 2},
    },
)
GROUP = Part(layer="group/front", version=2, values={"db": {"port": 6432}, "hosts": ["c"]}, merge={"hosts": "append"})


def render(text: str, *parts: Part, files: dict[str, str] | None = None, origins: bool = True) -> NodeRendering:
    held = tuple(sorted(parts or (CLUSTER, GROUP), key=lambda one: one.layer))
    bundle = Bundle(format=1, cluster_id="c", service="web", parts=held, templates={"t": text, **(files or {})})
    return Renderer(bundle).render((("/etc/t", "t"),), NODE, origins=origins)


def text_of(text: str, **more: Any) -> str:
    found = render(text, **more)
    assert not found.problems, [str(one) for one in found.problems]
    return found.files[0].text


def lines_of(text: str, **more: Any) -> list[tuple[str, int, list[str], list[str]]]:
    """(line, template line, values, conditions) of each rendered line."""
    found = render(text, **more)
    assert not found.problems, [str(one) for one in found.problems]
    (file,) = found.files
    rows = file.text.split("\n")
    rows = rows[:-1] if rows[-1] == "" else rows
    assert len(rows) == len(file.lines)
    return [
        (row, one.line, [_use(use) for use in one.values], [_use(use) for use in one.conditions])
        for row, one in zip(rows, file.lines, strict=True)
    ]


def _use(use: Any) -> str:
    return f"{use.key}={use.layer}:{use.version}"


def test_a_line_names_its_template_line_and_the_layer_of_each_value() -> None:
    text = "# fixed\nhost = {{ db.host }}\n\nurl = {{ db.host }}:{{ db['port'] }}/\nend"
    assert lines_of(text) == [
        ("# fixed", 1, [], []),
        ("host = db.nebh.internal", 2, ["db.host=cluster:3"], []),
        ("", 3, [], []),
        ("url = db.nebh.internal:6432/", 4, ["db.host=cluster:3", "db.port=group/front:2"], []),
        ("end", 5, [], []),
    ]


def test_a_value_is_known_through_filters_and_set() -> None:
    text = "{% set name = db.host|upper ~ ':' ~ db.port %}\nA {{ name }}\nB {{ hosts|join(',') }}\n"
    assert lines_of(text) == [
        ("A DB.NEBH.INTERNAL:6432", 2, ["db.host=cluster:3", "db.port=group/front:2"], []),
        ("B a,b,c", 3, ["hosts=group/front:2", "hosts.0=cluster:3", "hosts.1=cluster:3", "hosts.2=group/front:2"], []),
    ]


def test_a_loop_names_the_item_of_each_line_and_what_decided_on_it() -> None:
    text = "{% for one in hosts %}\nserver {{ one }}\n{% endfor %}\n"
    assert lines_of(text) == [
        ("server a", 2, ["hosts.0=cluster:3"], ["hosts=group/front:2"]),
        ("server b", 2, ["hosts.1=cluster:3"], ["hosts=group/front:2"]),
        ("server c", 2, ["hosts.2=group/front:2"], ["hosts=group/front:2"]),
    ]
    text = "{% for user in users if user.admin %}\n{{ user.name }}\n{% else %}\nnobody\n{% endfor %}\n"
    ((line, _, values, conditions),) = lines_of(text)
    assert (line, values[-1]) == ("ann", "users.0.name=cluster:3")
    assert "users=cluster:3" in conditions


def test_maps_are_looped_over_with_the_origin_of_each_key() -> None:
    text = "{% for key, value in limits.items() %}\n{{ key }} {{ value }}\n{% endfor %}\n"
    assert [(row[0], row[2]) for row in lines_of(text)] == [
        ("hard 2", ["limits.hard=cluster:3"]),
        ("soft 1", ["limits.soft=cluster:3"]),
    ]
    text = "{% for key in limits %}\n{{ key }} {{ limits[key] }}\n{% endfor %}\n"
    assert [row[2] for row in lines_of(text)] == [["limits.hard=cluster:3"], ["limits.soft=cluster:3"]]


def test_a_condition_is_said_of_the_lines_under_it_and_of_no_other() -> None:
    text = "{% if db.tls %}\ntls on\n{% elif debug %}\nx\n{% else %}\ny\n{% endif %}\nafter\n"
    assert lines_of(text) == [("tls on", 2, [], ["db.tls=cluster:3"]), ("after", 8, [], [])]
    off = Part(layer="group/front", version=2, values={"db": {"tls": False}})
    found = lines_of_parts(text, CLUSTER, off)
    assert found[0] == ("y", 6, [], ["db.tls=group/front:2", "debug=cluster:3"])


def lines_of_parts(text: str, *parts: Part) -> list[tuple[str, int, list[str], list[str]]]:
    (file,) = render(text, *parts).files
    rows = file.text.split("\n")
    return [
        (row, one.line, [_use(use) for use in one.values], [_use(use) for use in one.conditions])
        for row, one in zip(rows, file.lines, strict=False)
    ]


def test_truths_are_written_small_and_known() -> None:
    assert lines_of("{{ db.tls }} {{ debug }}\n") == [("true false", 1, ["db.tls=cluster:3", "debug=cluster:3"], [])]
    assert lines_of("{% set on = debug %}\n{{ on }}\n")[0][2] == ["debug=cluster:3"]


def test_macros_includes_and_blocks_hand_their_origins_on() -> None:
    text = "{% macro line(x) %}{% if debug %}D{% else %}N{% endif %} {{ x }}{% endmacro %}\n{{ line(db.host) }}\n"
    ((line, _, values, _),) = lines_of(text)
    assert line == "N db.nebh.internal"
    assert set(values) == {"db.host=cluster:3", "debug=cluster:3"}
    found = render("a\n{% include 'b' %}\n", files={"b": "x\ny {{ db.port }}\n"})
    (file,) = found.files
    assert [(one.template, one.line) for one in file.lines] == [("t", 1), ("b", 1), ("b", 2)]
    child = render(
        "{% extends 'b' %}{% block x %}{{ db.port }}{% endblock %}", files={"b": "[{% block x %}{% endblock %}]\n"}
    )
    assert child.files[0].text == "[6432]\n"
    assert [_use(one) for one in child.files[0].lines[0].values] == ["db.port=group/front:2"]


def test_keys_win_over_methods_and_missing_ones_are_named() -> None:
    assert text_of("{{ db.items }}") == "shadowed"
    assert text_of("{{ db.get('no', 'x') }}{{ nebh.node }}{{ nebh.groups|join }}{{ nebh.service }}") == "xn1frontweb"
    assert text_of("{{ hosts[0] }}{{ hosts[-1] }}{{ users[0].name }}") == "acann"
    assert text_of("{{ db.none|default('d') }}{{ 'y' if no is defined else 'n' }}") == "dn"
    assert text_of("{{ db|tojson }}") == '{"host": "db.nebh.internal", "items": "shadowed", "port": 6432, "tls": true}'


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a\n{{ hots }}", 2, "`hots` is not defined (did you mean `hosts`?)"),
        ("a\nb\n{{ db.hots }}", 3, "`db.hots` is not defined; known here: host, items, port, tls"),
        ("{{ hosts[7] }}", 1, "has no element 7"),
        ("{% if x %}", 1, "it is not a template"),
        ("\n{% frob %}", 2, "it is not a template"),
        ("{{ hosts }}", 1, "a list cannot stand here"),
        ("{{ db }}", 1, "a map cannot stand here"),
        ("{{ none }}", 1, "nothing stands here"),
        ("{{ db.port + db.host }}", 1, "TypeError"),
        ("\n{{ 1 / 0 }}", 2, "ZeroDivisionError"),
        ("{% include 'x' %}", 1, "there is no template x"),
        ("{% include 't' %}", 1, "without end"),
        ("{% extends 't' %}", 1, "without end"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", 1, "without end"),
        ("{{ ''.__class__.__mro__ }}", 1, "__class__"),
        ("{{ hosts.append('x') }}", 1, "append"),
        ("{{ '\\ud800' }}", 1, "not valid text"),
        ("{{ range(99999999)|list }}", 1, "Range too big"),
        ("{% for a in range(2000) %}{{ 'x' * 1000 }}{% endfor %}", 0, f"more than {MAX_OUTPUT} bytes"),
        ("{{ lipsum() }}", 1, "`lipsum` is not defined"),
        ("{{ hosts|random }}", 1, "No filter named 'random'"),
    ],
)
def test_a_bad_template_is_one_clear_error_with_its_line(text: str, line: int, said: str) -> None:
    found = render(text)
    assert found.files == ()
    (problem,) = found.problems
    assert problem.file == "template t"
    assert problem.line == line
    assert said in str(problem)


def test_all_files_with_problems_are_told_of() -> None:
    bundle = Bundle(
        format=1, cluster_id="c", service="web", parts=(CLUSTER,), templates={"a": "{{ x }}", "b": "{{ y }}"}
    )
    found = Renderer(bundle).render((("/a", "a"), ("/b", "b")), NODE, origins=False)
    assert [one.file for one in found.problems] == ["template a", "template b"]


WORDS = st.text("ab \n", max_size=6)


@given(
    st.lists(st.one_of(WORDS, st.sampled_from(["{{ db.host }}", "{{ hosts|join('\n') }}", "{{ debug }}"])), max_size=8)
)
def test_every_line_has_an_origin_and_the_text_is_jinjas_own(pieces: list[str]) -> None:
    import jinja2

    text = "".join(pieces)
    found = render(text)
    (file,) = found.files
    values = {"db": {"host": "db.nebh.internal"}, "hosts": ["a", "b", "c"], "debug": "false"}
    plain = jinja2.Environment(keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
    assert file.text == plain.from_string(text).render(values)
    count = file.text.count("\n") + (not file.text.endswith("\n") and file.text != "")
    assert len(file.lines) == count
    assert all(one.line >= 1 for one in file.lines)
