"""Jinja2 templates that say, for every piece of text, which line of which template and which values it came from.

The parsed template is changed before it is compiled: every expression that reads a value says so, every piece of text
says its line, every block says what decided on it. Nothing is written into the text: pieces are taken one by one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from nebh.planning.config_tracked import (
    Recorder,
    TrackedList,
    TrackedMap,
    all_uses,
    items_of,
    own_uses,
    retrack,
)

_METHODS = frozenset({"items", "keys", "values", "get"})
_COUNTING = ("length", "count")
_PLAIN = (nodes.Name, nodes.Getattr, nodes.Getitem)
_LEFT_OUT_FILTERS = ("random", "pprint", "urlize", "xmlattr")
_LEFT_OUT_GLOBALS = ("lipsum",)


class NotText(jinja2.TemplateError):
    """Something stands in `{{ }}` that is not text, a number or a truth."""


class _Loader(jinja2.BaseLoader):
    def __init__(self, templates: dict[str, str]) -> None:
        self._templates = templates

    def get_source(
        self,
        environment: jinja2.Environment,  # noqa: ARG002 - the shape of a loader
        template: str,
    ) -> tuple[str, str, Callable[[], bool]]:
        if template not in self._templates:
            raise jinja2.TemplateNotFound(template)
        return self._templates[template], file_name(template), lambda: True


def file_name(template: str) -> str:
    """Return what a template's compiled code is said to be from."""
    return f"<template {template}>"


