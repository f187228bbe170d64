"""Rules of the tree that import-linter cannot say."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "nacre"
FILES = sorted(SOURCE.rglob("*.py"))
BANNED_NAMES = {"utils", "util", "helpers", "helper", "misc", "manager", "managers"}
MAX_LINES = 400


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [relative(path) for path in FILES if path.stem in BANNED_NAMES or path.parent.name in BANNED_NAMES] == []


def test_every_module_opens_by_saying_what_it_is_for() -> None:
    silent = [
        relative(path)
        for path in FILES
        if "migrations/versions" not in str(path) and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_no_file_has_outgrown_itself() -> None:
    long = {relative(path): lines for path in FILES if (lines := len(path.read_text().splitlines())) > MAX_LINES}
    assert long == {}


def test_http_statuses_of_errors_appear_in_one_file_only() -> None:
    pattern = re.compile(r"Kind\.[A-Z_]+:\s*4\d\d")
    assert [relative(path) for path in FILES if pattern.search(path.read_text())] == ["control/api/problems.py"]


def test_nothing_is_swallowed() -> None:
    offenders: list[str] = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "BaseException")
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            exception = isinstance(node.type, ast.Name) and node.type.id == "Exception"
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if (broad and not reraises) or (exception and silent):
                offenders.append(f"{relative(path)}:{node.lineno}")
    assert offenders == []


def test_importing_a_module_does_nothing() -> None:
    """No module starts work at import: module level holds definitions, constants and imports."""
    offenders = [
        f"{relative(path)}:{node.lineno}"
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert offenders == []


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_source_file_of_a_layer_has_a_mirror_or_is_covered_by_its_folder(path: Path) -> None:
    """`src/nacre/a/b.py` is tested by `tests/a/test_b.py`, or by a file for its whole folder."""
    inside = path.relative_to(SOURCE)
    if inside.name in {"__init__.py", "__main__.py"} or "migrations" in inside.parts:
        return
    tests = ROOT / "tests" / inside.parent
    candidates = [tests / f"test_{inside.stem}.py", tests / inside.stem]
    folder = list(tests.glob("test_*.py")) if tests.is_dir() else []
    by_folder = list(tests.parent.glob(f"test_{inside.parent.name}*.py")) if tests.parent.is_dir() else []
    by_folder += (ROOT / "tests" / "contract").glob(f"test_{inside.parent.name}.py")
    assert any(c.exists() for c in candidates) or folder or by_folder, f"no test near {tests}"
