"""A child process runs the installed code, wherever it is started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from devices.children import module_command

# The row writer takes a number and explains nothing: that it complains of the number shows that it is what runs.
MODULES = {
    "devices.guard_process": "usage: python -m devices.guard_process",
    "devices.mock.stimulator_process": "usage: python -m devices.mock.stimulator_process",
    "loop.row_writer": "invalid literal for int() with base 10: '--help'",
}


@pytest.mark.parametrize(("module", "words"), MODULES.items())
def test_a_package_of_the_same_name_in_the_working_directory_is_not_run(module: str, words: str, tmp_path: Path) -> None:
    for name in ("loop", "devices", "cext"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the folder was imported')\n")
    done = subprocess.run(
        module_command(module, "--help"), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert words in done.stdout + done.stderr


def test_no_module_is_started_in_another_way() -> None:
    root = Path(__file__).parents[2]
    files = [path for folder in ("loop", "devices") for path in (root / folder).rglob("*.py")]
    others = [path.name for path in files if '"-m"' in path.read_text() and path.name != "children.py"]
    assert not others
