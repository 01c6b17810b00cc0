"""Read rows that are tokenised already, as the tasks' kinds of data know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bilevel.errors import UserError
from bilevel.labels import NO_LABEL
from experiments.tasks.examples import Origin, TaggedExample, TextExample
from experiments.tasks.in_memory_values import integers, number, unpadded
from experiments.tasks.kinds.label_sets import LabelSetData
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.kinds.remarks import say_unknown
from experiments.tasks.kinds.tags import TaggedData
from experiments.tasks.kinds.text import TextData, answer_start
from experiments.tasks.reading.cells import is_list, text_of, texts_of
from experiments.tasks.reading.files import is_absent

__all__ = [
    "Alike",
    "GivenLabelSets",
    "GivenLabels",
    "GivenTags",
    "GivenText",
    "from_source",
    "labelled",
    "marked",
    "tagged",
    "written",
]

COLUMNS = ("input_ids", "attention_mask", "token_type_ids")


class Labelled(NamedTuple):
    """Columns for the model, and a class number or a number."""

    columns: dict[str, Any]
    label: int | float
    origin: Origin | None = None


class Marked(NamedTuple):
    """Columns for the model, and the numbers of the labels."""

    columns: dict[str, Any]
    labels: tuple[int, ...]
    origin: Origin | None = None


class Tagged(TaggedExample):
    """The tags that a row's labels mean; ``columns`` is the row itself."""

    columns: dict[str, Any]


class Written(TextExample):
    """The texts that a row's tokens mean; ``columns`` is the row itself."""

    columns: dict[str, Any]


class Alike:
    """Sees to it that all rows have the columns of the first one, as a batch needs them."""

    def __init__(self) -> None:
        self._first: tuple[str, set[str]] | None = None

    def check(self, example: Any, where: str) -> None:
        """Look at one row.

        Args:
            example: with its columns.
            where: what to call it in a message.

        Raises:
            UserError: it lacks a column that the first row had, or the other way round.
        """
        found = set(example.columns) & set(COLUMNS)
        if self._first is None:
            self._first = where, found
        first, there = self._first
        for name in sorted(found ^ there):
            has, lacks = (where, first) if name in found else (first, where)
            raise UserError(
                f"{lacks} has no {name}, and {has} has: give it to all rows, or to none of them"
            )


class GivenLabels(LabelledData):
    """`LabelledData` of :class:`Labelled` rows."""

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """The rows' columns as they are, and ``labels``."""
        say_unknown("rows", tokenizer, [example.columns["input_ids"] for example in examples])
        return [{**example.columns, "labels": example.label} for example in examples]

    def texts(self, example: Any, tokenizer: Any) -> list[str]:
        """What the tokens of the row mean."""
        return [_read(example, tokenizer)]


class GivenLabelSets(LabelSetData):
    """`LabelSetData` of :class:`Marked` rows."""

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """The rows' columns as they are, and ``labels``, a mark for each."""
        say_unknown("rows", tokenizer, [example.columns["input_ids"] for example in examples])
        return [{**example.columns, "labels": self._marks(example)} for example in examples]

    def texts(self, example: Any, tokenizer: Any) -> list[str]:
        """What the tokens of the row mean."""
        return [_read(example, tokenizer)]


def _read(example: Labelled | Marked, tokenizer: Any) -> str:
    text: str = tokenizer.decode(example.columns["input_ids"], skip_special_tokens=True)
    return text


class GivenTags(TaggedData):
    """`TaggedData` of :class:`Tagged` rows."""

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """The rows as they are."""
        say_unknown("rows", tokenizer, [example.columns["input_ids"] for example in examples])
        return [example.columns for example in examples]


