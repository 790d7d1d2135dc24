"""Plug-ins that each break one rule of the test kit, by wrapping a built-in that breaks none."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np

from cext import Output
from loop.errors import LayoutError
from loop.estimators import registry


class Wrapped:
    """A built-in under another hood: what is not overridden is its own."""

    def __init__(self) -> None:
        self._inner = registry.find("posterior_fossa")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class WrappedKernel:
    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)


def with_kernel(kind: type[WrappedKernel]) -> Wrapped:
    """The built-in with a kernel of this kind around its own."""

    class Plugin(Wrapped):
        def build(self, *arguments: Any) -> Any:
            estimator = copy.copy(self._inner.build(*arguments))
            estimator.kernel = kind(estimator.kernel)
            return estimator

    return Plugin()


def with_estimator(**changes: Any) -> Wrapped:
    """The built-in whose estimators have other attributes, each made from the right one."""

    class Plugin(Wrapped):
        def build(self, *arguments: Any) -> Any:
            estimator = copy.copy(self._inner.build(*arguments))
            for name, change in changes.items():
                setattr(estimator, name, change(getattr(estimator, name)))
            return estimator

    return Plugin()


class Mute(Wrapped):
    summary = " "


class Fickle(Wrapped):
    """Its readout is another one each time."""

    def fit(self, *arguments: Any) -> Any:
        readout = self._inner.fit(*arguments)
        return type(readout)(
            **{name: getattr(readout, name) for name in readout.__struct_fields__}
            | {"b0": float(np.random.default_rng().normal())}
        )


class Verbose(Wrapped):
    """Refuses a rate in a paragraph."""

    def build(self, config: Any, layout: Any, calibration: Any) -> Any:
        if layout.sfreq_hz > 4000.0:
            raise LayoutError("too fast\nplease buy a slower amplifier")
        return self._inner.build(config, layout, calibration)


class Gullible(Wrapped):
    """Takes anybody's calibration."""

    def build(self, config: Any, layout: Any, calibration: Any) -> Any:
        theirs = calibration is not None and calibration.estimator != "posterior_fossa"
        return self._inner.build(config, layout, None if theirs else calibration)


class ByTheChunk(WrappedKernel):
    """Takes the mean of each chunk off."""

    def process(self, samples: Any, exclude: Any, impulses: Any) -> Output:
        centred = np.ascontiguousarray(samples - samples.mean(axis=0)) if len(samples) else samples
        return self._kernel.process(centred, exclude, impulses)


class Forgetful(WrappedKernel):
    """Counts frames in a place that its state does not hold."""

    frames = 0

    def process(self, samples: Any, exclude: Any, impulses: Any) -> Output:
        out = self._kernel.process(samples, exclude, impulses)
        for row in out.frames:
            self.frames += 1
            row[0] += self.frames
        return out


class Careless(WrappedKernel):
    """Flags nothing."""

    def process(self, samples: Any, exclude: Any, impulses: Any) -> Output:
        out = self._kernel.process(samples, exclude, impulses)
        return out._replace(frame_flags=np.zeros_like(out.frame_flags))


class Deaf(WrappedKernel):
    """Does not hear of exclusions."""

    def process(self, samples: Any, exclude: Any, impulses: Any) -> Output:
        return self._kernel.process(samples, np.zeros_like(exclude), impulses)


class Stutters(WrappedKernel):
    """Says every event twice."""

    def process(self, samples: Any, exclude: Any, impulses: Any) -> Output:
        out = self._kernel.process(samples, exclude, impulses)
        return Output(*out[:4], *(np.concatenate([column, column]) for column in out[4:]))


class Loud(WrappedKernel):
    def process(self, samples: Any, exclude: Any, impulses: Any) -> Output:
        if len(samples) and not samples.any():
            warnings.warn("division by zero encountered", RuntimeWarning, stacklevel=1)
        return self._kernel.process(samples, exclude, impulses)
