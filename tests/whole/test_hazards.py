"""The table of hazards: every invariant and fault is there, names tests that exist, and each such test is under its row."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = tomllib.loads((TESTS / "hazards.toml").read_text())
INVARIANTS = [f"I{number:02d}" for number in range(1, 31)]
FAULTS = [f"F{number:02d}" for number in range(1, 57)]
CODE = re.compile(r"\b(I(?:0[1-9]|[12][0-9]|30)|F(?:0[1-9]|[1-4][0-9]|5[0-6]))\b")


def functions(path: Path) -> dict[str, str]:
    """Name and text of every test in a file, a state machine's test case included."""
    text = path.read_text()
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found[node.name] = ast.get_source_segment(text, node) or ""
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.startswith("Test"):
            found[node.targets[0].id] = ""
    return found


def spoken_of() -> dict[str, set[str]]:
    """For each row the files in which a test, or the file's first sentence, speaks of it."""
    files: dict[str, set[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path == Path(__file__):
            continue
        text = path.read_text()
        words = [ast.get_docstring(ast.parse(text)) or "", *functions(path).values(), *re.findall(r"#.*", text)]
        for code in {code for word in words for code in CODE.findall(word)}:
            files.setdefault(code, set()).add(path.relative_to(TESTS).as_posix())
    return files


def test_every_row_is_there_with_its_text_and_at_least_one_test() -> None:
    assert list(TABLE) == [*INVARIANTS, *FAULTS]
    for code, row in TABLE.items():
        assert len(row["text"]) > 5, code
        assert row["tests"], code
        assert len(set(row["tests"])) == len(row["tests"]), code
        if code in FAULTS:
            assert row["group"] and row["answer"] and row["bound"], code
            assert set(row["invariants"]) <= set(INVARIANTS), code
            assert row["invariants"], code


def test_every_test_that_is_named_exists() -> None:
    known = {
        f"{path.relative_to(TESTS).as_posix()}::{name}" for path in TESTS.rglob("test_*.py") for name in functions(path)
    }
    missing = {(code, name) for code, row in TABLE.items() for name in row["tests"] if name not in known}
    assert not missing


def test_every_test_that_speaks_of_a_row_stands_under_it() -> None:
    stray = {
        (code, file)
        for code, files in spoken_of().items()
        for file in files
        if not any(name.startswith(f"{file}::") for name in TABLE[code]["tests"])
    }
    assert not stray


FOREIGN = """
import sys, types
if sys.argv[1] == "missing":
    sys.modules["cext.kernel"] = None
else:
    foreign = types.ModuleType("cext.kernel")
    foreign.KERNEL_ABI = -1
    sys.modules["cext.kernel"] = foreign
sys.argv = ["cereloop", "simulate", "--duration", "5", "--out", sys.argv[2]]
from loop.cli import main
main()
"""


@pytest.mark.parametrize("how", ["missing", "foreign"])
def test_a_missing_or_foreign_kernel_is_one_sentence(how: str, tmp_path: Path) -> None:
    out = tmp_path / "never.sqlite"
    done = subprocess.run([sys.executable, "-c", FOREIGN, how, str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("cereloop: the compiled kernel")
    assert done.stderr.count("\n") == 1
    assert not out.exists()
