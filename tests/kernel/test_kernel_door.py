"""What the kernel refuses, what it promises about memory and threads, and its frozen parameters."""

from __future__ import annotations

import importlib
import re
import sys
import threading
import tracemalloc
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from kernel_helpers import arrays, make_params, plain_params, recording, run

import cext
from cext import KERNEL_ABI, NO_IMPULSES, Kernel, KernelParams
from cext.layout import pack_state, unpack_state


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("sfreq_hz", 100.0, "a number from 128 to 4096"),
        ("sfreq_hz", float("nan"), "a number from 128"),
        ("sfreq_hz", True, "a number from 128"),
        ("feature_rate_hz", 101, "an integer from 1 to 100"),
        ("feature_rate_hz", 50.0, "an integer"),
        ("n_learned", 17, "an integer from 0 to 16"),
        ("linear", np.ones(5), "an array of bool"),
        ("linear", np.ones(4, bool), r"shape \(5\)"),
        ("event_stream", np.array([0, 1, 2, 5]), "streams 0 to 4"),
        ("event_stream", np.array([], int), "at least one event feature"),
        ("used", np.zeros(5, bool), "at least one used channel"),
        ("used", np.ones(5), "an array of bool"),
        ("used", np.array([1, 1, 1, 1, 0], bool), "zero for channels that are not used"),
        ("reference", np.full(5, 0.3), "a sum of 1"),
        ("reference", np.full(4, 0.25), r"shape \(5\)"),
        ("projection", np.full((5, 5), np.nan), "finite values"),
        ("projection", np.zeros((0, 5)), "at least one chain"),
        ("projection", [["a"] * 5], "an array of float64"),
        ("sos", np.tile([1.0, 0, 0, 2, 0, 0], (5, 3, 1)), "a0 = 1"),
        ("sos", np.tile([1.0, 0, 0, 1, -2, 1], (5, 3, 1)), "stable"),
        ("n_sections", np.full(5, 4), "0 to 3"),
        ("n_sections", np.full(5, 2), "beyond n_sections"),
        ("smoothing", np.ones(5), "0 <= a < 1"),
        ("pooling", np.ones((3, 5)), "at least n_learned = 4 streams"),
        ("muscle_stream", 5, "a stream below 5"),
        ("muscle_rate", 0.6, "from 1e-12 to 0.5"),
        ("muscle_start", np.zeros((4, 2)), r"shape \(5, 2\)"),
        ("muscle_variance_start", np.array([1.0, 0.0]), "above 0"),
        ("muscle_variance_start", np.ones(3), r"shape \(2\)"),
        ("freeze_channels", np.array([-1]), "from 0 to 4095"),
        ("freeze_ticks", -1, "an integer from 0"),
        ("regress_muscle", 1, "True or False"),
        ("use_innovation", "no", "True or False"),
        ("learning_rate", 1.5, "from 0 to 1"),
        ("variance_rate", 0.0, "a number from"),
        ("variance_start", np.zeros(4), "positive variances"),
        ("weights_start", np.zeros((4, 3)), r"shape \(4, 4\)"),
        ("rail_uv", np.zeros(5), "positive rails"),
        ("rail_uv", np.full(5, np.nan), "finite values"),
        ("basis_channel", np.array([0, -1, 0]), "from 0 to 4095"),
        ("basis_tau_s", np.array([0.1, 0.0, 0.1]), "a fifth of a tick"),
        ("windows", np.array([[3, 3]] * 4), "start < stop"),
        ("windows", np.array([[-5, 0]] * 4), "a stop after the event"),
        ("baseline", np.array([-1, -6]), "start < stop"),
        ("history_ticks", 13, "at least 14"),
        ("flat_samples", -1, "an integer from 0"),
        ("pending_capacity", 0, "an integer from 1"),
    ],
)
def test_parameters_name_what_is_wrong(field: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        replace(make_params(), **{field: value})
    assert re.match(r"[a-z0-9_]+: expected .+, got .+", str(caught.value))
    if field not in {"used", "n_sections"}:  # these may clash with another field, which is then named
        assert str(caught.value).startswith(field)


def test_parameters_are_frozen_copies() -> None:
    weights = np.eye(5)
    params = make_params(projection=weights)
    weights[0, 0] = 9.0
    assert params.projection[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        params.projection[0, 0] = 2.0
    with pytest.raises(AttributeError):
        params.bias = 1.0  # type: ignore[misc]


def test_digest_tells_parameters_apart() -> None:
    assert make_params() == make_params()
    assert hash(make_params()) == hash(make_params())
    for change in (
        {"bias": 0.31},
        {"use_basis": False},
        {"freeze_channels": [0]},
        {"muscle_stream": -1},
        {"windows": np.array([[3, 9]] * 4)},
        {"n_learned": 4},
    ):
        assert (make_params(**change) == make_params()) == (change == {"n_learned": 4})


def test_columns_are_named_in_order() -> None:
    params = make_params()
    streams = ["PFT_L", "PFT_R", "PFB_L", "PFB_R", "EMG"]
    names = params.column_names(streams)
    assert len(names) == params.n_columns == len(set(names))
    assert names[:10] == [*(f"L.{s}" for s in streams), *(f"Lres.{s}" for s in streams[:4]), "Lhat.PFT_L"]
    without = make_params(regress_muscle=False)
    assert without.column_names(streams) == [name for name in names if not name.startswith("Lres")]
    assert make_params(muscle_stream=-1).column_names(streams) == without.column_names(streams)
    for quantity, where in params.columns.items():
        assert all(name.split(".")[0] == quantity for name in names[where])
    with pytest.raises(ValueError, match="streams: expected 5"):
        params.column_names(["A"] * 5)


# -- the door ------------------------------------------------------------------------------------

X, SKIP = np.zeros((4, 5)), np.zeros(4, np.uint8)
ROW = np.zeros((1, 3), np.int64)


@pytest.mark.parametrize(
    ("samples", "exclude", "impulses", "error", "words"),
    [
        ([[0.0]], SKIP, NO_IMPULSES, TypeError, "samples: expected a float64 array .* got list"),
        (X.astype("f4"), SKIP, NO_IMPULSES, TypeError, "samples: .* got elements of type 'f'"),
        (X.astype(">f8"), SKIP, NO_IMPULSES, TypeError, "samples: .* '>d'"),
        (np.zeros((4, 6)), SKIP, NO_IMPULSES, ValueError, "samples: expected 5 channels, got 6"),
        (np.zeros(5), SKIP, NO_IMPULSES, ValueError, "samples: .* got 1 dimensions"),
        (np.zeros((5, 4)).T, SKIP, NO_IMPULSES, ValueError, "samples: .*C-contiguous"),
        (X, SKIP[:3], NO_IMPULSES, ValueError, "exclude: expected 4 values"),
        (X, SKIP.astype(bool), NO_IMPULSES, TypeError, "exclude: expected a uint8"),
        (X, SKIP, ROW.astype(float), TypeError, "impulses: expected an int64"),
        (X, SKIP, ROW.astype(np.int32), TypeError, "impulses: expected an int64"),
        (X, SKIP, ROW[:, :2].copy(), ValueError, "impulses: expected rows of"),
        (X, SKIP, np.add(ROW, [0, 2, 0]), ValueError, r"impulses\[0\]: marker channel 2, expected -1 to 1"),
        (X, SKIP, ROW - [0, 2, 0], ValueError, r"impulses\[0\]: marker channel -2"),
        (X, SKIP, ROW - [0, 0, 2], ValueError, r"impulses\[0\]: event id -2"),
        (X, SKIP, np.add(ROW, [2**62, 0, 0]), ValueError, r"impulses\[0\]: sample \d+ is beyond"),
        (X, SKIP, ROW - [2**62, 0, 0], ValueError, r"impulses\[0\]: sample -\d+ is beyond"),
        (X, None, NO_IMPULSES, TypeError, "exclude: expected a uint8 array .* got NoneType"),
    ],
)
def test_the_door_refuses_and_nothing_changes(
    samples: Any, exclude: Any, impulses: Any, error: type[Exception], words: str
) -> None:
    kernel = Kernel(make_params())
    before = kernel.get_state()
    with pytest.raises(error, match=words):
        kernel.process(samples, exclude, impulses)
    assert kernel.get_state() == before
    kernel.process(X, SKIP, NO_IMPULSES)


def test_a_kernel_needs_parameters() -> None:
    with pytest.raises(TypeError, match="expected KernelParams, got dict"):
        Kernel({})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Kernel.__new__(Kernel)


def test_results_belong_to_the_caller() -> None:
    kernel = Kernel(make_params())
    x = recording(200)
    first = run(kernel, x, [[100, 0, 1]])
    kept = [array.copy() for array in arrays(first)]
    run(kernel, 3.0 * x, [[100, 0, 2]])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays(first), kept, strict=True))
    first.frames[:] = 0.0
    assert not run(kernel, x[:1]).frames.flags.writeable  # nothing came: shared, so read-only


