"""Nobody has to read a giant: modules and functions stay small, and a module is named after an idea."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for top in ("registry_hooks", "server", "pipeline", "benchmarks") for path in (ROOT / top).rglob("*.py")
)
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 60
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}


def test_no_module_is_longer_than_300_lines() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    too_long = {str(path): length for path, length in lengths.items() if length > MAX_MODULE_LINES}

    assert not too_long, f"split these by idea: {too_long}"


def test_no_function_is_longer_than_60_lines() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for length in [(node.end_lineno or node.lineno) - node.lineno + 1]
        if length > MAX_FUNCTION_LINES
    ]

    assert not too_long, "say the steps in functions of their own:\n" + "\n".join(too_long)


def test_modules_are_named_after_ideas() -> None:
    nameless = [str(path.relative_to(ROOT)) for path in SOURCES if path.stem in EMPTY_NAMES]

    assert not nameless


def test_test_files_have_names_of_their_own_and_no_package_files() -> None:
    """Two files of one name, or an `__init__.py` that shadows a real package, break the import of tests."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]

    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
    assert "__init__.py" not in names
