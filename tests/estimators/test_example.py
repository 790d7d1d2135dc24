"""Somebody else's plug-in passes the kit, from a test file as the kit's own documentation has it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from loop.estimators import testkit

HERE = Path(__file__).parent


def test_the_documented_test_file_runs_on_a_plug_in_of_somebody_else(tmp_path: Path) -> None:
    documented = textwrap.dedent(testkit.__doc__.split("::\n", 1)[1].split("A check raises")[0])
    (tmp_path / "test_mine.py").write_text(documented.replace("my_package", "estimators_example"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path, env={"PYTHONPATH": str(HERE), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(testkit.CHECKS)} passed" in done.stdout