def test_read_only_input_is_accepted_and_input_is_never_written() -> None:
    x = recording(100)
    x.setflags(write=False)
    assert len(Kernel(make_params()).process(x, np.zeros(100, np.uint8), NO_IMPULSES).frames) == 20


@pytest.mark.parametrize("change", ["params", "byte", "short", "long", "abi", "garbage"])
def test_foreign_and_damaged_states_are_refused(change: str, kind: type) -> None:
    kernel = kind(make_params())
    run(kernel, recording(100))
    state = kernel.get_state()
    foreign = {
        "params": make_params(bias=0.31),
        "byte": state[:-1] + bytes([state[-1] ^ 1]),
        "short": state[:-8],
        "long": state + bytes(8),
        "abi": state[:16] + (KERNEL_ABI + 1).to_bytes(8, "little") + state[24:],
        "garbage": b"no state",
    }[change]
    other = kind(foreign) if isinstance(foreign, KernelParams) else kind(make_params())
    before = other.get_state()
    with pytest.raises(ValueError, match=r"^state: "):
        other.set_state(state if change == "params" else foreign)
    assert other.get_state() == before


@pytest.mark.parametrize(("index", "value"), [(0, -1), (1, -1), (3, 65), (3, -1), (4, 65), (5, -1), (5, 42)])
def test_a_sealed_state_with_impossible_numbers_is_refused(index: int, value: int) -> None:
    params = make_params()
    ints, floats = unpack_state(params, Kernel(params).get_state())
    ints[index] = value
    with pytest.raises(ValueError, match="impossible numbers"):
        Kernel(params).set_state(pack_state(params, ints, floats))


