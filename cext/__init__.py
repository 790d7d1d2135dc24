"""Everything that runs per sample: the compiled kernel, its parameters, and its readable definition."""

from cext.layout import (
    EXCLUDED,
    FLAT,
    KERNEL_ABI,
    MUSCLE,
    NO_IMPULSES,
    NONFINITE,
    RAILED,
    WARMUP,
    KernelOverflowError,
    Output,
)
from cext.params import KernelParams

try:
    from cext import kernel as _kernel
except ImportError as _error:
    raise ImportError(f"the compiled kernel cext.kernel does not load ({_error}); build it with: pip install -e .") from _error
if getattr(_kernel, "KERNEL_ABI", None) != KERNEL_ABI:
    raise ImportError(
        f"the compiled kernel cext.kernel is a stale build (ABI {getattr(_kernel, 'KERNEL_ABI', None)}, expected "
        f"{KERNEL_ABI}); rebuild it with: pip install -e ."
    )

Kernel = _kernel.Kernel

__all__ = [
    "EXCLUDED",
    "FLAT",
    "KERNEL_ABI",
    "MUSCLE",
    "NONFINITE",
    "NO_IMPULSES",
    "RAILED",
    "WARMUP",
    "Kernel",
    "KernelOverflowError",
    "KernelParams",
    "Output",
]