class GivenText(TextData):
    """`TextData` of :class:`Written` rows."""

    def prompts(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[list[int]]:
        """The rows' sources as they are."""
        return [self.prompt(example.columns, seq2seq) for example in examples]

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """The rows as they are."""
        say_unknown("rows", tokenizer, [example.columns["input_ids"] for example in examples])
        return [example.columns for example in examples]


def from_source(example: Any, row: Mapping[str, Any], column: str, number: int) -> Any:
    """The example of a training row, with the source that its row names.

    Args:
        example: any of those above.
        row: that it was read from.
        column: of the row, with the source's name.
        number: of the row, from 0.

    Raises:
        UserError: the row has no name there.
    """
    name = row.get(column)
    if is_absent(name) or isinstance(name, (list, tuple, Mapping)) or not str(name).strip():
        raise UserError(
            f"row {number} of train has no name of a source in column {column!r} (source_column): "
            "every row to train on needs one, a text or a number"
        )
    origin = Origin("data['train']", number, source=str(name).strip())
    found = example._replace(origin=origin)
    if isinstance(example, Tagged | Written):
        found.columns = example.columns
    return found


def labelled(
    row: Mapping[str, Any], where: str, classes: int, most: int | None, tokenizer: Any = None
) -> Labelled:
    """Read a row with one answer.

    Args:
        row: ``input_ids`` and ``labels`` (or ``label``).
        where: what to call it in a message.
        classes: how many there are; 1 for regression.
        most: tokens that the model takes; None without a limit.
        tokenizer: whose padding is taken off.

    Raises:
        UserError: a column is missing, or the label is no class of the model, or no number.
    """
    columns, label = _columns(row, where)
    columns, _ = unpadded(columns, None, where, tokenizer)
    _check_length(columns, where, most)
    if classes == 1:
        return Labelled(columns, number(label, where))
    label = label.tolist() if hasattr(label, "tolist") else label
    if isinstance(label, list) and len(label) == 1:  # a tensor of one
        label = label[0]
    if not isinstance(label, int) or not 0 <= label < classes:
        missing = " (pandas makes these floats where a label of the column is missing)"
        raise UserError(
            f"{where} has the label {label!r}: it must be a whole number from 0 to {classes - 1}, "
            f"the classes of the model's head{missing if isinstance(label, float) else ''}"
        )
    return Labelled(columns, int(label))


def marked(
    row: Mapping[str, Any], where: str, classes: int, most: int | None, tokenizer: Any = None
) -> Marked:
    """Read a row with a mark for each label, 1 where it is one of the text's, else 0.

    Arguments as :func:`labelled`'s.

    Raises:
        UserError: a column is missing, or the labels are not so.
    """
    columns, marks = _columns(row, where)
    columns, _ = unpadded(columns, None, where, tokenizer)
    _check_length(columns, where, most)
    marks = marks.tolist() if hasattr(marks, "tolist") else marks
    right = isinstance(marks, list | tuple) and len(marks) == classes
    if not right or any(mark not in (0, 1) for mark in marks):
        raise UserError(
            f"{where} has the labels {marks!r}: this model (problem_type of its configuration) has "
            f"several labels a text, so they must be {classes} numbers, 1 or 0 for each label"
        )
    return Marked(columns, tuple(i for i, mark in enumerate(marks) if mark))


def tagged(
    row: Mapping[str, Any],
    where: str,
    names: Sequence[str],
    most: int | None,
    tokenizer: Any = None,
) -> Tagged:
    """Read a row with a tag's number for the first token of each word, -100 for other tokens.

    Its words are those of the column ``words``, if it is a list that has them.

    Raises:
        UserError: a column is missing, or the labels are not so.
    """
    columns, numbers = _sequences(row, where)
    if len(numbers) != len(columns["input_ids"]):
        raise UserError(
            f"{where} has {len(columns['input_ids'])} tokens and {len(numbers)} labels: there must "
            f"be one for each token, {NO_LABEL} where none counts"
        )
    columns, cut = unpadded(columns, numbers, where, tokenizer)
    numbers = cut or []
    _check_length(columns, where, most)
    wrong = [n for n in numbers if n != NO_LABEL and not 0 <= n < len(names)]
    if wrong:
        raise UserError(
            f"{where} has the label {wrong[0]}: allowed are {NO_LABEL} and 0 to {len(names) - 1}, "
            "the tags of the model's head"
        )
    tags = tuple(names[n] for n in numbers if n != NO_LABEL)
    words = row.get("words")
    known = isinstance(words, Sequence) and not isinstance(words, str) and len(words) >= len(tags)
    # a word cut off by the tokenizer has no label
    kept = words[: len(tags)] if known and words else ()
    example = Tagged(tuple(text_of(word, "words", where) for word in kept), tags)
    example.columns = {**columns, "labels": numbers}
    return example


def written(
    row: Mapping[str, Any], where: str, tokenizer: Any, seq2seq: bool, most: int | None
) -> Written:
    """Read a row of text to learn.

    Padding by hand is taken off: of the tokens, and of the labels (-100 behind the last one).

    A causal model's ``labels`` are as long as ``input_ids`` and -100 over the source, the first
    part, or over more of it, as in a conversation: then what is written for a test is its last
    answer, the labels that end the row. References of a test are in ``references``; without them
    the last answer's text is the one.

    Raises:
        UserError: a column is missing, or the labels are not so.
    """
    columns, labels = _sequences(row, where)
    if seq2seq:
        columns, _ = unpadded(columns, None, where, tokenizer)
        labels = unpadded({"input_ids": labels}, None, where, tokenizer)[0]["input_ids"]
    elif len(labels) != len(columns["input_ids"]):
        raise UserError(
            f"{where} has {len(columns['input_ids'])} tokens and {len(labels)} labels: a causal "
            f"model needs one for each token, {NO_LABEL} over the source"
        )
    else:
        columns, cut = unpadded(columns, labels, where, tokenizer)
        labels = cut or []
    # Behind the last label nothing is learned, and nothing before it looks there.
    end = next((i + 1 for i in reversed(range(len(labels))) if labels[i] != NO_LABEL), 0)
    labels = labels[:end]
    if not seq2seq:
        columns = {name: values[: end or None] for name, values in columns.items()}
    _check_length(columns, where, most)
    source, last = columns["input_ids"], labels
    if not seq2seq:
        start = answer_start(labels)
        if start in (0, len(labels)) or labels[0] != NO_LABEL:
            raise UserError(
                f"{where} must have the label {NO_LABEL} over its first tokens, the source, and "
                "the target's tokens as labels after it"
            )
        source, last = source[:start], labels[start:]
    elif not labels:
        raise UserError(f"{where} has no label to learn")
    elif most is not None and len(labels) > most:
        raise UserError(f"{where} has {len(labels)} labels, and the model takes {most} tokens")
    target = tokenizer.decode([n for n in last if n != NO_LABEL], skip_special_tokens=True)
    given = row.get("references")
    references = () if given is None else tuple(texts_of(given, "references", where))
    references = references or (target.strip(),)
    text = tokenizer.decode(source, skip_special_tokens=True)
    example = Written(text.strip(), target.strip(), references)
    example.columns = {**columns, "labels": labels}
    return example


def _sequences(row: Mapping[str, Any], where: str) -> tuple[dict[str, list[int]], list[int]]:
    columns, labels = _columns(row, where)
    if not hasattr(labels, "__len__") or isinstance(labels, str):
        raise UserError(f"{where} has the label {labels!r}: this model needs a list, one a token")
    return columns, integers(labels, where, "labels")


def _columns(row: Mapping[str, Any], where: str) -> tuple[dict[str, list[int]], Any]:
    if not isinstance(row, Mapping):
        raise UserError(
            f"{where} is of the type {type(row).__name__}: a row is a mapping, "
            "{'input_ids': [...], 'labels': ...}"
        )
    key = "labels" if "labels" in row else "label"
    for needed in ("input_ids", key):
        if needed not in row:
            name = "'input_ids'" if needed == "input_ids" else "'labels' (or 'label')"
            raise UserError(f"{where} has no {name}, only {', '.join(map(str, row))}")
    if key == "labels" and _rivals(row["labels"], row.get("label")):
        raise UserError(
            f"{where} has {row['labels']!r} in 'labels' and {row['label']!r} in 'label': take one "
            "of them away"
        )
    # Text columns and the like are left behind: a model takes numbers.
    given = [name for name in COLUMNS if row.get(name) is not None]
    columns = {name: integers(row[name], where, name) for name in ("input_ids", *given)}
    if not columns["input_ids"]:
        raise UserError(f"{where} has no tokens")
    return columns, row[key]


def _rivals(labels: Any, label: Any) -> bool:
    """Whether both could be what is to be learned, and differ; a name or nothing could not."""
    first, other = (x.tolist() if hasattr(x, "tolist") else x for x in (labels, label))
    first, other = (x[0] if isinstance(x, list) and len(x) == 1 else x for x in (first, other))
    if isinstance(other, str) or is_absent(other):
        return False
    # A class of the whole text beside a label for each token is another matter.
    return is_list(first) == is_list(other) and first != other


def _check_length(columns: Mapping[str, list[int]], where: str, most: int | None) -> None:
    tokens = len(columns["input_ids"])
    if most is not None and tokens > most:
        raise UserError(
            f"{where} has {tokens} tokens, and the model takes {most}: cut it with "
            f"tokenizer(..., truncation=True, max_length={most})"
        )
