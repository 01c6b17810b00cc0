"""Write columns to an Arrow file, and read single rows of it by memory-mapping.

The files are Arrow's stream format, which ``datasets.Dataset.from_file`` and pyarrow read too. They
hold numbers and texts alone: nothing in them is ever run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel.errors import UserError, listed

if TYPE_CHECKING:
    import pyarrow

__all__ = ["CHUNK", "ArrowColumns", "Columns", "chunks", "in_columns", "write_columns"]

CHUNK = 4096  # rows of a record batch; a file's position of a row is a division by it

Columns = dict[str, list[Any]]


def chunks(items: Iterable[Any], size: int = CHUNK) -> Iterator[list[Any]]:
    """Lists of ``size`` items, the last one perhaps shorter; none of no items."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def in_columns(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Rows, one at least, as columns.

    Raises:
        UserError: one row has other columns than the first.
    """
    for row in rows:
        if row.keys() != rows[0].keys():
            raise UserError(
                f"one row has the columns {listed(row)} and another one {listed(rows[0])}: "
                "engine.cache_from=null keeps all in memory, as they are"
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def write_columns(
    path: Path,
    found: Iterable[Columns],
    types: Callable[[Columns], Mapping[str, pyarrow.DataType]],
    each: Callable[[bytes], None] = lambda _: None,
) -> int:
    """Write columns that come in parts.

    Args:
        path: of the file.
        found: column -> values, `CHUNK` of them in every part but the last.
        types: from the first part to the type of each column.
        each: is handed every part as it is written.

    Returns:
        The number of rows.

    Raises:
        UserError: a value is of another type than its column in the first part.
    """
    import pyarrow as pa

    parts = iter(found)
    first = next(parts, {})
    schema = pa.schema(list(types(first).items()))
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for part in itertools.chain([first], parts):
            try:
                if set(part) != set(schema.names):
                    raise ValueError(f"columns {sorted(part)}, and before {sorted(schema.names)}")
                arrays = [pa.array(part[field.name], type=field.type) for field in schema]
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError) as error:
                raise UserError(
                    f"rows {count} to {count + CHUNK} are not like those before them ({error}): "
                    "engine.cache_from=null keeps all in memory, as they are"
                ) from error
            batch = pa.record_batch(arrays, schema=schema)
            writer.write_batch(batch)
            each(batch.serialize().to_pybytes())
            count += batch.num_rows
    return count


class ArrowColumns:
    """The columns of a file of :func:`write_columns`.

    Args:
        path: the file.

    Attributes:
        names: of the columns.

    Raises:
        UserError: the file is damaged, or none of ours.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        try:
            self._source = pa.memory_map(str(path))
            table = pa.ipc.open_stream(self._source).read_all()
            sizes = [batch.num_rows for batch in table.to_batches()]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{path} is damaged, or no file of columns ({error})") from error
        if any(size != CHUNK for size in sizes[:-1]) or any(size > CHUNK for size in sizes):
            raise UserError(f"{path} is no file of columns of this program")
        self.names: list[str] = table.column_names
        self._count: int = table.num_rows
        self._columns = {name: _column(table.column(name)) for name in self.names}

    def __len__(self) -> int:
        return self._count

    def row(self, number: int) -> dict[str, Any]:
        """The values of a row, as Python's own."""
        part, place = divmod(number, CHUNK)
        return {name: column.get(part, place) for name, column in self._columns.items()}

    def value(self, name: str, number: int) -> Any:
        """One of them."""
        return self._columns[name].get(*divmod(number, CHUNK))

    def lengths(self, name: str) -> np.ndarray:
        """How many values each row of a column of lists has, (n,)."""
        column = self._columns[name]
        assert isinstance(column, _Lists)
        return column.lengths()

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers, (n,)."""
        column = self._columns[name]
        assert isinstance(column, _Numbers)
        return column.values


class _Numbers:
    def __init__(self, parts: Sequence[Any]) -> None:
        found = [part.to_numpy(zero_copy_only=False) for part in parts]
        self.values = np.concatenate(found) if found else np.empty(0)

    def get(self, part: int, place: int) -> Any:
        return self.values[part * CHUNK + place].item()


class _Lists:
    """Lists of numbers: their values one after the other, and where each begins."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.offsets = [part.offsets.to_numpy() for part in parts]
        self.values = [part.values.to_numpy(zero_copy_only=False) for part in parts]

    def get(self, part: int, place: int) -> list[Any]:
        offsets = self.offsets[part]
        found: list[Any] = self.values[part][offsets[place] : offsets[place + 1]].tolist()
        return found

    def lengths(self) -> np.ndarray:
        return np.concatenate([np.diff(offsets) for offsets in self.offsets] or [np.empty(0, int)])


class _Others:
    """Texts, lists of them, and numbers of which some are missing."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def get(self, part: int, place: int) -> Any:
        return self.parts[part][place].as_py()


def _column(found: pyarrow.ChunkedArray) -> _Numbers | _Lists | _Others:
    import pyarrow.types as kinds

    def is_number(kind: Any) -> bool:
        return bool(kinds.is_integer(kind) or kinds.is_floating(kind))

    if is_number(found.type) and not found.null_count:
        return _Numbers(found.chunks)
    if kinds.is_list(found.type) and is_number(found.type.value_type) and not found.null_count:
        return _Lists(found.chunks)
    return _Others(found.chunks)