def test_memory_does_not_grow() -> None:
    kernel = Kernel(make_params())
    x, skip = recording(3), np.zeros(3, np.uint8)

    def chunks(n: int) -> None:
        for k in range(n):
            kernel.process(x, skip, np.array([[1, 0, k]]) if k % 100 == 0 else NO_IMPULSES)

    chunks(1000)
    tracemalloc.start()
    try:
        chunks(1000)
        before = tracemalloc.get_traced_memory()[0]
        chunks(20_000)
        assert tracemalloc.get_traced_memory()[0] - before < 4096
    finally:
        tracemalloc.stop()
    resident = _resident_kib()
    chunks(100_000)
    assert _resident_kib() - resident < 1024


def _resident_kib() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4


def test_two_threads_in_one_kernel_are_refused() -> None:
    """A large call lets other threads run; one that enters the same kernel is told so, and harms nothing."""
    params = plain_params()
    kernel, quiet = Kernel(params), Kernel(params)
    x = recording(400_000, 1)
    errors: list[Exception] = []
    started, done = threading.Event(), threading.Event()

    def intrude() -> None:
        started.set()
        while not done.is_set():
            try:
                kernel.get_state()
            except RuntimeError as error:
                errors.append(error)
                return

    thread = threading.Thread(target=intrude)
    thread.start()
    started.wait()
    for _ in range(20):
        run(kernel, x)
        run(quiet, x)
        if errors:
            break
    done.set()
    thread.join()
    assert "one kernel belongs to one thread" in str(errors)
    assert kernel.get_state() == quiet.get_state()


@pytest.mark.parametrize("abi", [None, KERNEL_ABI - 1, KERNEL_ABI + 1])
def test_a_stale_binary_is_refused(abi: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = ModuleType("cext.kernel")
    if abi is not None:
        stale.KERNEL_ABI = abi  # type: ignore[attr-defined]
    real = sys.modules["cext.kernel"]
    monkeypatch.setitem(sys.modules, "cext.kernel", stale)
    monkeypatch.setattr(cext, "kernel", stale)
    with pytest.raises(ImportError, match="stale build"):
        importlib.reload(cext)
    monkeypatch.setitem(sys.modules, "cext.kernel", real)
    monkeypatch.setattr(cext, "kernel", real)
    importlib.reload(cext)
    assert cext.Kernel is Kernel
