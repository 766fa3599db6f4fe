"""The renderer as a real, caged process: what it may do, and what costs it its life."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any

import pytest

from nebh.drivers.templates.child import RenderHead, render_in_child
from nebh.host.cage import Cage, arm
from nebh.model.config import MAX_BUNDLE
from nebh.model.config_layer import Bundle, NodeFacts, Part
from nebh.model.errors import BadInput
from nebh.model.rendering import NodeRendering
from nebh.planning.config_bundle import encode_bundle
from nebh.wire import codec

pytestmark = pytest.mark.slow

NODES = (NodeFacts(name="n1", groups=("eu",)), NodeFacts(name="n2"))
PARTS = (
    Part(layer="cluster", version=1, values={"who": "world"}),
    Part(layer="group/eu", version=4, values={"who": "europe"}),
)


def bundle(text: str, **changes: Any) -> Bundle:
    made = Bundle(format=1, cluster_id="c", service="web", parts=PARTS, templates={"t": text})
    return dataclasses.replace(made, **changes)


def render(text: str, *, nodes: tuple[NodeFacts, ...] = NODES, origins: bool = False, **changes: Any) -> Any:
    data, _ = encode_bundle(bundle(text, **changes))
    return render_bytes(data, nodes=nodes, origins=origins)


def render_bytes(data: bytes, *, nodes: Any = NODES, origins: bool = False) -> tuple[NodeRendering, ...]:
    head = RenderHead(cluster_id="c", service="web", files=(("/etc/t", "t"),), nodes=nodes, origins=origins)
    return render_in_child(head, data)


def test_each_node_gets_its_own_values() -> None:
    found = render("hello {{ who }} on {{ nebh.node }}\n", origins=True)
    assert [one.files[0].text for one in found] == ["hello europe on n1\n", "hello world on n2\n"]
    assert [one.files[0].lines[0].values[0].layer for one in found] == ["group/eu", "cluster"]


def test_problems_come_back_as_such_beside_good_nodes() -> None:
    one, two = render("{% if nebh.node == 'n1' %}{{ no }}{% endif %}")
    assert "`no` is not defined" in str(one.problems[0])
    assert two.files[0].text == ""


def test_a_template_without_an_end_is_ended_after_a_second_of_processor() -> None:
    begun = time.monotonic()
    with pytest.raises(BadInput, match="for n1: it took more than 1 s of processor time"):
        render("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    assert time.monotonic() - begun < 30
    with pytest.raises(BadInput, match="more than 1 s"):
        render("{{ 10 ** (10 ** 9) }}")


def test_a_template_that_takes_memory_is_told_so() -> None:
    # the control: what is within bounds is rendered
    assert render("{% set x = 'y' * 10000000 %}{{ x|length }}")[0].files[0].text == "10000000"
    try:
        (one, _) = render("{% set x = 'y' * 900000000 %}{{ x|length }}")
    except BadInput as error:
        assert "64 MiB" in str(error)  # noqa: PT017 - either of the two is a clear error
    else:
        assert "more memory than a template may use" in str(one.problems[0])


def test_a_long_file_is_refused_and_one_at_the_bound_is_not() -> None:
    assert len(render("{% for a in range(1024) %}{{ 'x' * 1024 }}{% endfor %}")[0].files[0].text) == 1 << 20
    (one, _) = render("{% for a in range(1025) %}{{ 'x' * 1024 }}{% endfor %}")
    assert "more than 1048576 bytes" in str(one.problems[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cluster_id": "d"}, "it is of cluster 'd', not 'c'"),
        ({"service": "db"}, "it is of service 'db'"),
        ({"format": 2}, "its format is 2, this program reads 1"),
        ({"parts": (*PARTS, PARTS[0])}, "a layer stands twice"),
        ({"parts": (Part(layer="cluster", values={"a": None}),)}, "it is empty"),
        ({"templates": {"t": "a\0"}}, "NULs"),
        ({"templates": {f"t{number}": "" for number in range(65)}}, "65 templates"),
    ],
)
def test_a_bad_bundle_is_one_clear_error(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        render_bytes(codec.encode(bundle("x", **changes)))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cannot read the config bundle of web"),
        (b"\xff\xfe", "cannot read the config bundle of web"),
        (b"[" * 100_000, "cannot read the config bundle of web"),
        (b'{"format":1}', "cannot read the config bundle of web"),
        (codec.encode(bundle("x")) + b"\n", "cannot read the config bundle of web"),
        (b" " * (MAX_BUNDLE + 1), "at most"),
        (json.dumps(json.loads(codec.encode(bundle("x"))) | {"more": 1}).encode(), "cannot read the config bundle"),
    ],
)
def test_bytes_that_are_no_bundle_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        render_bytes(data)
    assert said in str(caught.value)


def in_cage(work: Any) -> str:
    """Do something in a cage, in a fork; return what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Cage(cpu=5, memory=64 << 20).enter()
            try:
                said = f"did {work()}"
            except BaseException as error:
                said = type(error).__name__
            os.write(writing, said.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said


def _socket() -> None:
    import socket

    socket.socket()


ATTEMPTS = {
    "read a file": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "list a folder": lambda: os.listdir("/"),
    "write a file": lambda: os.open("/tmp/x", os.O_WRONLY | os.O_CREAT),
    "open a socket": _socket,
    "fork": os.fork,
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "make a folder": lambda: os.mkdir("/x"),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_code_in_the_cage_can_do_nothing_even_if_it_leaves_jinjas_sandbox(name: str) -> None:
    import socket

    assert socket
    # fork and exec outside would change this very process: their control is that the cage's own parent forks
    if name not in {"fork", "start a program", "make a folder", "write a file"}:
        ATTEMPTS[name]()  # the control: outside it works
    assert in_cage(ATTEMPTS[name]) in {"PermissionError", "OSError"}
    assert in_cage(lambda: sum(range(10))) == "did 45"


def test_the_second_of_processor_is_counted_from_its_start() -> None:
    child = os.fork()
    if child == 0:
        arm(0.05)
        while True:
            pass
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == 27
