"""Read questions that offer answers of their own, one of which is right."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from bilevel.errors import UserError, listed
from experiments.tasks.examples import ChoiceExample
from experiments.tasks.reading.cells import is_list, kind_of, text_in, text_of
from experiments.tasks.reading.files import Row, is_missing
from experiments.tasks.reading.labels import as_number
from experiments.tasks.reading.row import check_columns, origin_of, place_of

__all__ = ["ChoiceColumns", "choice_names", "choices_answered", "choices_of", "multiple_choices"]

log = logging.getLogger(__name__)

SHOWN = 60  # characters in a message
MOST = len(ascii_uppercase)
UNLABELLED = -1  # of the hub's test sets


class ChoiceColumns(NamedTuple):
    """Which columns hold what.

    Attributes:
        texts: what is asked: a text, or two, of which the second goes on with each choice.
        choices: of the choices, one that holds all of them or one for each.
        label: of the right one.
    """

    texts: tuple[str, ...]
    choices: tuple[str, ...]
    label: str

    @property
    def read(self) -> tuple[str, ...]:
        """Those that a model reads."""
        return (*self.texts, *self.choices)


class _Offered(NamedTuple):
    """The choices of a row, and what it calls them; None where it does not say."""

    texts: tuple[str, ...]
    names: tuple[str, ...] | None = None

    @property
    def bare(self) -> tuple[str, ...]:
        """The texts as labels are compared with them, without white space around."""
        return tuple(text.strip() for text in self.texts)

    @property
    def called(self) -> tuple[str, ...]:
        """What a label of the row's own may say."""
        return self.bare if self.names is None else self.names


def choices_answered(rows: Sequence[Row], columns: ChoiceColumns) -> bool:
    """Whether any of the rows says the right choice; a test's may be kept back, all by -1."""
    labels = (_written(row, columns) for row in rows)
    return any(label is not None and as_number(label) != UNLABELLED for label in labels)


def choice_names(rows: Sequence[Row], columns: ChoiceColumns, where: str) -> list[str]:
    """What training rows call their choices, in the order in which they stand.

    Numbers from 0, or from 1, or letters, as the labels are written; letters where the labels are
    the texts of the choices, or each row names its own.

    Args:
        rows: at least one.
        columns: of them.
        where: the file, for messages.

    Raises:
        UserError: a column is missing, rows have other choices than the first, or labels are none
            of these.
    """
    check_columns(rows, [*columns.read, columns.label], where)
    first = rows[0]
    count = len(_offered(first, columns, place_of(first, 0, where)).texts)
    if not 2 <= count <= MOST:
        raise UserError(
            f"{place_of(first, 0, where)} has {count} choices: there must be 2 or more, and at "
            f"most {MOST}"
        )
    written, texts = set(), set()  # labels of no row's own, and those that are a choice's text
    for number, row in enumerate(rows):
        offered = _offered(row, columns, place_of(row, number, where))
        label = _label(row, columns, offered)
        if label is None:
            continue
        if label not in offered.called:
            written.add(_named(label, offered))
        elif offered.names is None:
            texts.add(label)
    letters = list(ascii_uppercase[:count])
    from_0, from_1 = ([str(i + first) for i in range(count)] for first in (0, 1))
    for names in (letters, [letter.lower() for letter in letters], from_0, from_1):
        if written <= set(names):
            if written and not texts <= set(names):
                raise UserError(
                    f"{where} has labels of two forms in column {columns.label!r}: "
                    f"{listed(repr(label) for label in sorted(written)[:5])}, which are no text of "
                    f"their row's choices, and {min(texts - set(names))[:SHOWN]!r}, which is one: "
                    "say all by number or letter, or all by text"
                )
            if names is from_0 and written <= set(from_1):
                log.warning(
                    "%s has neither 0 nor %d in column %r: choices are counted from 0",
                    *(where, count, columns.label),
                )
            forms = (set(letters), set(from_0), set(from_1))
            if texts and not written and any(texts <= form for form in forms):
                log.warning(
                    "%s: every label of column %r is the text of a choice and might be a place "
                    "too: it is taken as the text",
                    *(where, columns.label),
                )
            return names
    raise UserError(
        f"{where} has {listed(repr(label) for label in sorted(written)[:5])} in column "
        f"{columns.label!r}, where the right one of {count} choices must be: a number from 0 (or "
        "from 1), a letter, or the text of the choice"
    )


