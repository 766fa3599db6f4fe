"""Parser, JSON Schema, example and reference page are one thing."""

import json
import re
from typing import Any

import pytest
import yaml

from nebh.model.service import ServiceSpec
from nebh.spec.fields import SPEC
from nebh.spec.parse import parse_spec
from nebh.spec.read import walk_fields
from nebh.spec.schema import example_text, export_schema, render_reference

FIELDS = walk_fields(SPEC)


def lookup(schema: dict[str, Any], path: str) -> dict[str, Any] | None:
    here: dict[str, Any] | None = schema
    for step in path.split("."):
        assert here is not None
        key, items = step.removesuffix("[]"), step.endswith("[]")
        here = next((one for one in here.get("anyOf", [here]) if "properties" in one), here)
        here = here["additionalProperties"] if key == "<name>" else here.get("properties", {}).get(key)
        if here is not None and items:
            here = here["items"]
    return here


@pytest.mark.parametrize("path", [path for path, _ in FIELDS])
def test_every_field_is_in_schema_example_and_reference(path: str) -> None:
    found = lookup(export_schema(), path)
    assert found is not None
    assert found.get("description")
    key = path.rpartition(".")[2]
    assert re.search(rf"(?<![\w-]){re.escape(key)}:", example_text()), f"{path} is not in example.yaml"
    assert f"| `{path}` |" in render_reference()


def test_every_field_of_the_model_can_be_written() -> None:
    keys = {path.partition(".")[0].removesuffix("[]") for path, _ in FIELDS}
    elsewhere = {"placement", "mounts"}  # stands under policy:, with volumes:
    assert set(ServiceSpec.__dataclass_fields__) - elsewhere == keys


def test_defaults_on_the_page_are_the_parsers_defaults() -> None:
    small = "name: web\nimage: {dir: r}\nargv: [/a]\nlimits: {memory: 64M}\npolicy: {checks_required: false}\n"
    plain = parse_spec(small, file="a")
    written: dict[str, Any] = {}
    for path, field in FIELDS:
        top, _, key = path.partition(".")
        if "[]" in path or "." in key or not field.default or " " in field.default or field.default.startswith("["):
            continue
        if top in {"limits", "stop", "update", "retention", "user"} or (top == "health" and key):
            target = written.setdefault(top, {}) if key else written
            target[key or top] = yaml.safe_load(field.default)
    base = {"name": "web", "image": {"dir": "r"}, "argv": ["/a"], "policy": {"checks_required": False}}
    written["limits"]["memory"] = "64M"
    assert parse_spec(json.dumps(base | written), file="a") == plain


def test_the_schema_accepts_the_example_and_refuses_what_is_wrong() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = export_schema()
    check = jsonschema.Draft202012Validator(schema)
    good = yaml.safe_load(example_text())
    assert not list(check.iter_errors(good))
    for wrong in (
        {"name": "Web"},
        {"helth": {}},
        {"ports": {"http": "x"}},
        {"limits": {}},
        {"stop": {"signal": "SIGX"}},
    ):
        assert list(check.iter_errors(good | wrong)), wrong
