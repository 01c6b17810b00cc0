"""Tokenise a run's examples: in memory, or of large data once for all runs, on the disk."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import transformers

from experiments.answers import CHOICES, SPANS
from experiments.models import chat, tokenizer
from experiments.models.vocabulary import size
from experiments.stored_data import cache
from experiments.stored_data.columns import (
    CHUNK,
    ArrowColumns,
    Columns,
    chunks,
    in_columns,
    write_columns,
)
from experiments.stored_data.examples import content_digest
from experiments.stored_data.rows import StoredRows, row_types
from experiments.stored_data.streamed import StreamedExamples, StreamedRows
from experiments.stored_data.temporary import temporary
from experiments.tasks import conversations, in_memory_rows, kinds
from experiments.tasks.kinds import remarks
from experiments.training.heard import heard

if TYPE_CHECKING:
    from experiments.config.schema import EngineOptions
    from experiments.models.pretrained import LoadedModel
    from experiments.tasks.task import TaskData

__all__ = ["streamed_rows", "tokenised"]

log = logging.getLogger(__name__)

# Of a task's data: what the tokens of an example do not depend on.
APART = frozenset(
    [
        *("name", "train", "tests", "test_source", "metrics", "validation", "true_ranks"),
        *("train_source", "warnings", "weights", "draw_weights", "tokenization", "looks"),
        "unscored",
    ]
)
# Of several windows or choices an example: lists of lists, which the files have no form for.
IN_PARTS = (SPANS, CHOICES)


def tokenised(
    loaded: LoadedModel, task: TaskData, examples: Sequence[Any], options: EngineOptions
) -> Sequence[dict[str, Any]]:
    """The examples as the model reads them, the same in memory and on the disk.

    Args:
        loaded: the model and its tokenizer.
        task: whose examples they are.
        examples: any of them.
        options: from how many on they lie on the disk, and where.

    Raises:
        UserError: as ``TaskData.tokenise``.
        StorageError: the cache's folder cannot be written.
    """
    few = options.cache_from is None or len(examples) <= options.cache_from
    if few or task.answers.kind in IN_PARTS:
        return loaded.tokenise(task, examples)

    def make(path: Path) -> list[str]:
        with heard() as said, remarks.gathered():
            write_columns(path, _parts(loaded, task, examples), row_types)
        return said

    if not _ours(loaded, task):  # its code may change, and no key would tell
        return _private(make)
    folder = cache.default_folder()
    if options.cache_dir is not None:
        folder = Path(options.cache_dir).expanduser()
    columns, said, now = cache.entry(folder, _name(loaded, task, examples), make)
    if not now:
        for words in said:
            log.warning("%s", words)
    return StoredRows(columns)


def streamed_rows(loaded: LoadedModel, task: TaskData) -> StreamedRows:
    """The training examples of a stream, tokenised when they are read.

    What is to be said of them is said of the first ones alone.

    Raises:
        UserError: as ``TaskData.tokenise`` of the first ones.
    """
    assert isinstance(task.train, StreamedExamples)
    first = task.train[:CHUNK]
    loaded.tokenise(task, first)
    log.info(
        "task.streaming: what is cut is told of the first %d training examples alone, and batches "
        "are not of like length",
        len(first),
    )

    def quietly(found: Sequence[Any]) -> list[dict[str, Any]]:
        with remarks.unsaid():
            return loaded.tokenise(task, found)

    return StreamedRows(task.train, quietly)


def _parts(loaded: LoadedModel, task: TaskData, examples: Sequence[Any]) -> Iterator[Columns]:
    for chunk in chunks(examples):
        with remarks.part(len(chunk)):
            yield in_columns(loaded.tokenise(task, chunk))


def _ours(loaded: LoadedModel, task: TaskData) -> bool:
    """Whether the versions of this program and of transformers say how texts become tokens."""
    data, words = type(task).__module__, type(loaded.tokenizer).__module__
    return data.startswith("experiments.") and words.startswith("transformers.")


def _private(make: cache.Make) -> StoredRows:
    """Rows of a file that goes with this process."""
    with temporary() as path:
        make(path)
        return StoredRows(ArrowColumns(path))


def _name(loaded: LoadedModel, task: TaskData, examples: Sequence[Any]) -> str:
    """The name of the cache's entry: of all that the tokens depend on."""
    settings = {f.name: repr(getattr(task, f.name)) for f in fields(task) if f.name not in APART}
    return cache.key_of(
        {
            "examples": content_digest(examples),
            "kind": type(task).__qualname__,
            "settings": settings,
            "tokenizer": _tokenizer_digest(loaded.tokenizer),
            "seq2seq": loaded.seq2seq,
            "embeddings": size(loaded.model),
            "versions": [_source_digest(), transformers.__version__, tokenizers.__version__],
        }
    )


def _source_digest() -> str:
    """A checksum of the modules that make tokens of examples: a version of their own."""
    places = [
        Path(str(one.__file__)) for one in (kinds, chat, conversations, in_memory_rows, tokenizer)
    ]
    found = hashlib.sha256()
    for place in places:
        for path in sorted(place.parent.glob("*.py")) if place.stem == "__init__" else [place]:
            found.update(path.read_bytes())
    return found.hexdigest()


def _tokenizer_digest(given: Any) -> str:
    """A checksum of all that a tokenizer saves of itself, and of what it does not save."""
    found = hashlib.sha256()
    found.update(repr([type(given).__qualname__, given.model_max_length]).encode())
    found.update(repr([given.padding_side, given.truncation_side]).encode())
    found.update(repr(sorted(given.special_tokens_map.items())).encode())
    with tempfile.TemporaryDirectory() as folder:
        given.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                found.update(path.name.encode() + hashlib.sha256(_lasting(path)).digest())
    return found.hexdigest()


def _lasting(path: Path) -> bytes:
    """A tokenizer's file, without how the texts before were cut and filled up: each call says it.

    Else the key would depend on whether anything has been tokenised before.
    """
    if path.name != "tokenizer.json":
        return path.read_bytes()
    said = json.loads(path.read_bytes())
    return json.dumps({**said, "truncation": None, "padding": None}, sort_keys=True).encode()
