"""Files of a service on one node: a pure function of its bundle and the node's signed facts."""

from __future__ import annotations

import difflib
from types import TracebackType
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError

from nebh.model.config_layer import Bundle, NodeFacts, Origin
from nebh.model.errors import Problem, SpecErrors
from nebh.model.rendering import LineOrigin, NodeRendering, RenderedFile, Use
from nebh.planning.config_bundle import compose
from nebh.planning.config_merge import Branch, Leaf, Row, Tree
from nebh.planning.config_trace import TracingEnvironment, file_name
from nebh.planning.config_tracked import Recorder, track
from nebh.planning.config_values import RESERVED

MAX_OUTPUT = 1 << 20
"""Bytes of all files of a node together."""


class Renderer:
    """Renders one bundle, for one node after the other."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._environment = TracingEnvironment(bundle.templates)

    def render(self, files: tuple[tuple[str, str], ...], facts: NodeFacts, *, origins: bool) -> NodeRendering:
        """Return the rendered `files` (path, template), or everything that is wrong: with the values, else with each
        file. origins: say where every line comes from."""
        composed = compose(self._bundle, facts)
        if composed.problems:
            return NodeRendering(node=facts.name, problems=composed.problems)
        recorder = self._environment.recorder
        values = track(composed.tree, recorder)
        recorder.names = {key: values._keys[key] for key, one in dict.items(values) if isinstance(one, bool)}  # noqa: SLF001
        known = {**dict(dict.items(values)), RESERVED: _about(self._bundle, facts, recorder)}
        made: list[RenderedFile] = []
        problems: list[Problem] = []
        left = MAX_OUTPUT
        for path, template in files:
            try:
                made.append(self._file(path, template, known, left=left, origins=origins))
                left -= len(made[-1].text.encode())
            except SpecErrors as error:
                problems += error.problems
        return NodeRendering(node=facts.name, files=() if problems else tuple(made), problems=tuple(problems))

    def _file(self, path: str, name: str, known: dict[str, Any], *, left: int, origins: bool) -> RenderedFile:
        recorder = self._environment.recorder
        recorder.reset()
        lines = _Lines()
        try:
            template = self._environment.get_template(name)
            for piece in template.root_render_func(template.new_context(known)):
                values, conditions = recorder.take()
                left -= len(piece.encode())
                if left < 0:
                    raise _problem(f"{name}", 0, f"the files have more than {MAX_OUTPUT} bytes together")
                lines.add(piece, recorder.place, values, conditions)
        except SpecErrors:
            raise
        except MemoryError:
            raise _problem(name, 0, "it needs more memory than a template may use") from None
        except Exception as error:  # whatever a template makes Python raise is the template's fault
            raise self._explain(error, name, known) from error
        text, found = lines.finish()
        return RenderedFile(path=path, text=text, lines=found if origins else ())

    def _explain(self, error: Exception, name: str, known: dict[str, Any]) -> SpecErrors:
        if isinstance(error, jinja2.TemplateSyntaxError):
            return _problem(error.name or name, error.lineno, f"it is not a template: {error.message}")
        where, line = self._place(error.__traceback__, name)
        if isinstance(error, jinja2.TemplateNotFound):
            return _problem(where, line, f"there is no template {error.name}", "declare it, or name one that is")
        if isinstance(error, SecurityError):
            return _problem(where, line, f"a template may not do that: {error.message}")
        if isinstance(error, jinja2.UndefinedError):
            return _problem(where, line, *_undefined(str(error.message), known))
        if isinstance(error, jinja2.TemplateError):
            return _problem(where, line, str(error.message))
        if isinstance(error, RecursionError):
            return _problem(where, line, "it includes or calls itself without end")
        if isinstance(error, UnicodeEncodeError):
            return _problem(where, line, "what it makes is not valid text")
        return _problem(where, line, f"{type(error).__name__}: {error}"[:500])

    def _place(self, trace: TracebackType | None, name: str) -> tuple[str, int]:
        """Return the template and line in which an error arose."""
        files = {file_name(one): one for one in self._bundle.templates}
        made = self._environment.recorder.place
        place = (made[0] or name, made[1])
        while trace is not None:
            found = files.get(trace.tb_frame.f_code.co_filename)
            if found is not None:
                place = (found, self._environment.get_template(found).get_corresponding_lineno(trace.tb_lineno))
            trace = trace.tb_next
        return place


def _undefined(message: str, known: dict[str, Any]) -> tuple[str, str]:
    name = message.split("'")[1] if message.count("'") >= 2 and message.endswith("is undefined") else ""
    if not name:
        return message, ""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"give it a value, or test it: {{% if {name} is defined %}}"
    return f"`{name}` is not defined", hint


def _problem(template: str, line: int, message: str, hint: str = "") -> SpecErrors:
    column = 1 if line else 0
    return SpecErrors(
        (Problem(file=f"template {template}", line=line, column=column, path="", message=message, hint=hint),)
    )


def _about(bundle: Bundle, facts: NodeFacts, recorder: Recorder) -> Any:
    """Return what templates know of where they are, as values that no layer gives."""
    origin = Origin(layer=RESERVED)
    groups = Row(items=tuple(Leaf(value=one, origin=origin) for one in facts.groups), origin=origin)
    node, service = (Leaf(value=one, origin=origin) for one in (facts.name, bundle.service))
    children: dict[str, Tree] = {"node": node, "groups": groups, "service": service}
    return track(Branch(children=children, origin=origin), recorder, RESERVED)


class _Lines:
    """Text as it grows, and per line what it comes from."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._found: list[LineOrigin] = []
        self._place: tuple[str, int] | None = None
        self._values: dict[Use, None] = {}
        self._conditions: dict[Use, None] = {}

    def add(self, piece: str, place: tuple[str, int, bool], values: Any, conditions: Any) -> None:
        """Take one piece. A piece of the template itself goes on, line by line, where it began."""
        self._pieces.append(piece)
        template, line, moves = place
        parts = piece.split("\n")
        for number, part in enumerate(parts):
            if number:
                self._end()
            if part or number + 1 < len(parts):
                self._place = self._place or (template, line)
                self._values.update(dict.fromkeys(values))
                self._conditions.update(dict.fromkeys(conditions))
            line += moves

    def _end(self) -> None:
        assert self._place is not None
        template, line = self._place
        conditions = tuple(one for one in self._conditions if one not in self._values)
        self._found.append(LineOrigin(template=template, line=line, values=tuple(self._values), conditions=conditions))
        self._place, self._values, self._conditions = None, {}, {}

    def finish(self) -> tuple[str, tuple[LineOrigin, ...]]:
        """Return (text, one origin for each of its lines)."""
        if self._place is not None:
            self._end()
        return "".join(self._pieces), tuple(self._found)
