"""Serve tokenised examples from an Arrow file, one dict a row as in memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from bilevel.views import StoredRow
from experiments.stored_data.columns import ArrowColumns, Columns
from problems.common.records import longest

if TYPE_CHECKING:
    import pyarrow

__all__ = ["StoredRows", "lengths_of", "row_types"]

BYTES = ("attention_mask", "token_type_ids")  # columns of small numbers


class StoredRows(Sequence[StoredRow]):
    """Tokenised examples of a file, or a part of them.

    Args:
        columns: of the file.
        indices: the rows of the file that these are; None for all.
    """

    def __init__(self, columns: ArrowColumns, indices: np.ndarray | None = None) -> None:
        self.columns = columns
        self.indices = indices

    def __len__(self) -> int:
        return len(self.columns) if self.indices is None else len(self.indices)

    @overload
    def __getitem__(self, index: int) -> StoredRow: ...

    @overload
    def __getitem__(self, index: slice) -> StoredRows: ...

    def __getitem__(self, index: int | slice) -> StoredRow | StoredRows:
        if isinstance(index, slice):
            return self.taken(range(*index.indices(len(self))))
        place = range(len(self))[index]  # negative ones from the end, none beyond it
        number = place if self.indices is None else int(self.indices[place])
        return StoredRow(self.columns.row(number), (id(self.columns), number))

    def taken(self, indices: Any) -> StoredRows:
        """See :class:`bilevel.views.OnDisk`."""
        chosen = np.asarray(indices, dtype=np.int64)
        return StoredRows(self.columns, chosen if self.indices is None else self.indices[chosen])

    def keys(self) -> Iterator[tuple[Hashable, int]]:
        """See :class:`bilevel.views.OnDisk`."""
        file = id(self.columns)
        numbers = range(len(self)) if self.indices is None else self.indices.tolist()
        return ((file, number) for number in numbers)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each, (n,)."""
        every = self.columns.lengths("input_ids")
        return every if self.indices is None else every[self.indices]


def lengths_of(rows: Sequence[dict[str, Any]]) -> Sequence[int]:
    """Tokens of each tokenised example, or of the longest of its windows or choices."""
    if isinstance(rows, StoredRows):
        found: Sequence[int] = rows.lengths  # type: ignore[assignment]
        return found
    return [longest(row) for row in rows]


def row_types(part: Columns) -> dict[str, pyarrow.DataType]:
    """The types of tokenised examples' columns: as small as holds them exactly."""
    import pyarrow as pa

    def kind(name: str, values: list[Any]) -> Any:
        listed = [value for value in values if isinstance(value, list)]
        if not listed:
            return pa.float64() if any(isinstance(v, float) for v in values) else pa.int64()
        inner = next((value[0] for value in listed if value), 0)
        if isinstance(inner, float):
            return pa.list_(pa.float64())
        return pa.list_(pa.int8() if name in BYTES else pa.int32())

    return {name: kind(name, values) for name, values in part.items()}
