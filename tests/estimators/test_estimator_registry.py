"""Estimators by entry point: found, listed, used in a session; never in place of a built-in, and with a reason if they fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import loop
from loop.estimators import registry
from loop.estimators.errors import EstimatorError

Register = Callable[..., None]


class Mine:
    """A plug-in as somebody else might write it, over a built-in kernel."""

    name, summary, target, claim, needs_calibration = "mine", "my own", "nothing yet", "It is mine.", False

    def build(self, config: Any, layout: Any, calibration: Any) -> Any:
        estimator = registry.find("posterior_fossa").build(config, layout, calibration)
        estimator.name = "an estimator of mine"
        return estimator

    def learn_rest(self, *_: Any) -> None: ...
    def target_of(self, *_: Any) -> None: ...
    def fit(self, *_: Any) -> None: ...


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Register objects under names, as installed packages would."""
    points: list[EntryPoint] = []

    def add(name: str, plugin: object) -> None:
        module = ModuleType(f"somebody_{len(points)}")
        module.PLUGIN = plugin  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        points.append(EntryPoint(name, f"{module.__name__}:PLUGIN", registry.GROUP))

    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])
    return add


def problem_of(name: str) -> str:
    return next(entry.problem for entry in registry.available() if entry.name == name and entry.origin != "built in")


def test_built_ins_are_there_and_first(register: Register) -> None:
    register("aaa", Mine())
    names = [entry.name for entry in registry.available()]
    assert names[:2] == ["posterior_fossa", "event_readout"] == list(registry.BUILT_IN)
    for name in registry.BUILT_IN:
        assert registry.find(name).name == name


def test_a_plug_in_runs_a_session(register: Register, tmp_path: Path) -> None:
    import mne

    register("mine", Mine())
    assert registry.find("mine").summary == "my own"
    noise = np.random.default_rng(1).normal(0.0, 1e-5, (4, 2000))
    raw = mne.io.RawArray(noise, mne.create_info(["PO9", "PO10", "Oz", "Cz"], 250.0, "eeg"), verbose="error")
    config = loop.load_config("replay", ["source.path='given'", "estimator.kind='mine'"])
    with loop.replay(raw, config, out=tmp_path / "s.sqlite") as session:
        assert session.setups[0].estimator == "an estimator of mine"


def test_a_built_in_is_never_replaced(register: Register) -> None:
    impostor = Mine()
    impostor.name = "posterior_fossa"
    register("posterior_fossa", impostor)
    assert registry.find("posterior_fossa") is not impostor
    assert "never replaced" in problem_of("posterior_fossa")


def test_two_of_one_name_are_both_refused(register: Register) -> None:
    register("mine", Mine())
    register("mine", Mine())
    with pytest.raises(EstimatorError, match=r"somebody_1.* registers the same name; uninstall one of them"):
        registry.find("mine")


class Silent(Mine):
    summary = None  # type: ignore[assignment]


class Lame(Mine):
    fit = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("name", "plugin", "words"),
    [
        ("mine", Mine, "names the class Mine; name an instance of it"),
        ("mine", Silent(), "`summary` is missing or no str"),
        ("mine", Lame(), "it has no `fit`"),
        ("yours", Mine(), "it calls itself `mine`, but is registered as `yours`"),
        ("Mine-1", Mine(), "lower-case letters, digits and underscores"),
    ],
)
def test_what_cannot_be_used_says_why(name: str, plugin: object, words: str, register: Register) -> None:
    register(name, plugin)
    with pytest.raises(EstimatorError, match=words):
        registry.find(name)
    assert words in problem_of(name)


def test_one_that_fails_to_load_is_listed_and_harms_nobody(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    register("mine", Mine())
    monkeypatch.delitem(sys.modules, "somebody_0")
    assert "fails to load (ModuleNotFoundError: No module named 'somebody_0')" in problem_of("mine")
    assert registry.find("event_readout")


def test_an_unknown_name_is_told_what_is_near(register: Register) -> None:
    register("mine", Mine())
    with pytest.raises(EstimatorError, match=r"did you mean `event_readout`\?"):
        registry.find("event_readouts")
    with pytest.raises(EstimatorError, match=r"there are event_readout, mine, posterior_fossa"):
        registry.find("zzz")


def test_the_command_lists_an_installed_package(tmp_path: Path) -> None:
    """With a real distribution on the path, its metadata and all; brackets in its words are its own, not ours to style."""
    (tmp_path / "elsewhere.py").write_text(
        "class P:\n    name = 'elsewhere'\n    summary = 'from [another] package'\n    target = claim = 'words'\n"
        "    needs_calibration = False\n    def build(self, *a): ...\n    learn_rest = target_of = fit = build\nPLUGIN = P()\n"
    )
    info = tmp_path / "elsewhere-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.2\n")
    points = "elsewhere = elsewhere:PLUGIN\nevent_readout = elsewhere:PLUGIN\n"
    (info / "entry_points.txt").write_text(f"[cereloop.estimators]\n{points}")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "loop", "estimators"], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "elsewhere elsewhere 1.2 from [another] package" in words
    assert "is the name of a built-in, which is never replaced" in words
    assert max(map(len, done.stdout.splitlines())) <= 80
