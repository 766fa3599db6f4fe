"""`python -m nebh.programs.renderer`: render files from a bundle of templates and layers, and exit.

A short-lived child (protocol: `drivers/templates/child.py`). It imports all it needs, reads its input, then locks
itself into a cage in which it can compute, write its answer and nothing else; only there are templates looked at. That
Jinja2's sandbox holds is not relied upon.
"""

from __future__ import annotations

import os

from nebh.drivers.templates.child import RenderHead
from nebh.host.cage import Cage, arm
from nebh.model.config import MAX_BUNDLE
from nebh.model.config_layer import Bundle, NodeFacts, Part
from nebh.model.errors import BadInput, Broken, NebhError
from nebh.planning.config_bundle import encode_bundle, read_bundle
from nebh.planning.config_render import Renderer
from nebh.wire import codec, failures

MEMORY = 64 << 20
SECONDS = 1.0
_MAX_HEAD = 4 << 20
_WARM = """{% macro m(a) %}{{ a }}{% endmacro %}{% for one in list if one %}{{ m(one)|upper }}{{ loop.index }}
{% else %}{% endfor %}{% set x = list|sort|join(",") %}{% if x is defined and "a" in x %}{{ {"a": x}|tojson }}{% endif %}
"""


def main() -> int:
    """Answer one request on file descriptor 0."""
    _warm_up()
    data = _read_all(_MAX_HEAD + MAX_BUNDLE + 1)
    Cage(cpu=60, memory=MEMORY).enter()
    try:
        _answer(data)
    except NebhError as error:
        _say(b"!" + codec.encode(failures.to_plain(error)))
    except MemoryError:
        full = BadInput("cannot render: it needs more than 64 MiB", hint="are layers and templates really so large?")
        _say(b"!" + codec.encode(failures.to_plain(full)))
    except Exception as error:
        broken = Broken(f"cannot render: {type(error).__name__}: {error}"[:500])
        _say(b"!" + codec.encode(failures.to_plain(broken)))
    return 0


def _answer(data: bytes) -> None:
    arm(SECONDS)
    first, line_feed, rest = data.partition(b"\n")
    if not line_feed:
        raise BadInput("cannot render: the request has no bundle")
    head = codec.decode(first, RenderHead, what="a rendering request", limit=_MAX_HEAD)
    renderer = Renderer(read_bundle(rest, cluster_id=head.cluster_id, service=head.service))
    for node in head.nodes:
        arm(SECONDS)
        _say(b"=" + codec.encode(renderer.render(head.files, node, origins=head.origins)))
    _say(b".")


def _warm_up() -> None:
    """Render something, rightly and wrongly: what Python and Jinja2 import late is then here."""
    part = Part(layer="cluster", version=1, values={"list": ["a", "b"]})
    templates = {"a": _WARM, "b": "{{ no }}", "c": "{% if %}", "d": "{{ ''.__class__ }}", "e": "{{ list.0.1.2 }}"}
    bundle = Bundle(format=1, cluster_id="c", service="s", parts=(part,), templates=templates)
    data, _ = encode_bundle(bundle)
    renderer = Renderer(read_bundle(data, cluster_id="c", service="s"))
    files = tuple((f"/{name}", name) for name in templates)
    codec.encode(renderer.render(files, NodeFacts(name="n"), origins=True))
    codec.encode(renderer.render(files[:1], NodeFacts(name="n"), origins=True))
    failures.to_plain(BadInput(""))
    codec.decode(codec.encode(RenderHead(cluster_id="", service="", files=(), nodes=())), RenderHead, what="")


def _read_all(limit: int) -> bytes:
    parts, size = [], 0
    while size <= limit and (chunk := os.read(0, 1 << 20)):
        parts.append(chunk)
        size += len(chunk)
    return b"".join(parts)


def _say(line: bytes) -> None:
    view = memoryview(line + b"\n")
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    # nothing of the interpreter's own end is needed, and in the cage little of it would work
    os._exit(main())
