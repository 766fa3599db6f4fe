"""Every command, route and setting is on a page, and generated pages are up to date."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest

from nebh.model.local import LocalConfig

HOUSE = Path(__file__).resolve().parents[2]
SOURCE = HOUSE / "src" / "nebh"
VERBS = {"get", "post", "put", "patch", "delete", "websocket"}


def page(name: str) -> str:
    path = HOUSE / name
    if not path.exists():
        pytest.skip(f"{name} is not written yet")
    return path.read_text()


def require_command_line() -> None:
    if importlib.util.find_spec("nebh.cli.main") is None:
        pytest.skip("nebh.cli.main is not written yet")


def read_routes() -> set[str]:
    """The paths that handlers in nebh.api are registered for, parameters without their types."""
    found: set[str] = set()
    for path in sorted((SOURCE / "api").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in VERBS:
                    found |= {text for argument in call.args for text in _paths_in(argument)}
    return {re.sub(r":\w+}", "}", route) for route in found}


def _paths_in(argument: ast.expr) -> list[str]:
    constants = [node.value for node in ast.walk(argument) if isinstance(node, ast.Constant)]
    return [value for value in constants if isinstance(value, str) and value.startswith("/")]


def read_variables() -> set[str]:
    """The environment variables the programs read or set: NEBH_* in the code."""
    text = "\n".join(path.read_text() for path in SOURCE.rglob("*.py") if "testing" not in path.parts)
    return set(re.findall(r"\bNEBH_[A-Z0-9_]*[A-Z0-9]\b", text))


def test_every_command_is_on_the_reference_page() -> None:
    require_command_line()
    from nebh.testing.docs import command_line, commands

    text = page("docs/cli.md")
    missing = [command.prog for command in commands(command_line()) if f"## {command.prog}\n" not in text]
    assert not missing, "run `make docs`"


def test_the_reference_page_is_what_the_code_says() -> None:
    require_command_line()
    from nebh.testing.docs import command_line, render_reference

    assert page("docs/cli.md") == render_reference(command_line()), "run `make docs`"


def test_every_command_says_what_it_is_for() -> None:
    require_command_line()
    from nebh.testing.docs import command_line, commands

    assert not [command.prog for command in commands(command_line()) if not (command.description or "").strip()]


def test_every_route_is_on_a_page() -> None:
    routes = read_routes()
    if not routes:
        pytest.skip("nebh.api has no routes yet")
    text = page("docs/api.md")
    assert not [route for route in sorted(routes) if route not in text]


@pytest.mark.parametrize("setting", [field.name for field in dataclasses.fields(LocalConfig)])
def test_every_setting_of_node_json_is_on_a_page(setting: str) -> None:
    assert f"`{setting}`" in page("docs/operations.md")


def test_every_environment_variable_is_on_a_page() -> None:
    text = page("docs/operations.md")
    assert not [name for name in sorted(read_variables()) if name not in text]


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md", "docs/security.md", "docs/operations.md"])
def test_links_between_pages_lead_somewhere(name: str) -> None:
    links = re.findall(r"]\(([^)#]+)(?:#[^)]*)?\)", page(name))
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not ((HOUSE / name).parent / link).exists()]


@pytest.mark.parametrize("path", sorted((HOUSE / "docs" / "adr").glob("[0-9]*.md")), ids=lambda path: path.stem[:4])
def test_a_decision_has_its_sections(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {path.name[:4]}. ")
    if not path.name.startswith("0000"):
        for section in ("Decision", "Alternatives", "Reasons", "Costs", "Held by"):
            assert f"\n## {section}\n" in text, section
