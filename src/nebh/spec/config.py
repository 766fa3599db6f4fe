"""`config:` and `files:` of a spec -> model, with all problems at once."""

from __future__ import annotations

import posixpath
from typing import Any

from nebh.model.config import ConfigFile, OnChange, find_place_problem
from nebh.model.config_layer import ConfigSpec, FileSource, KeyRule
from nebh.spec.read import Reader, Value


def parse_config(reader: Reader, root: Value) -> ConfigSpec:
    """Return the part `config:`; what is wrong with it is a problem of `reader`."""
    section = root.get("config")
    if section is None:
        return ConfigSpec()
    values = section.get("values")
    if values is not None and not isinstance(values.data, dict):
        reader.complain(values, values.path, "a mapping is needed here", "write `key: value` lines, indented below it")
    merge, extends, schema = section.get("merge"), section.get("extends"), section.get("schema")
    return ConfigSpec(
        values=values.data if values is not None and isinstance(values.data, dict) else {},
        merge={key: one.data for key, one in merge.data.items()} if merge is not None else {},
        extends=tuple(one.data for one in extends.data) if extends is not None else (),
        schema={key: _rule(one) for key, one in schema.data.items()} if schema is not None else {},
    )


def _rule(value: Value) -> KeyRule:
    if isinstance(value.data, str):
        return KeyRule(type=value.data)
    given: dict[str, Any] = {key: one.data for key, one in value.data.items()}
    if "enum" in given:
        given["enum"] = tuple(one.data for one in given["enum"])
    return KeyRule(**{"type": "text", **given})


def parse_files(reader: Reader, root: Value, base: str) -> tuple[FileSource, ...]:
    """Return the part `files:`. base: absolute folder at which relative paths of templates start."""
    value = root.get("files")
    found: list[FileSource] = []
    for one in value.data if value is not None else ():
        if one.get("path") is not None:
            found.append(_file(reader, one, base, {other.file.path for other in found}))
    return tuple(found)


def _file(reader: Reader, value: Value, base: str, taken: set[str]) -> FileSource:
    place = value.get("path")
    assert place is not None
    path = str(place.data)
    problem = "two files have this path" if path in taken else find_place_problem(path)
    if problem:
        reader.complain(place, place.path, f"`{path}`: {problem}")
    on_change = OnChange(_data(value, "on_change", "restart"))
    signal, argv = value.get("signal"), value.get("argv")
    if on_change is OnChange.RELOAD and (signal is None) == (argv is None):
        reader.complain(value, value.path, "`on_change: reload` needs `signal` or `argv`, one of them", "such as HUP")
    if on_change is not OnChange.RELOAD and (signal is not None or argv is not None):
        reader.complain(value, value.path, "`signal` and `argv` go with `on_change: reload`", "")
    if argv is not None and argv.data and not str(argv.data[0].data).startswith("/"):
        reader.complain(argv, argv.path, f"`{argv.data[0].data}` is not an absolute path", "no shell looks it up")
    template = _data(value, "template", "")
    source = posixpath.normpath(posixpath.join(base, template)) if template else ""
    file = ConfigFile(
        path=path,
        template=template or path,
        mode=int(_data(value, "mode", "444"), 8),
        on_change=on_change,
        signal=_data(value, "signal", ""),
        argv=tuple(one.data for one in argv.data) if argv is not None else (),
    )
    return FileSource(file=file, source=source, text=_data(value, "text", ""))


def _data(value: Value, key: str, default: str) -> str:
    found = value.get(key)
    return default if found is None else str(found.data)