class TracingEnvironment(ImmutableSandboxedEnvironment):
    """Renders the templates of one bundle. `recorder` says what was read."""

    def __init__(self, templates: dict[str, str]) -> None:
        super().__init__(
            loader=_Loader(templates),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            optimized=False,  # nothing is computed while a template is compiled
            autoescape=False,
        )
        self.recorder = Recorder()
        for name in _LEFT_OUT_FILTERS:
            self.filters.pop(name, None)
        for name in _LEFT_OUT_GLOBALS:
            self.globals.pop(name, None)
        self.filters["tojson"] = _to_json

    # -- what compiled templates call

    def trace_text(self, text: str, template: str, line: int) -> str:
        """A piece of the template itself."""
        self.recorder.place = (template, line, True)
        return text

    def trace_out(self, value: Any, template: str, line: int) -> str:
        """The value of `{{ }}`. Raises NotText, UndefinedError."""
        self.recorder.place = (template, line, False)
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (str, int, float)):
            return str(value)
        if isinstance(value, jinja2.Undefined):
            return str(value)
        kind = "a map" if isinstance(value, dict) else "a list" if isinstance(value, (list, tuple)) else ""
        if kind:
            raise NotText(f"{kind} cannot stand here: say how to write it, as with | join(', ') or | tojson")
        raise NotText("nothing stands here" if value is None else "this is no text")

    def trace_use(self, value: Any, name: str) -> Any:
        """An expression reads a value, whole."""
        if isinstance(value, bool):
            self.recorder.note(self.recorder.names.get(name, ()))
        else:
            self.recorder.note(all_uses(value))
        return value

    def trace_own(self, value: Any) -> Any:
        """A loop goes over a value: its items are read one by one."""
        self.recorder.note(own_uses(value))
        return value

    def trace_count(self, value: Any) -> Any:
        """How many a value has is asked: what each says does not matter, only who put it there."""
        self.recorder.note(own_uses(value))
        for one in items_of(value):
            self.recorder.note(one)
        return value

    def trace_test(self, value: Any, number: int, first: bool) -> Any:
        """A test decides on block `number`."""
        # what it reads while it is compared counts too
        answer = bool(value)
        self.recorder.decide(number, first=first)
        return answer

    def trace_loop(self, value: Any, number: int) -> Any:
        """A loop decides on block `number`."""
        self.recorder.decide(number, first=True)
        return value

    def trace_enter(self, number: int) -> None:
        """A block begins."""
        self.recorder.enter(number)

    def trace_leave(self) -> None:
        """A block ends."""
        self.recorder.leave()

    def trace_set(self, value: Any, name: str) -> Any:
        """`{% set name = value %}`."""
        uses = tuple(self.recorder.drain())
        if isinstance(value, bool):
            self.recorder.names[name] = uses
            return value
        return retrack(value, uses)

    # -- how values are looked up

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a key of a map before a method of Python's, and never guess."""
        if isinstance(obj, TrackedMap):
            if attribute in _METHODS and attribute not in obj:
                return super().getattr(obj, attribute)
            return self._look_up(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return what stands in a map or list."""
        if isinstance(obj, TrackedMap):
            return self._look_up(obj, argument)
        if isinstance(obj, TrackedList) and isinstance(argument, int) and -len(obj) <= argument < len(obj):
            found = obj[argument]
            if isinstance(found, bool) and obj._items:  # noqa: SLF001 - a part of tracking
                self.recorder.note(obj._items[argument])  # noqa: SLF001 - as above
            return found
        return super().getitem(obj, argument)

    def _look_up(self, obj: TrackedMap, key: Any) -> Any:
        if isinstance(key, str) and key in obj:
            return obj.took(key)
        path = obj._path  # noqa: SLF001 - a part of tracking
        known = ", ".join(sorted(dict.__iter__(obj))[:10]) or "nothing"
        return self.undefined(f"`{path + '.' if path else ''}{key}` is not defined; known here: {known}")

    # -- how a template is changed before it is compiled

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed = super()._parse(source, name, filename)
        _Tracer(name or "").visit(parsed)
        return parsed


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False)


class _Tracer(NodeTransformer):
    """Puts calls of the environment's `trace_` methods into a parsed template."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._numbers = itertools.count(1)

    def _call(self, what: str, line: int, *args: nodes.Expr) -> nodes.Call:
        function = nodes.EnvironmentAttribute(f"trace_{what}", lineno=line)
        return nodes.Call(function, list(args), [], None, None, lineno=line)

    def _const(self, value: Any, line: int) -> nodes.Const:
        return nodes.Const(value, lineno=line)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802 - named by Jinja2
        """Text and `{{ }}`."""
        made: list[nodes.Expr] = []
        for one in node.nodes:
            line = one.lineno
            place = (self._const(self._template, line), self._const(line, line))
            if isinstance(one, nodes.TemplateData):
                made.append(self._call("text", line, self._const(one.data, line), *place))
            else:
                made.append(self._call("out", line, self._expression(one), *place))
        node.nodes = made
        return node

    def visit_If(self, node: nodes.If) -> nodes.Node:  # noqa: N802 - as above
        """`{% if %}`: each branch stands under every test that was made before it."""
        self._branch(node, next(self._numbers), first=True)
        return node

    def _branch(self, node: nodes.If, number: int, *, first: bool) -> None:
        line = node.lineno
        facts = (self._const(number, line), self._const(first, line))
        node.test = self._call("test", line, self._expression(node.test), *facts)
        node.body = self._scoped(node.body, number, line)
        for one in node.elif_:
            self._branch(one, number, first=False)
        node.else_ = self._scoped(node.else_, number, line) if node.else_ else []

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - as above
        """`{% for %}`."""
        number, line = next(self._numbers), node.lineno
        node.iter = self._call("loop", line, self._looped(node.iter), self._const(number, line))
        if node.test is not None:
            node.test = self._expression(node.test)
        node.body = self._scoped(node.body, number, line)
        node.else_ = self._scoped(node.else_, number, line) if node.else_ else []
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:  # noqa: N802 - as above
        """`{% set %}`."""
        name = node.target.name if isinstance(node.target, (nodes.Name, nodes.NSRef)) else ""
        line = node.lineno
        node.node = self._call("set", line, self._expression(node.node), self._const(name, line))
        return node

    def visit_With(self, node: nodes.With) -> nodes.Node:  # noqa: N802 - as above
        """`{% with %}`."""
        node.values = [self._expression(one) for one in node.values]
        node.body = [self._visited(one) for one in node.body]
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802 - as above
        """`{% call %}`."""
        node.call.args = [self._expression(one) for one in node.call.args]
        node.body = [self._visited(one) for one in node.body]
        return node

    def _scoped(self, body: list[nodes.Node], number: int, line: int) -> list[nodes.Node]:
        enter = nodes.ExprStmt(self._call("enter", line, self._const(number, line)), lineno=line)
        leave = nodes.ExprStmt(self._call("leave", line), lineno=line)
        return [enter, *(self._visited(one) for one in body), leave]

    def _visited(self, node: nodes.Node) -> nodes.Node:
        found = self.visit(node)
        assert isinstance(found, nodes.Node)
        return found

    # -- expressions

    def _expression(self, node: Any) -> Any:
        """Return an expression in which every value that is read says so."""
        if isinstance(node, nodes.Name):
            return self._call("use", node.lineno, node, self._const(node.name, node.lineno))
        if isinstance(node, (nodes.Getattr, nodes.Getitem)):
            return self._call("use", node.lineno, self._chain(node), self._const("", node.lineno))
        if isinstance(node, nodes.Call):
            return self._called(node, self._expression)
        if isinstance(node, nodes.Filter) and node.name in _COUNTING and isinstance(node.node, _PLAIN):
            node.node = self._call("count", node.lineno, self._chain(node.node))
            return node
        return self._below(node)

    def _chain(self, node: Any) -> Any:
        """Return `a.b[c]` in which only what stands at its end is read."""
        if isinstance(node, nodes.Name):
            return node
        if isinstance(node, (nodes.Getattr, nodes.Getitem)):
            node.node = self._chain(node.node)
            if isinstance(node, nodes.Getitem):
                node.arg = self._expression(node.arg)
            return node
        return self._expression(node)

    def _looped(self, node: Any) -> Any:
        """Return what a loop goes over: filters on a list leave its items to be read one by one."""
        if isinstance(node, (nodes.Name, nodes.Getattr, nodes.Getitem)):
            return self._call("own", node.lineno, self._chain(node))
        if isinstance(node, nodes.Filter) and node.node is not None:
            node.node = self._looped(node.node)
            node.args = [self._expression(one) for one in node.args]
            return node
        if isinstance(node, nodes.Call):
            return self._called(node, self._looped)
        return self._expression(node)

    def _called(self, node: nodes.Call, receiver: Callable[[Any], Any]) -> nodes.Call:
        if isinstance(node.node, nodes.Getattr):
            node.node.node = receiver(node.node.node)
        elif not isinstance(node.node, nodes.Name):
            node.node = self._expression(node.node)
        node.args = [self._expression(one) for one in node.args]
        for pair in node.kwargs:
            pair.value = self._expression(pair.value)
        return node

    def _below(self, node: Any) -> Any:
        if not isinstance(node, nodes.Node):
            return node
        for name, value in list(node.iter_fields()):
            if isinstance(value, list):
                setattr(node, name, [self._expression(one) if isinstance(one, nodes.Node) else one for one in value])
            elif isinstance(value, nodes.Node):
                setattr(node, name, self._expression(value))
        return node
