from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from cext.layout import Output
from cext.params import KernelParams

KERNEL_ABI: Final[int]

class Kernel:
    """The per-sample kernel, compiled; in every bit equal to ``cext.reference.ReferenceKernel``.

    One kernel belongs to one thread. Calls with 64 samples or more let other threads run meanwhile; a second
    thread that enters the same kernel gets a RuntimeError.

    Parameters
    ----------
    params : KernelParams
        Fixed for the life of the kernel.

    Raises
    ------
    TypeError
        If ``params`` is something else.
    """

    def __init__(self, params: KernelParams) -> None: ...
    @property
    def params(self) -> KernelParams:
        """As given."""

    @property
    def sample_count(self) -> int:
        """Samples processed since construction: the absolute number of the next sample."""

    @property
    def learned(self) -> NDArray[np.float64]:
        """Copy of all learned state: weights, covariance; muscle regression, its P; updates; muscle mean, variance, updates."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """Copy of the forward model's weights, shape (n_learned, n_basis + 1); the bias is last."""

    @property
    def muscle_weights(self) -> NDArray[np.float64]:
        """Copy of the muscle regression (K4), shape (n_streams, 2): offset and slope; fit for ``muscle_start``."""

    def process(
        self, samples: NDArray[np.float64], exclude: NDArray[np.uint8], impulses: NDArray[np.int64]
    ) -> Output:
        """Process one chunk; how a recording is cut into chunks does not matter.

        Parameters
        ----------
        samples : float64, shape (n_times, n_channels), C-contiguous
            Microvolts. ``n_times`` may be 0.
        exclude : uint8, shape (n_times,)
            Not 0 where a sample must not be used because current is flowing.
        impulses : int64, shape (n_impulses, 3)
            Rows of (sample, marker channel, event id). The sample counts from the first of this chunk; it may
            be negative (arrived late) or lie beyond the chunk (kept until then). Marker channel -1 drives no
            basis function and freezes nothing, event id -1 asks for no features. Use ``cext.NO_IMPULSES`` for none.

        Returns
        -------
        Output
            One row per tick and one per event decided, in order.

        Raises
        ------
        TypeError
            For something that is no array, or has another dtype.
        ValueError
            For another shape or order, a marker channel or event id out of range, an absurd sample number.
        KernelOverflowError
            If more than ``pending_capacity`` impulses or events would wait after this call.
            Whatever is raised, nothing was processed and nothing has changed.

        Notes
        -----
        An impulse acts at the first tick at or after its sample. A late one adds what it would have become by
        now, so that all later basis values are those of an impulse in time (to rounding, 1e-12 relative);
        what the forward model learned meanwhile without it stays. So does what the muscle regression learned; of its
        freeze (``freeze_channels``) a late impulse brings what is left. An event is decided at its last tick, or at
        once if that has passed; if its ticks have left the history it is decided invalid.
        """

    def reset_segment(self) -> Output:
        """Begin a new recording segment.

        Forgets all transient state: filters, envelopes, flat counters, quality bits, basis functions, waiting
        impulses, history. Keeps what was learned, and the sample counter, and with it the tick grid.

        Returns
        -------
        Output
            The waiting events, all invalid; no frames.
        """

    def get_state(self) -> bytes:
        """Return everything that a bitwise equal continuation needs, sealed with digest and checksum."""

    def set_state(self, state: bytes) -> None:
        """Continue from a saved state.

        Raises
        ------
        ValueError
            If the bytes belong to another build or other parameters, or are damaged; the kernel is unchanged.
        """

    def copy(self) -> Self:
        """Return an independent kernel in the same state."""
