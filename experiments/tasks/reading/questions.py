"""Read questions on texts, with their answers: rows, or SQuAD's own file of articles."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.examples import Answer, SpanExample
from experiments.tasks.reading.cells import is_list, kind_of, text_in
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.files import Row, is_missing, read_rows
from experiments.tasks.reading.labels import as_number, is_bool
from experiments.tasks.reading.records import refuse_halved
from experiments.tasks.reading.row import check_columns, origin_of, place_of
from experiments.tasks.reading.rows import say_odd_texts
from experiments.tasks.reading.text import read_text

__all__ = ["answered", "question_rows", "questions"]

log = logging.getLogger(__name__)

SHOWN = 60  # characters in a message
FORM = (
    'it must hold {"text": [...], "answer_start": [...]} (in a csv file as JSON), or the answer\'s '
    "text, with task.start_column for where it begins"
)
Read = tuple[str, int | None]  # an answer, and where it begins if that is said


def question_rows(paths: Sequence[Path], dialect: Dialect | None = None) -> list[Row]:
    """The rows of files, as :func:`read_rows`; a file in SQuAD's own layout has one a question.

    Raises:
        UserError: as there, or the layout is another.
    """
    rows: list[Row] = []
    for path in paths:
        found = None
        if path.name.lower().removesuffix(".gz").endswith(".json"):
            found = _articles(path, dialect)
        rows += read_rows(path, dialect) if found is None else _of_articles(found, path)
    return rows


def answered(rows: Sequence[Row], column: str, start: str | None) -> bool:
    """Whether any of the rows says an answer; a test's may be kept back."""
    return any(_answers(row, column, start, "") for row in rows)


def questions(
    rows: Sequence[Row],
    columns: tuple[str, str],
    answers: str,
    where: str,
    start: str | None = None,
    name: str | None = None,
    unanswerable: bool = False,
) -> list[SpanExample]:
    """The examples of a split.

    Args:
        rows: at least one.
        columns: of the questions and of the contexts.
        answers: the column of the answers.
        where: the file or split, for messages.
        start: the column that says where the one answer of a row begins; None without one.
        name: the column of the questions' own ids; None without one.
        unanswerable: a row may have no answer.

    Raises:
        UserError: a column is missing, a text is none, an answer does not stand in its context
            where it is said to, or there is none.
    """
    check_columns(rows, [*columns, answers, *([] if start is None else [start])], where)
    found = []
    for number, row in enumerate(rows):
        place = place_of(row, number, where)
        question, context = (text_in(row, column, place) for column in columns)
        right = [
            Answer(text, _start(context, text, begin, place))
            for text, begin in _answers(row, answers, start, place)
        ]
        if not right and not unanswerable:
            raise UserError(
                f"{place} has no answer in column {answers!r}: leave it out, or say "
                "task.unanswerable=true if that means that the question has none"
            )
        own = row.get(name) if name is not None else None
        identity = None if is_missing(own) else str(own)
        found.append(
            SpanExample(question, context, tuple(right), identity, origin_of(row, number, where))
        )
    say_odd_texts(rows, columns, where)
    return found


def _answers(row: Mapping[str, Any], column: str, start: str | None, place: str) -> list[Read]:
    """What a row's cells say; the place "" refuses nothing but what cannot be read at all."""
    cell: Any = row.get(column)
    cell = cell.tolist() if hasattr(cell, "tolist") else cell
    if is_missing(cell):
        return []
    if isinstance(cell, str) and start is None and cell.lstrip()[:1] in ("{", "["):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{place or 'a row'} has {cell[:SHOWN]!r} in column {column!r}, which is no JSON: "
                f"{FORM}"
            ) from error
    if isinstance(cell, str):
        return [(cell, None if start is None else _begin(row.get(start), start, place))]
    if isinstance(cell, Mapping):
        texts, begins = (_listed(cell.get(key)) for key in ("text", "answer_start"))
        begins = begins or [None] * len(texts)
        pairs = list(zip(texts, begins, strict=False))
        if len(texts) != len(begins):
            raise UserError(
                f"{place or 'a row'} has {len(texts)} texts and {len(begins)} beginnings of "
                f"answers in column {column!r}: each text needs its own"
            )
    elif is_list(cell):
        pairs = [
            (one.get("text"), one.get("answer_start")) if isinstance(one, Mapping) else (one, None)
            for one in cell
        ]
    else:
        pairs = [(cell, None)]
    return [_pair(text, begin, column, place) for text, begin in pairs]


def _pair(text: Any, begin: Any, column: str, place: str) -> Read:
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f"{place or 'a row'} has {kind_of(text)}, {str(text)[:SHOWN]!r}, for an answer in "
            f"column {column!r}: {FORM}"
        )
    return text, _begin(begin, "answer_start", place)


def _listed(value: Any) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None:
        return []
    return list(value) if is_list(value) else [value]


def _begin(value: Any, column: str, place: str) -> int | None:
    """Where an answer is said to begin; None of an empty cell, which does not say."""
    if is_missing(value):
        return None
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    # 12.0 is 12, as pandas writes numbers where a column has gaps.
    number = None if is_bool(value) else as_number(value)
    if not isinstance(number, int) or number < 0:
        raise UserError(
            f"{place or 'a row'} has {str(value)[:SHOWN]!r} in column {column!r}: this must be the "
            "number of the character of the context at which the answer begins, from 0"
        )
    return number


def _start(context: str, text: str, begin: int | None, place: str) -> int:
    """Where the answer begins, which must be true."""
    said, count = f"{text[:SHOWN]!r}", context.count(text)
    if begin is None:
        if count == 1:
            return context.index(text)
        there = f"stands in its context {count} times" if count else "does not stand in its context"
        raise UserError(
            f"{place} has the answer {said}, which {there}: say where it begins (answer_start, or "
            "a column of task.start_column)"
        )
    found = context[begin : begin + len(text)]
    if found != text:
        hint = f"; it stands at {context.index(text)}" if count == 1 else ""
        raise UserError(
            f"{place} has the answer {said} at character {begin} of its context, and there is "
            f"{found[:SHOWN]!r}: beginnings are counted in characters, from 0{hint}"
        )
    return begin


def _articles(path: Path, dialect: Dialect | None) -> list[Any] | None:
    """The articles of a file in SQuAD's layout; None of another file."""
    text = read_text(path, dialect)
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # an object a line, or what read_rows tells of
        return None
    data = value.get("data") if isinstance(value, dict) else None
    return data if isinstance(data, list) else None


def _of_articles(articles: Sequence[Any], path: Path) -> list[Row]:
    """A row a question."""
    rows: list[Row] = []
    for number, article in enumerate(articles):
        place = f"article {number} (from 0) of {path}"
        if isinstance(article, dict) and "paragraphs" not in article:
            rows.append(Row(article, path, len(rows), "row"))
            continue
        for paragraph in _within(article, "paragraphs", place):
            title = article.get("title")
            for asked in _within(paragraph, "qas", f"a paragraph of {place}"):
                values = {"title": title, "context": paragraph.get("context"), **asked}
                rows.append(Row(values, path, len(rows), "row"))
    for row in rows:
        refuse_halved(row)
    if not rows:
        raise UserError(f"{path} has no questions")
    return rows


def _within(value: Any, key: str, place: str) -> Iterator[dict[str, Any]]:
    """The objects in a list of an object."""
    parts = value.get(key) if isinstance(value, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{place} must hold {key!r}, a list of objects, as SQuAD's files do")
    yield from parts
