"""Values from other tools' files: .env, INI, TOML, JSON, YAML, Ansible's group_vars and host_vars."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from nebh.model.errors import BadInput, Problem, SpecErrors
from nebh.spec.document import parse_document
from nebh.spec.layers import LAYER, parse_value
from nebh.spec.read import Reader
from nebh.spec.shape import Free

Notes = list[str]
_ENV = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*=\s*(.*?)\s*\Z")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "$": "$"}
_TOP = "[nebh top]"
FORMATS = ("env", "ini", "toml", "json", "yaml")


def format_of(name: str) -> str:
    """Return the format that a file's name says. Raises BadInput."""
    base = name.rpartition("/")[2]
    if base == ".env" or base.startswith(".env.") or base.endswith(".env"):
        return "env"
    ending = base.rpartition(".")[2]
    found = {"ini": "ini", "cfg": "ini", "conf": "ini", "toml": "toml", "json": "json", "yaml": "yaml", "yml": "yaml"}
    if ending not in found:
        raise BadInput(f"cannot tell the format of {name}", hint=f"say it: --format {'|'.join(FORMATS)}")
    return found[ending]


def import_values(text: str, *, kind: str, file: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return (values, notes on what was changed or left out) of a file. Raises SpecErrors naming each bad place."""
    notes: Notes = []
    readers: Mapping[str, Callable[[str, str, Notes], Any]] = {
        "env": _env,
        "ini": _ini,
        "toml": _toml,
        "json": _json,
        "yaml": _yaml,
    }
    text = text.removeprefix("\ufeff")  # of editors on Windows
    if text.startswith("$ANSIBLE_VAULT;"):
        hint = "`ansible-vault view` shows it; what is secret belongs to `nebh secret import`"
        raise SpecErrors((_problem(file, 1, "it is encrypted by ansible-vault", hint),))
    values = readers[kind](text, file, notes)
    if not isinstance(values, dict):
        raise SpecErrors((_problem(file, 1, "it holds no mapping of keys to values"),))
    for key in [key for key, one in values.items() if one is None]:
        notes.append(f"{key}: it is empty: left out")
    return {key: _plain(one, key, notes) for key, one in values.items() if one is not None}, tuple(notes)


def _problem(file: str, line: int, message: str, hint: str = "") -> Problem:
    return Problem(file=file, line=line, column=1, path="", message=message, hint=hint)


def _plain(value: Any, path: str, notes: Notes) -> Any:
    """Return a value of the kinds that layers have."""
    if isinstance(value, dict):
        for key in [key for key, one in value.items() if one is None]:
            notes.append(f"{path}.{key}: it is empty: left out")
        return {str(key): _plain(one, f"{path}.{key}", notes) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        for number in [number for number, one in enumerate(value) if one is None]:
            notes.append(f"{path}.{number}: it is empty: left out")
        return [_plain(one, f"{path}.{number}", notes) for number, one in enumerate(value) if one is not None]
    if isinstance(value, (str, bool, int)):
        if isinstance(value, str) and ("{{" in value or "{%" in value):
            notes.append(f"{path}: it holds a template of another tool, which is text here")
        return value
    notes.append(f"{path}: {value} is kept as text")
    return str(value)


def _env(text: str, file: str, notes: Notes) -> dict[str, Any]:  # noqa: ARG001 - the shape of a reader
    found: dict[str, Any] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ENV.match(line)
        if match is None:
            problems.append(_problem(file, number, "it is not NAME=value"))
            continue
        name, raw = match.groups()
        if name in found:
            problems.append(_problem(file, number, f"{name} stands here for the second time", "keep one of them"))
            continue
        if raw[:1] in {'"', "'"}:
            end = _closing(raw)
            if end < 0 or raw[end + 1 :].strip()[:1] not in {"", "#"}:
                problems.append(_problem(file, number, f"{name}: the quote is not closed on its line"))
                continue
            inner = raw[1:end]
            found[name] = re.sub(r"\\(.)", _unescape, inner) if raw[0] == '"' else inner
        else:
            found[name] = parse_value(re.split(r"\s#", raw, maxsplit=1)[0].strip())
    if problems:
        raise SpecErrors(tuple(problems))
    return found


def _closing(raw: str) -> int:
    at = 1
    while at < len(raw):
        if raw[at] == "\\" and raw[0] == '"':
            at += 1
        elif raw[at] == raw[0]:
            return at
        at += 1
    return -1


def _unescape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[0])


def _ini(text: str, file: str, notes: Notes) -> dict[str, Any]:
    reader = configparser.RawConfigParser(strict=True, default_section="")
    # keys keep their case
    reader.optionxform = lambda optionstr: optionstr  # type: ignore[method-assign]
    try:
        reader.read_string(text, source=file)
    except configparser.MissingSectionHeaderError as error:
        if text.startswith(_TOP):
            raise SpecErrors((_problem(file, error.lineno, "it is no INI"),)) from error
        return _ini(f"{_TOP}\n{text}", file, notes)
    except configparser.Error as error:
        above = text.startswith(_TOP)  # a line that the file does not have
        raise SpecErrors(tuple(_problem(file, line - above, said) for line, said in _of_ini(error))) from error
    found: dict[str, Any] = {}
    for section in reader.sections():
        values = {key: parse_value(one or "") for key, one in reader.items(section)}
        if section == _TOP[1:-1]:
            found |= values
        elif section in found:
            raise SpecErrors((_problem(file, 1, f"{section} is a key above all sections, and a section"),))
        else:
            found[section] = values
    return found


def _of_ini(error: configparser.Error) -> list[tuple[int, str]]:
    """Return (line, what is wrong with it)."""
    if isinstance(error, configparser.DuplicateOptionError):
        return [(error.lineno or 1, f"{error.option} stands here for the second time")]
    if isinstance(error, configparser.DuplicateSectionError):
        return [(error.lineno or 1, f"the section [{error.section}] stands here for the second time")]
    if isinstance(error, configparser.ParsingError):
        return [(line, "it is neither `key = value` nor [section]") for line, _ in error.errors]
    return [(1, str(error).splitlines()[0])]


def _toml(text: str, file: str, notes: Notes) -> Any:  # noqa: ARG001 - as above
    try:
        return tomllib.loads(text, parse_float=str)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = re.search(r"line (\d+)", str(error))
        raise SpecErrors((_problem(file, int(found[1]) if found else 1, f"it is not TOML: {error}"),)) from error
    except ValueError as error:
        raise SpecErrors((_problem(file, 1, "it holds a number that is too long"),)) from error


def _json(text: str, file: str, notes: Notes) -> Any:  # noqa: ARG001 - as above
    try:
        return json.loads(text, parse_float=str, parse_constant=str, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise SpecErrors((_problem(file, error.lineno, f"it is not JSON: {error.msg}"),)) from error
    except RecursionError as error:
        raise SpecErrors((_problem(file, 1, "it is nested too deep"),)) from error
    except _TwiceError as error:
        raise SpecErrors((_problem(file, 1, f"`{error}` stands twice in one mapping", "keep one of them"),)) from error
    except ValueError as error:
        raise SpecErrors((_problem(file, 1, "it holds a number that is too long"),)) from error


class _TwiceError(Exception):
    """A key that a mapping has twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(key)
        found[key] = value
    return found


def _yaml(text: str, file: str, notes: Notes) -> Any:  # noqa: ARG001 - as above
    if not re.sub(r"(?m)^\s*(#.*|---)?$", "", text).strip():
        return {}
    node, unreadable = parse_document(text, file=file)
    if node is None:
        raise SpecErrors(unreadable)
    reader = Reader(file=file, root=LAYER)
    value = reader.read(node, Free(), "")
    if reader.problems or value is None:
        raise SpecErrors(tuple(reader.problems))
    return value.data
