"""What a session gives out: rows of one kind as a sequence of structs, and feature frames as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import msgspec
import numpy as np
import numpy.typing as npt

from loop.events import Float64s, Int64s
from loop.session_file import JournalError

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T", bound=msgspec.Struct)


class Table(Sequence[T], Generic[T]):
    """Structs of one kind in the order of the record.

    Parameters
    ----------
    items : sequence of struct
        The structs.
    seq : sequence of int
        Row of each in the session file.
    causes : sequence of int or None
        Row of the input that produced each; None for inputs.
    """

    def __init__(self, items: Sequence[T], seq: Sequence[int], causes: Sequence[int | None]) -> None:
        self._items = tuple(items)
        self.seq = tuple(seq)
        self.causes = tuple(causes)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Table[T]: ...

    def __getitem__(self, index: int | slice) -> T | Table[T]:
        if isinstance(index, slice):
            return Table(self._items[index], self.seq[index], self.causes[index])
        return self._items[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __repr__(self) -> str:
        kind = type(self._items[0]).__name__ if self._items else "struct"
        return f"<Table of {len(self._items)} {kind}>"

    def to_frame(self) -> pd.DataFrame:
        """A pandas data frame, one row a struct, indexed by `seq`; fields of a message become columns.

        Raises
        ------
        JournalError
            If pandas is not installed.
        """
        pandas = _pandas()
        records = [_flat(item) for item in self._items]
        return pandas.DataFrame.from_records(records, index=pandas.Index(self.seq, name="seq", dtype="int64"))


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """All feature frames of a session.

    `t_ns` and `sample` (n,) say when and at which absolute sample, `values` (n, k) are the features in the
    order of `columns`, `flags` (n,) is 0 where a frame is valid, `seq` (n,) is the row of the session file
    that holds the frame.
    """

    t_ns: Int64s
    sample: Int64s
    values: Float64s
    flags: npt.NDArray[np.uint32]
    seq: Int64s
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.t_ns)

    def to_frame(self) -> pd.DataFrame:
        """A pandas data frame with the columns ``t_ns``, ``sample``, ``flags`` and one for each feature.

        Raises
        ------
        JournalError
            If pandas is not installed.
        """
        pandas = _pandas()
        frame = pandas.DataFrame(self.values, columns=list(self.columns))
        for position, (name, values) in enumerate((("t_ns", self.t_ns), ("sample", self.sample), ("flags", self.flags))):
            frame.insert(position, name, values, allow_duplicates=True)
        return frame


def _flat(item: msgspec.Struct) -> dict[str, Any]:
    fields = msgspec.structs.asdict(item)
    message = fields.pop("message", None)
    if isinstance(message, msgspec.Struct):
        fields["message"] = message.__struct_config__.tag
        for name, value in msgspec.structs.asdict(message).items():
            # A guard report has its own t_ns, and decisions are numbered on both levels.
            fields[f"message_{name}" if name in fields else name] = value
    return fields


def _pandas() -> ModuleType:
    try:
        import pandas as pd
    except ImportError as error:
        raise JournalError("data frames need pandas: install cereloop[frames]") from error
    return cast("ModuleType", pd)
