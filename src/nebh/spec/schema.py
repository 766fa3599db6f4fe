"""What a spec file may hold, for editors (JSON Schema) and for people (reference page): both from `fields.SPEC`."""

from __future__ import annotations

import importlib.resources
from typing import Any, assert_never

from nebh.spec.fields import SPEC
from nebh.spec.read import walk_fields
from nebh.spec.shape import (
    Choice,
    Cores,
    Duration,
    Either,
    Flag,
    Free,
    Listing,
    Section,
    Shape,
    Size,
    Table,
    Text,
    Whole,
)

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


def example_text() -> str:
    """Return the commented example that names every field."""
    return importlib.resources.files("nebh.spec").joinpath("example.yaml").read_text(encoding="utf-8")


def export_schema() -> dict[str, Any]:
    """Return a JSON Schema (2020-12) of spec files. It says what editors can check; the parser checks more."""
    return {"$schema": SCHEMA_ID, "title": "Nebh service spec", **_describe(SPEC)}


def render_reference() -> str:
    """Return the reference page (Markdown): every field with kind and default, then the commented example."""
    rows = [
        "# Service specs",
        "",
        (
            "A service spec is one YAML file that says what a service is. `nebh plan` shows what it would change, "
            "`nebh deploy` signs and deploys it, `nebh schema` prints a JSON Schema for editors."
        ),
        "",
        (
            "Durations are written `250ms`, `10s`, `5m`, `2h`, `7d`; sizes `64M`, `1.5G` (powers of 1024). `[]` marks "
            "the items of a list. Anchors, aliases and tags of YAML are not allowed, and a key may stand once only."
        ),
        "",
        "| field | is | default | what it says |",
        "|---|---|---|---|",
    ]
    for path, field in walk_fields(SPEC):
        default = "**required**" if field.required else f"`{field.default}`" if field.default else ""
        rows.append(f"| `{path}` | {_kind(field.shape).replace('|', chr(92) + '|')} | {default} | {field.doc} |")
    rows += ["", "## Every field, in one example", "", "```yaml", example_text().rstrip(), "```", ""]
    return "\n".join(rows)


def _describe(shape: Shape) -> dict[str, Any]:
    match shape:
        case Text():
            kinds: Any = ["string", "number"] if shape.numbers else "string"
            pattern = {"pattern": f"^(?:{_portable(shape.pattern)})$"} if shape.pattern else {}
            return {"type": kinds, "maxLength": shape.longest, **pattern}
        case Whole():
            return {"type": "integer", "minimum": shape.low, "maximum": shape.high}
        case Flag():
            return {"type": "boolean"}
        case Choice():
            return {"enum": list(shape.values)}
        case Size():
            return {"type": ["string", "integer"], "minimum": 0, "pattern": r"^\d+(\.\d+)?\s*[KMGT]?i?B?$"}
        case Duration():
            return {
                "type": ["string", "integer"],
                "maximum": 0,
                "minimum": 0,
                "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$",
            }
        case Cores():
            return {"type": "number", "exclusiveMinimum": 0, "maximum": 9999}
        case Listing():
            unique = {"uniqueItems": True} if shape.unique else {}
            items = _describe(shape.item)
            return {"type": "array", "items": items, "minItems": shape.least, "maxItems": shape.most, **unique}
        case Table():
            names = {"pattern": f"^(?:{_portable(shape.key.pattern)})$"}
            rest = _describe(shape.item)
            return {"type": "object", "propertyNames": names, "additionalProperties": rest, "maxProperties": shape.most}
        case Section():
            return _describe_section(shape)
        case Free():
            return {"type": ["string", "number", "boolean", "array", "object"]}
        case Either():
            return {"anyOf": [_describe(shape.short), _describe(shape.long)]}
        case _:
            assert_never(shape)


def _describe_section(shape: Section) -> dict[str, Any]:
    properties = {}
    for field in shape.fields:
        default = f" Default: {field.default}." if field.default else ""
        properties[field.key] = {"description": field.doc + default, **_describe(field.shape)}
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [field.key for field in shape.fields if field.required]
    if required:
        found["required"] = required
    if shape.one_of:
        found["oneOf"] = [{"required": [key]} for key in shape.one_of]
    return found


def _portable(pattern: str) -> str:
    """Python's end-of-text is `$` in the regular expressions of JSON Schema."""
    return pattern.replace(r"\Z", "$")


def _kind(shape: Shape) -> str:
    match shape:
        case Text():
            return shape.expects
        case Whole():
            return f"number, {shape.low} to {shape.high}"
        case Flag():
            return "true or false"
        case Choice():
            return " | ".join(shape.values)
        case Size():
            return "size"
        case Duration():
            return "duration"
        case Cores():
            return "cores, such as 0.5"
        case Listing():
            return f"list of: {_kind(shape.item)}"
        case Table():
            return f"mapping: {shape.key.expects} to {_kind(shape.item)}"
        case Section():
            return "exactly one of: " + ", ".join(shape.one_of) if shape.one_of else "section"
        case Free():
            return "any value"
        case Either():
            return f"{_kind(shape.short)}, or a section"
        case _:
            assert_never(shape)
