"""The wheel holds loop, cext and devices and nothing else; the checkout's top level is what it should be; examples run."""

from __future__ import annotations

import doctest
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_three_packages_and_nothing_else(tmp_path: Path) -> None:
    # A copy, so that the build leaves nothing in the checkout.
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    source = tmp_path / "source"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    info = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert {name.split("/")[0] for name in set(names) - info} == {"loop", "cext", "devices"}
    assert any(name.startswith("cext/kernel") and name.endswith(".so") for name in names)
    data = ("loop/configs/simulate.toml", "devices/checklist.toml", "devices/mock/tasks/paradigm.toml", "cext/kernel.pyi")
    for needed in (*data, "loop/py.typed", "devices/py.typed", "cext/py.typed", "loop/estimators/testkit.py"):
        assert needed in names
    for needed in ("reference_serial_protocol.md", "conformance/checks.py", "mock/rigs.py"):
        assert f"devices/{needed}" in names
    assert not [name for name in names if "tests" in name.split("/") or name.split("/")[-1].startswith("test_")]


def test_the_top_level_is_exactly_what_it_should_be() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    top = {name.split("/")[0] for name in listed}
    allowed = {"pyproject.toml", "loop", "cext", "devices", "tests", "configs", "README.md", "LICENSE", "CHANGELOG.md"}
    assert {name for name in top if not name.startswith(".")} == allowed


@pytest.mark.parametrize(("module", "examples"), [("loop.api", 10), ("loop", 3)])
def test_the_documented_examples_run(
    module: str, examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(__import__(module, fromlist=["_"]), optionflags=doctest.ELLIPSIS)
    assert result.attempted >= examples
    assert result.failed == 0