def multiple_choices(
    rows: Sequence[Row], columns: ChoiceColumns, names: Sequence[str], where: str
) -> list[ChoiceExample]:
    """The examples of a split; arguments as :func:`choice_names`'s.

    Args:
        rows: at least one.
        columns: of them.
        names: of the choices, of the training data.
        where: the file or split, for messages.

    Raises:
        UserError: a column is missing, a text is none, a row has more or fewer choices, or its
            label is none of them.
    """
    check_columns(rows, [*columns.read, columns.label], where)
    read = []
    for number, row in enumerate(rows):
        place = place_of(row, number, where)
        asked, offered = choices_of(row, columns, len(names), place)
        label = _label(row, columns, offered)
        if label is None:
            raise UserError(f"{place} is unlabelled: column {columns.label!r} is empty there")
        read.append((asked, offered, label))
    # As choice_names, which has letters for texts, takes them: A may be the text of choice C.
    by_text = list(names) == list(ascii_uppercase[: len(names)]) and all(
        label in offered.called for _, offered, label in read
    )
    found = []
    for number, (row, (asked, offered, label)) in enumerate(zip(rows, read, strict=True)):
        said = f"{place_of(row, number, where)} has {label[:SHOWN]!r} in column {columns.label!r}"
        right = _numbers(_named(label, offered), offered, names, by_text)
        if not right:
            raise UserError(
                f"{said}, which is none of its choices, {listed(offered.names or names)}"
            )
        if len(right) > 1:
            what = "text" if offered.names is None else "name"
            raise UserError(
                f"{said}, which is the {what} of two choices: say all labels by number or letter, "
                "or leave one of these choices out"
            )
        origin = origin_of(row, number, where)
        found.append(ChoiceExample(asked, offered.texts, right[0], origin))
    return found


def choices_of(
    row: Mapping[str, Any], columns: ChoiceColumns, count: int | None, place: str
) -> tuple[tuple[str, ...], _Offered]:
    """What a row asks, and its choices.

    Args:
        row: of a file.
        columns: of it.
        count: of the choices that there must be; None for any.
        place: what to call the row.

    Raises:
        UserError: a text is none, or there are not ``count`` choices.
    """
    asked = tuple(text_in(row, column, place) for column in columns.texts)
    offered = _offered(row, columns, place)
    if count is not None and len(offered.texts) != count:
        raise UserError(
            f"{place} has {len(offered.texts)} choices, and the first row of the training data "
            f"has {count}: every question must have as many"
        )
    return asked, offered


def _written(row: Mapping[str, Any], columns: ChoiceColumns) -> str | None:
    """The label as it is written; None of an empty cell."""
    value = row.get(columns.label)
    return None if not is_list(value) and is_missing(value) else str(value).strip()


def _label(row: Mapping[str, Any], columns: ChoiceColumns, offered: _Offered) -> str | None:
    """The label; None without one, and of -1 where that is no choice of the row's own."""
    label = _written(row, columns)
    if label is None or label in offered.called:
        return label
    return None if as_number(label) == UNLABELLED else label


def _named(label: str, offered: _Offered) -> str:
    """A label as choices are called: 1.0 is 1, as pandas writes numbers where a column has gaps."""
    if label in offered.bare or label in offered.called:
        return label
    number = as_number(label)
    return label if number is None else str(number)


def _numbers(label: str, offered: _Offered, names: Sequence[str], by_text: bool) -> list[int]:
    """The choices that a label means: one, or none, or several that are called alike."""
    places = (offered.bare, names) if by_text else (names, offered.bare)
    for known in (offered.names or (), *places):
        if label in known:
            return [i for i, name in enumerate(known) if name == label]
    return []


def _offered(row: Mapping[str, Any], columns: ChoiceColumns, place: str) -> _Offered:
    if len(columns.choices) > 1:
        return _Offered(
            tuple(_filled(text_in(row, name, place), name, place) for name in columns.choices)
        )
    (column,) = columns.choices
    cell: Any = row.get(column)
    cell = cell.tolist() if hasattr(cell, "tolist") else cell
    if isinstance(cell, str) and cell.lstrip()[:1] in ("{", "["):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{place} has {cell[:SHOWN]!r} in column {column!r}, which is no JSON"
            ) from error
    names: Any = None
    if isinstance(cell, Mapping):
        names = cell.get("label")
        cell = cell.get("text")
    elif is_list(cell) and all(isinstance(one, Mapping) for one in cell):
        names = [one.get("label") for one in cell]
        cell = [one.get("text") for one in cell]
    if not is_list(cell):
        raise UserError(
            f"{place} has {kind_of(cell)} in column {column!r}, where a list of choices must be "
            "(in a csv file as JSON): for a column a choice say task.choice_columns=[a,b,c,d]"
        )
    texts = tuple(_filled(text_of(one, column, place), column, place) for one in cell)
    if names is None or not is_list(names) or len(names) != len(texts) or None in names:
        return _Offered(texts)
    return _Offered(texts, tuple(str(name).strip() for name in names))


def _filled(text: str, column: str, place: str) -> str:
    if not text.strip():
        raise UserError(
            f"{place} has a blank choice in column {column!r}: every choice must be a text"
        )
    return text
