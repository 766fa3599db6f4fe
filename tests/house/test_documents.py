"""Every command, route and setting is on a page, and generated pages are up to date."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from nebh.model.local import LocalConfig
from nebh.planning.accept import RULES
from nebh.testing.docs import commands, programs, render_pages
from nebh.testing.pages import read_blocks

HOUSE = Path(__file__).resolve().parents[2]
SOURCE = HOUSE / "src" / "nebh"
VERBS = {"get", "post", "put", "patch", "delete", "websocket"}


PAGES = sorted(path.relative_to(HOUSE).as_posix() for path in [*HOUSE.glob("*.md"), *(HOUSE / "docs").rglob("*.md")])


def page(name: str) -> str:
    return (HOUSE / name).read_text()


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
    text = page("docs/cli.md")
    missing = [one.prog for parser in programs() for one in commands(parser) if f"## {one.prog}\n" not in text]
    assert not missing, "run `make docs`"


@pytest.mark.parametrize(
    "name", ["docs/cli.md", "docs/spec.md", "docs/api.md", "docs/security-containers.md", "docs/images.md"]
)
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert page(name) == render_pages()[name], "run `make docs`"


def test_every_command_says_what_it_is_for() -> None:
    found = [one for parser in programs() for one in commands(parser)]
    assert not [one.prog for one in found if len((one.description or "").strip()) < 10]


def test_every_route_is_on_a_page() -> None:
    routes, text = read_routes(), page("docs/api.md")
    assert routes
    assert not [route for route in sorted(routes) if route not in text]


@pytest.mark.parametrize("setting", [field.name for field in dataclasses.fields(LocalConfig)])
def test_every_setting_of_node_json_is_on_a_page(setting: str) -> None:
    assert f"`{setting}`" in page("docs/operations.md")


def test_every_environment_variable_is_on_a_page() -> None:
    text = page("docs/operations.md")
    assert not [name for name in sorted(read_variables()) if name not in text]


def headings_of(text: str) -> set[str]:
    """The anchors that a page's headings get."""
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in found}


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    for link, anchor in re.findall(r"]\(([^)#\s]*)(?:#([^)\s]*))?\)", page(name)):
        target = (HOUSE / name).parent / link if link else HOUSE / name
        if "://" in link:
            continue
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in headings_of(target.read_text()), f"{link}#{anchor}"


@pytest.mark.parametrize("name", PAGES)
def test_tests_that_a_page_names_exist(name: str) -> None:
    for path, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page(name)):
        assert (HOUSE / path).exists(), path
        assert not test or f"def {test}(" in page(path), f"{path}::{test}"


@pytest.mark.parametrize("name", PAGES)
def test_commands_that_a_page_names_exist(name: str) -> None:
    known = {one.prog for parser in programs() for one in commands(parser)}
    found = re.findall(r"(?:^|`|\bsudo )(nebh(?:-executor)? [a-z][a-z-]*)", page(name), re.MULTILINE)
    assert not set(found) - known


def test_commands_that_messages_name_exist() -> None:
    known = {one.prog for parser in programs() for one in commands(parser)}
    text = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    families = {prog.rpartition(" ")[0] for prog in known if prog.count(" ") == 2}
    found = set(re.findall(r"`(nebh(?:-executor)? [a-z][a-z-]*)(?= |`)", text))
    found |= {
        words for words in re.findall(r"`(nebh [a-z]+ [a-z]+)(?= |`)", text) if words.rpartition(" ")[0] in families
    }
    assert not found - known


def test_every_rule_of_a_node_is_on_the_security_page() -> None:
    text = page("docs/security.md")
    assert not [rule.id for rule in RULES if f"`{rule.id}`" not in text]


@pytest.mark.parametrize("name", ["README.md", "docs/first-service.md"])
def test_commands_of_a_tutorial_are_run_or_say_why_not(name: str) -> None:
    assert read_blocks(page(name))


@pytest.mark.parametrize("path", sorted((HOUSE / "docs" / "adr").glob("[0-9]*.md")), ids=lambda path: path.stem[:4])
def test_a_decision_has_its_sections(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {path.name[:4]}. ")
    if not path.name.startswith("0000"):
        for section in ("Decision", "Alternatives", "Reasons", "Costs", "Held by"):
            assert f"\n## {section}\n" in text, section
