"""Serve examples (texts and answers) of large data from an Arrow file of this process's own."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from experiments.stored_data.columns import ArrowColumns, Columns, chunks, in_columns, write_columns
from experiments.stored_data.rows import row_types
from experiments.stored_data.temporary import temporary
from experiments.tasks.examples import (
    Example,
    LabelSetExample,
    Origin,
    TaggedExample,
    TextExample,
    Tokenised,
)

__all__ = ["StoredExamples", "content_digest"]

PLACE = ("origin.file", "origin.number", "origin.truth")
COLUMN = "columns."  # before the name of a column of tokens
TEXTS = "texts"  # in the place of a type

# The types of the parts of each kind; that of a number is decided by the first ones.
KINDS: Mapping[Any, Mapping[str, str]] = {
    Example: {"texts": TEXTS, "label": "number"},
    LabelSetExample: {"texts": TEXTS, "labels": "numbers"},
    TaggedExample: {"words": TEXTS, "tags": TEXTS},
    TextExample: {"source": "text", "target": "text", "references": TEXTS},
}


class StoredExamples(Sequence[Any]):
    """Examples of one kind, or a part of them.

    Attributes:
        digest: of what all examples of the file say, without where they stand.
        indices: the examples of the file that these are; None for all.
    """

    def __init__(
        self,
        kind: Any,
        columns: ArrowColumns,
        places: Sequence[tuple[str, str, str | None]],
        digest: str,
        indices: np.ndarray | None = None,
    ) -> None:
        self.kind = kind
        self.columns = columns
        self._places = places
        self.digest = digest
        self.indices = indices

    @staticmethod
    def takes(example: Any) -> bool:
        """Whether examples like this one can be kept; those of a user's own kind cannot."""
        return type(example) in KINDS or isinstance(example, Tokenised)

    @classmethod
    def write(cls, found: Iterable[Any]) -> StoredExamples:
        """Write examples, and read them from the disk from now on.

        The file goes as soon as nothing reads it any more.
        """
        places: dict[tuple[str, str, str | None], int] = {}
        summed = hashlib.sha256()
        kinds: set[Any] = set()

        def parts() -> Iterator[Columns]:
            for chunk in chunks(found):
                kinds.update(map(type, chunk))
                said = _columns(chunk)
                summed.update(repr(said).encode("utf-8", "surrogatepass"))
                origins = [example.origin for example in chunk]
                known = [None if o is None else (o.file, o.unit, o.source) for o in origins]
                yield {
                    **said,
                    PLACE[0]: [
                        -1 if place is None else places.setdefault(place, len(places))
                        for place in known
                    ],
                    PLACE[1]: [0 if o is None else o.number for o in origins],
                    PLACE[2]: [None if o is None else o.truth for o in origins],
                }

        with temporary() as path:
            write_columns(path, parts(), _types)
            columns = ArrowColumns(path)
        (kind,) = kinds
        return cls(kind, columns, list(places), summed.hexdigest())

    def __len__(self) -> int:
        return len(self.columns) if self.indices is None else len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> StoredExamples: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.taken(range(*index.indices(len(self))))
        place = range(len(self))[index]
        return self._made(place if self.indices is None else int(self.indices[place]))

    def _made(self, number: int) -> Any:
        row = self.columns.row(number)
        code, line, truth = (row.pop(name) for name in PLACE)
        origin = None
        if code >= 0:
            file, unit, source = self._places[code]
            origin = Origin(file, line, unit, _tupled(truth), source)
        tokens = {
            name.removeprefix(COLUMN): row.pop(name) for name in [*row] if name.startswith(COLUMN)
        }
        said = {name: _tupled(value) for name, value in row.items()}
        if not tokens:
            return self.kind(**said, origin=origin)
        if "columns" in self.kind._fields:
            return self.kind(columns=tokens, **said, origin=origin)
        example = self.kind(**said, origin=origin)
        example.columns = tokens
        return example

    def taken(self, indices: Any) -> StoredExamples:
        """See :class:`bilevel.views.OnDisk`."""
        chosen = np.asarray(indices, dtype=np.int64)
        chosen = chosen if self.indices is None else self.indices[chosen]
        return StoredExamples(self.kind, self.columns, self._places, self.digest, chosen)

    def keys(self) -> Iterator[tuple[Hashable, int]]:
        """See :class:`bilevel.views.OnDisk`."""
        file = id(self.columns)
        numbers = range(len(self)) if self.indices is None else self.indices.tolist()
        return ((file, number) for number in numbers)

    def numbers(self, name: str) -> list[Any]:
        """A column of numbers: ``label``."""
        found: list[Any] = self._chosen(self.columns.numbers(name)).tolist()
        return found

    def sources(self) -> list[str | None]:
        """The name of the source of each; None of one without."""
        names = [source for _, _, source in self._places]
        codes = self._chosen(self.columns.numbers(PLACE[0])).tolist()
        return [None if code < 0 else names[code] for code in codes]

    def _chosen(self, found: np.ndarray) -> np.ndarray:
        return found if self.indices is None else found[self.indices]


def content_digest(examples: Iterable[Any]) -> str:
    """A checksum of what examples say, whatever they are called and wherever they stand."""
    found = hashlib.sha256()
    if isinstance(examples, StoredExamples):
        found.update(examples.digest.encode())
        if examples.indices is not None:
            found.update(examples.indices.astype("<i8").tobytes())
        return found.hexdigest()
    for chunk in chunks(examples):
        found.update(repr(_columns(chunk)).encode("utf-8", "surrogatepass"))
    return hashlib.sha256(found.hexdigest().encode()).hexdigest()


def _columns(chunk: Sequence[Any]) -> Columns:
    """What examples of one kind say, part by part."""
    names = [name for name in chunk[0]._fields if name not in ("origin", "columns")]
    said = {name: [getattr(example, name) for example in chunk] for name in names}
    if isinstance(chunk[0], Tokenised):
        tokens = in_columns([example.columns for example in chunk])
        said |= {f"{COLUMN}{name}": values for name, values in tokens.items()}
    return said


def _types(part: Columns) -> dict[str, Any]:
    import pyarrow as pa

    numbers = part.get("label", ())
    number = pa.float64() if any(isinstance(n, float) for n in numbers) else pa.int64()
    known = {
        TEXTS: pa.list_(pa.string()),
        "text": pa.string(),
        "number": number,
        "numbers": pa.list_(pa.int32()),
    }
    types: dict[str, Any] = {}
    for kind in KINDS.values():
        types |= {name: known[what] for name, what in kind.items() if name in part}
    tokens = {name.removeprefix(COLUMN): part[name] for name in part if name.startswith(COLUMN)}
    types |= {f"{COLUMN}{name}": kind for name, kind in row_types(tokens).items()}
    answer = next((types[name] for name in ("label", "labels", "tags") if name in types), None)
    truth = pa.string() if answer is None else answer
    return {**types, PLACE[0]: pa.int32(), PLACE[1]: pa.int64(), PLACE[2]: truth}


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
