"""The numbers and habits of the house, held by reading the code (floors are import-linter's, style is ruff's)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2]
SOURCE = HOUSE / "src" / "nebh"
SKIPPED = {"build", "__pycache__", "node_modules"}
TEXTS = {".py", ".md", ".sh", ".toml", ".yaml", ".yml", ".txt", ".in", ".json", ".html", ".css", ".js", ".service", ""}
LOW_FLOORS = [
    "model",
    "host",
    "spec",
    "wire",
    "signing",
    "state",
    "journal",
    "drivers",
    "providers",
    "images",
    "client",
    "planning",
]

FILE_LINES = 500
FUNCTION_LINES = 60


def house_files(root: Path = HOUSE) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        hidden = path.name.startswith(".") and path.name != ".ci"
        if hidden or path.name in SKIPPED or path.name.endswith(".egg-info") or path.is_symlink():
            continue
        if path.is_dir():
            yield from house_files(path)
        elif path.suffix in TEXTS:
            yield path


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in house_files(HOUSE / folder) if path.suffix == ".py"]


def named(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def imports_of(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_file_is_over_500_lines() -> None:
    long = {named(path): lines for path in python_files("src", "tests") if (lines := _lines(path)) > FILE_LINES}
    assert not long


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_no_function_is_over_60_lines() -> None:
    long = {
        f"{named(path)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in python_files("src", "tests")
        if "migrations" not in path.parts  # one step of history is one function
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    }
    assert not long


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "shared"}
    assert not [named(path) for path in python_files("src", "tests") if {path.stem, path.parent.name} & drawers]


@pytest.mark.parametrize("floor", LOW_FLOORS)
def test_floors_0_to_3_are_tested_without_mocks(floor: str) -> None:
    if not (HOUSE / "tests" / floor).is_dir():
        pytest.skip(f"tests/{floor} does not exist yet")
    mocks = {"mock", "unittest.mock", "pytest_mock", "flexmock"}
    for path in python_files(f"tests/{floor}"):
        assert not imports_of(ast.parse(path.read_text())) & mocks, named(path)


def test_only_host_touches_the_machine() -> None:
    """The second look at what import-linter holds: it sees imports inside functions and by importlib, too."""
    machine = re.compile(
        r"import_module\(\s*[\"'](subprocess|socket|ctypes)[\"']|__import__\(|os\.(system|popen|exec|spawn)"
    )
    alone = SOURCE / "testing" / "example_app.py"  # a program that runs inside test images, without the rest of Nebh
    for path in python_files("src"):
        if path.is_relative_to(SOURCE / "host") or path == alone:
            continue
        text = path.read_text()
        assert not imports_of(ast.parse(text)) & {"subprocess", "socket", "ctypes"}, named(path)
        assert not machine.search(text), named(path)


def test_every_public_class_and_function_states_its_promise() -> None:
    silent = [
        f"{named(path)}:{node.lineno} {node.name}"
        for path in python_files("src")
        if "migrations" not in path.parts
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not silent


def test_every_module_and_package_says_what_it_is() -> None:
    assert not [
        named(path)
        for path in python_files("src")
        if "migrations" not in path.parts and not ast.get_docstring(ast.parse(path.read_text()))
    ]


def test_every_package_is_a_package() -> None:
    assert not {named(path.parent) for path in python_files("src") if not (path.parent / "__init__.py").exists()}


def test_nothing_is_left_open() -> None:
    open_ends = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    assert not _places(open_ends, house_files())


def test_nothing_names_the_place_it_was_built_at() -> None:
    """Paths of a workplace mean nothing to a reader; tests may use the sample data beside the checkout."""
    places = re.compile(r"/wo" r"rk/|(?<![\w.-])(\.\./)?sha" r"red/(?!data)|/opt/(pypi|wheels)")
    assert not _places(places, house_files())


def _places(pattern: re.Pattern[str], files: Iterator[Path]) -> list[str]:
    return [
        f"{named(path)}:{number}: {line.strip()[:120]}"
        for path in files
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if pattern.search(line)
    ]
