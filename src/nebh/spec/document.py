"""YAML text -> nodes with places. Nothing is constructed from tags, and nothing is expanded: no anchors, no aliases."""

from __future__ import annotations

import yaml
from yaml.nodes import Node

from nebh.model.errors import Problem

LIMIT = 256 * 1024
DEPTH = 24


class _Refused(Exception):
    """An event that a spec file may not contain."""

    def __init__(self, message: str, mark: yaml.Mark, hint: str) -> None:
        super().__init__(message)
        self.message, self.mark, self.hint = message, mark, hint


class _Loader(yaml.SafeLoader):
    """Composes nodes only. Aliases are refused: a few lines of them expand to gigabytes."""

    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            hint = "write the value out where it is needed"
            raise _Refused("anchors and aliases (&name, *name) are not allowed", event.start_mark, hint)
        if getattr(event, "tag", None) is not None:
            raise _Refused("explicit tags (!name) are not allowed", event.start_mark, "remove the tag")
        if self.depth >= DEPTH:
            raise _Refused(f"more than {DEPTH} levels deep", event.start_mark, "")
        self.depth += 1
        try:
            return super().compose_node(parent, index)  # type: ignore[no-any-return,no-untyped-call,unused-ignore]
        finally:
            self.depth -= 1


def parse_document(text: str, *, file: str) -> tuple[Node | None, tuple[Problem, ...]]:
    """Return (the one document's root node, no problems) or (None, what makes the text unreadable)."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > LIMIT:
        return None, (_problem(file, f"the file has {size} bytes, at most {LIMIT} are allowed"),)
    try:
        loader = _Loader(text)
        try:
            node: Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except _Refused as error:
        return None, (_problem(file, error.message, mark=error.mark, hint=error.hint),)
    except yaml.MarkedYAMLError as error:
        return None, (_marked(file, text, error),)
    except yaml.reader.ReaderError as error:
        place = text[: error.position].count("\n") + 1
        code = error.character if isinstance(error.character, int) else ord(error.character[:1])
        message = f"the character U+{code:04X} is not allowed in YAML"
        return None, (Problem(file=file, line=place, column=1, path="", message=message),)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return None, (_problem(file, f"it is not YAML: {error}"),)
    if node is None:
        return None, (_problem(file, "the file is empty", hint="start from an example: nebh schema --example"),)
    return node, ()


def _problem(file: str, message: str, *, mark: yaml.Mark | None = None, hint: str = "") -> Problem:
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    return Problem(file=file, line=line, column=column, path="", message=message, hint=hint)


def _marked(file: str, text: str, error: yaml.MarkedYAMLError) -> Problem:
    """Say a scanner's complaint in words that name the usual cause."""
    mark = error.problem_mark or error.context_mark
    lines = text.splitlines()
    row = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if "\t" in row[: len(row) - len(row.lstrip())]:
        return _problem(file, "a tab in the indentation", mark=mark, hint="YAML indents with spaces: use two")
    if isinstance(error, yaml.composer.ComposerError) and "single document" in str(error):
        return _problem(file, "more than one document (---)", mark=mark, hint="one file holds one service")
    detail = error.problem or error.context or "unknown cause"
    return _problem(
        file, f"it is not YAML: {detail}", mark=mark, hint="check the indentation and quotes near this place"
    )
