"""Write predictions as csv, jsonl or Parquet: in parts, which are put together at the end."""

from __future__ import annotations

import csv
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from bilevel.errors import UserError, listed
from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "SUFFIXES",
    "Csv",
    "Format",
    "Jsonl",
    "Parquet",
    "as_columns",
    "check_suffix",
    "said_columns",
]

SUFFIXES = (".csv", ".jsonl", ".parquet")
PREDICTION = "prediction"
PROBABILITY = "probability_"
OF_SPAN = ("start", "probability")  # where in the context, -1 for no answer, and how sure
CHUNK = 1 << 20  # bytes
EXACT = 1 << 53  # whole numbers up to here are exact as floats
MOST = 1 << 63  # of 64 bits
ELSE = "write out=FILE.jsonl, or name the columns to keep by keep=[COLUMN]"

Keys = tuple[str | None, ...]  # that lead to a value inside a cell; None through a list


def check_suffix(out: Path) -> str:
    """The ending of the file to write, in lower case.

    Raises:
        UserError: it is none of those that are written.
    """
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"out={out}: its name must end in one of {listed(SUFFIXES)}")
    return suffix


def said_columns(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    """The columns of a prediction.

    Args:
        kind: of what the model puts out.
        names: of its classes, labels or tags.
    """
    if kind == SPANS:
        return (PREDICTION, *OF_SPAN)
    if kind in (CLASSES, LABELS, CHOICES):
        return (PREDICTION, *(f"{PROBABILITY}{name}" for name in names))
    return (PREDICTION,)


def as_columns(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer, of :meth:`Predictor.answers`, as the columns of a row."""
    shares = answer.get("probabilities", {})
    return {
        PREDICTION: answer[PREDICTION],
        **{name: answer[name] for name in OF_SPAN if name in answer},
        **{f"{PROBABILITY}{name}": share for name, share in shares.items()},
    }


class Format(ABC):
    """How rows are written, mappings from column to value.

    Args:
        kind: of what the model puts out.
        names: of its classes, labels or tags.
    """

    suffix: ClassVar[str]

    def __init__(self, kind: str, names: Sequence[str]) -> None:
        self.said = said_columns(kind, names)

    @abstractmethod
    def look(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See rows as they are read, before anything is said of them: their columns and types.

        Raises:
            UserError: a value that this form has no place for.
        """

    @abstractmethod
    def part(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Some rows, with what is said of them."""

    @abstractmethod
    def join(self, parts: Iterable[Path], file: IO[bytes]) -> None:
        """Put parts together, one after the other."""


class Csv(Format):
    """Cells of text; what is a list or an object is written as JSON.

    Args:
        kind, names: see :class:`Format`.
        delimiter: parts the cells.
        separator: stands between the labels of a prediction; None writes them as JSON.
    """

    suffix = ".csv"

    def __init__(
        self, kind: str, names: Sequence[str], delimiter: str = ",", separator: str | None = None
    ) -> None:
        super().__init__(kind, names)
        self._delimiter, self._separator = delimiter, separator
        self._seen: dict[str, None] = {}

    def look(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Learn the columns."""
        for row in rows:
            self._seen.update(dict.fromkeys(row))
            for column, value in row.items():
                self._cell(column, value)

    def part(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Lines of cells."""
        columns = [*self._seen, *self.said]
        return self._lines([self._cell(c, row.get(c)) for c in columns] for row in rows)

    def join(self, parts: Iterable[Path], file: IO[bytes]) -> None:
        """A header, and the parts as they are."""
        file.write(self._lines([[*self._seen, *self.said]]))
        _copy(parts, file)

    def _lines(self, rows: Iterable[Sequence[str]]) -> bytes:
        lines: list[str] = []
        sink = io.StringIO(newline="")
        writer = csv.writer(sink, delimiter=self._delimiter, lineterminator="\r\n")
        for row in rows:
            writer.writerow(row)
            # A carriage return in a cell is quoted only where a line's end has one.
            lines.append(sink.getvalue().removesuffix("\r\n") + "\n")
            sink.seek(0)
            sink.truncate()
        return "".join(lines).encode()

    def _cell(self, column: str, value: Any) -> str:
        if isinstance(value, str):
            return value
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if column == PREDICTION and isinstance(value, list) and self._separator is not None:
            return self._separator.join(value)
        if isinstance(value, date | time):
            return value.isoformat()
        return str(value) if isinstance(value, Decimal) else _json(value, column)


class Jsonl(Format):
    """An object a line; a row has the columns that it came with."""

    suffix = ".jsonl"

    def look(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See whether all can be written."""
        for row in rows:
            for column, value in row.items():
                _json(value, column)

    def part(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Lines of objects."""
        return "".join(f"{_json(dict(row), 'any')}\n" for row in rows).encode()

    def join(self, parts: Iterable[Path], file: IO[bytes]) -> None:
        """The parts as they are."""
        _copy(parts, file)


class Parquet(Format):
    """A table whose types are those of the rows that were seen.

    Args:
        kind, names: see :class:`Format`.
        given: the types of columns that are known already, of a Parquet file.
    """

    suffix = ".parquet"

    def __init__(
        self, kind: str, names: Sequence[str], given: pyarrow.Schema | None = None
    ) -> None:
        import pyarrow

        super().__init__(kind, names)
        text, number = pyarrow.string(), pyarrow.float64()
        types = {NUMBER: number, LABELS: pyarrow.list_(text), TAGS: pyarrow.list_(text)}
        first, *others = self.said
        wholes = {"start": pyarrow.int64()} if kind == SPANS else {}
        self._said = [
            (first, types.get(kind, text)),
            *((name, wholes.get(name, number)) for name in others),
        ]
        self._given = given
        self._seen = pyarrow.schema([]) if given is None else given
        # Where numbers stand that no float holds, and where those that no integer does.
        self._large: set[Keys] = set()
        self._broken: set[Keys] = set()

    def look(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Learn the columns' types."""
        import pyarrow

        if self._given is not None:
            return
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [_storable(row.get(name)) for row in rows]
            self._see_numbers(name, values)
            try:
                kind = pyarrow.array(values).type
                both = [self._seen, pyarrow.schema([(name, kind)])]
                self._seen = pyarrow.unify_schemas(both, promote_options="permissive")
            except pyarrow.ArrowException as error:
                raise UserError(
                    f"column {name!r} holds values of several kinds, which a Parquet file has no "
                    f"place for: {ELSE}"
                ) from error

    def _see_numbers(self, name: str, values: Sequence[Any]) -> None:
        """Refuse numbers that have no type in common, in these rows or with those before."""
        for keys, number in _numbers(values, (name,)):
            if isinstance(number, float):
                self._broken.add(keys)
            elif not -MOST <= number < MOST:
                raise UserError(
                    f"column {name!r} holds the whole number {str(number)[:40]}, which a Parquet "
                    f"file has no place for (it has 64 bits): {ELSE}"
                )
            elif abs(number) > EXACT:
                self._large.add(keys)
        if self._large & self._broken:
            raise UserError(
                f"column {name!r} holds whole numbers beyond 2**53 and numbers with a point, "
                f"and a Parquet file has no type that is exact for both: {ELSE}"
            )

    @property
    def schema(self) -> pyarrow.Schema:
        """Of the whole file."""
        import pyarrow

        return pyarrow.schema([*self._seen, *(pyarrow.field(*said) for said in self._said)])

    def part(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """A file of its own."""
        import pyarrow
        from pyarrow import parquet

        sink, own = io.BytesIO(), list(rows)
        if self._given is None:
            own = [{name: _storable(value) for name, value in row.items()} for row in rows]
        with _told():
            parquet.write_table(pyarrow.Table.from_pylist(own, schema=self.schema), sink)
        return sink.getvalue()

    def join(self, parts: Iterable[Path], file: IO[bytes]) -> None:
        """A row group of each."""
        from pyarrow import parquet

        with _told(), parquet.ParquetWriter(file, self.schema) as writer:
            for path in parts:
                with parquet.ParquetFile(path) as part:
                    writer.write_table(part.read().cast(self.schema))


@contextmanager
def _told() -> Iterator[None]:
    """What only the writing finds out: `look` has seen all rows, and knows most of it."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OverflowError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"a Parquet file has no place for one of the values ({reason}): {ELSE}"
        ) from error


def _storable(value: Any) -> Any:
    """A value of a JSON file as Parquet has a place for it: an empty object as none at all, and a
    number with more digits than a float as the float next to it, as in jsonl."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {key: _storable(part) for key, part in value.items()} or None
    if isinstance(value, list | tuple):
        return [_storable(part) for part in value]
    return value


def _numbers(value: Any, keys: Keys) -> Iterator[tuple[Keys, int | float]]:
    """The numbers in a value, each with the keys that lead to it."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(part, (*keys, key))
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, (*keys, None))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield keys, value


def _copy(parts: Iterable[Path], file: IO[bytes]) -> None:
    for path in parts:
        with path.open("rb") as part:
            while data := part.read(CHUNK):
                file.write(data)


def _json(value: Any, column: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:  # nan and the like have no place in JSON
        return json.dumps(_finite(value), ensure_ascii=False, default=_plain)
    except TypeError as error:
        raise UserError(
            f"column {column!r} holds values that text has no form for ({error}): write "
            "out=FILE.parquet, or name the columns to keep by keep=[COLUMN]"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date | time):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
