"""Take rows that the caller of :mod:`experiments.api` has tokenised already as a task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bilevel.errors import UserError
from bilevel.labels import NO_LABEL
from experiments.answers import CLASSES, LABELS, NUMBER, TAGS, TEXT, Answers, Decoding
from experiments.metrics.labels import LABEL_SET_METRICS, check_metrics
from experiments.metrics.labels import USUAL as USUAL_OF_LABELS
from experiments.metrics.names import check_names
from experiments.metrics.tags import TAG_METRICS, check_installed
from experiments.models.vocabulary import check_rows
from experiments.stored_data.parts import column
from experiments.stored_data.spool import held
from experiments.tasks import generation
from experiments.tasks.in_memory_labels import class_names, renumbering
from experiments.tasks.in_memory_rows import (
    Alike,
    GivenLabels,
    GivenLabelSets,
    GivenTags,
    GivenText,
    from_source,
    labelled,
    marked,
    tagged,
    written,
)
from experiments.tasks.in_memory_values import integers, unpadded
from experiments.tasks.kinds.label_sets import LabelSetData
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.kinds.tags import TaggedData
from experiments.tasks.kinds.text import UNLIMITED, TextData, answer_start
from experiments.tasks.odd_labels import say_look_alikes, say_odd_numbers, say_unseen
from experiments.tasks.sources import sizes
from experiments.tasks.task import Task, TaskData, no_examples

__all__ = ["GivenTask"]

Kinds = tuple[type[TaggedData], type[TextData], type[LabelSetData], type[LabelledData]]
# What holds rows that are tokenised already, and what holds texts.
ROWS: Kinds = (GivenTags, GivenText, GivenLabelSets, GivenLabels)
TEXTS: Kinds = (TaggedData, TextData, LabelSetData, LabelledData)

ENTITIES = tuple(TAG_METRICS)
USUAL = {**USUAL_OF_LABELS, TAGS: ENTITIES, TEXT: ("bleu",)}


@dataclass(frozen=True)
class GivenTask(Task):
    """Rows that are tokenised already.

    Attributes:
        data: ``train``, and ``test`` or ``validation``; beside a test, validation is chosen by.
        answers: what the model puts out.
        tokenizer: turns the tokens of text rows back into text.
        seq2seq: the model reads labels apart from its input.
        metrics: None for the usual ones of the kind.
        decoding: how text is written.
        positions: tokens that the model takes; None without a limit.
        tokens: that it has an embedding for; None if unknown.
        types: token types that it knows; 0 if it does not read them, None if unknown.
        source_column: of the training rows, the source that each is from; None without sources.
    """

    data: Mapping[str, Iterable[Mapping[str, Any]]]
    answers: Answers
    tokenizer: Any = None
    seq2seq: bool = False
    metrics: Sequence[str] | None = None
    decoding: Decoding | None = None
    positions: int | None = None
    tokens: int | None = None
    types: int | None = None
    name: str = "given"
    source_column: str | None = None

    def __post_init__(self) -> None:
        self._check_metrics()
        if self.decoding is not None and self.answers.kind != TEXT:
            raise UserError("decoding= is for models that write text, and this one does not")
        if self.answers.kind == TAGS:
            check_installed()
            self._check_names()

    def _check_metrics(self) -> None:
        metrics = USUAL[self.answers.kind] if self.metrics is None else self.metrics
        if self.answers.kind == TEXT:
            generation.check_metrics(metrics, "metrics")
        elif self.answers.kind == TAGS:
            check_names(metrics, TAG_METRICS, "metrics")
        elif self.answers.kind == LABELS:
            check_names(metrics, LABEL_SET_METRICS, "metrics")
        else:
            check_metrics(metrics, self.answers.size, "metrics")

    def _check_names(self) -> None:
        """Entities are told by the tags' names, which transformers makes up if nobody gives any."""
        other = [n for n in self.answers.names or () if n != "O" and n[:2] not in ("B-", "I-")]
        if other and list(self.metrics or ENTITIES) != ["token_accuracy"]:
            raise UserError(
                f"the model's tags have names like {other[0]!r}, and entities are told by O, "
                "B-TYPE and I-TYPE: set model.config.id2label, or metrics=['token_accuracy']"
            )

    def load(self) -> TaskData:
        """Check the rows.

        Raises:
            UserError: there is no training data, or a row lacks a column or has a strange label.
        """
        source = "test" if "test" in self.data else "validation"
        if "train" not in self.data:
            raise UserError(f"data has no 'train', only {', '.join(map(str, self.data))}")
        tests = {"test": self._rows(source)} if source in self.data else {}
        train = self._rows("train")
        if self.answers.kind == NUMBER:
            say_odd_numbers(column(train, "label"), "data['train']")
        if self.answers.kind == CLASSES:
            classes = self.answers.names or [str(i) for i in range(self.answers.size)]
            say_unseen(classes, set(column(train, "label")), "data['train']")
        common: dict[str, Any] = {
            "name": self.name,
            "train": train,
            "tests": tests,
            "test_source": source if tests else "none",
            "validation": self._rows("validation") if self._has_validation else None,
            "metrics": tuple(self.metrics or USUAL[self.answers.kind]),
            "max_length": 0,
        }
        tags = self.answers.kind == TAGS
        if tags and tests and not any(example.tags for example in tests["test"]):
            raise UserError(f"data[{source!r}] has no token with a label")
        # without a test nothing is written, and nothing has to fit
        decoding = self.decoding or Decoding() if tests else Decoding(max_new_tokens=1)
        if self.answers.kind == TEXT:
            self._check_room(tests, decoding, source)
        return self._data(ROWS, common, decoding)

    def to_predict(self, labels: Sequence[str] | None) -> TaskData:
        """For rows that are tokenised already, which :meth:`asked` reads."""
        return self._to_predict(ROWS)

    def to_predict_texts(self) -> TaskData:
        """For texts, which are cut where the model's positions end."""
        return self._to_predict(TEXTS)

    def asked(self, row: Any, where: str) -> Any:
        """A row to predict on; what it has of labels is not looked at.

        But those of tags say which token is a word's first, and those of a causal model's text
        where the source ends.

        Raises:
            UserError: as :meth:`load`.
        """
        if not isinstance(row, Mapping) or row.get("input_ids") is None:
            raise UserError(
                f"{where} has no 'input_ids': give rows that are tokenised, as they were trained "
                "on, or the texts alone"
            )
        kind, key = self.answers.kind, "labels" if "labels" in row else "label"
        given = {name: value for name, value in row.items() if name not in ("labels", "label")}
        if kind == TAGS:
            if key not in row:
                raise UserError(
                    f"{where} has no 'labels', which say the first token of each word: give them, "
                    "or lists of words in the place of rows"
                )
            given["labels"] = row[key]
        elif kind == TEXT:
            given = self._open(given, row.get(key), where)
        else:
            given["labels"] = [0] * self.answers.size if kind == LABELS else 0
        return self._row(given, where)

    def _open(self, row: dict[str, Any], labels: Any, where: str) -> dict[str, Any]:
        """A row of text with the end alone as its target, or with the one that it has."""
        end = int(self.tokenizer.eos_token_id)
        if self.seq2seq:
            return {**row, "labels": [end]}
        if labels is not None:
            return {**row, "labels": labels}
        source = integers(row["input_ids"], where, "input_ids")
        mask = [1] * len(source)
        if row.get("attention_mask") is not None:
            mask = integers(row["attention_mask"], where, "attention_mask")
        inputs, _ = unpadded(
            {"input_ids": source, "attention_mask": mask}, None, where, self.tokenizer
        )
        source = inputs["input_ids"]
        return {"input_ids": [*source, end], "labels": [NO_LABEL] * len(source) + [end]}

    def _to_predict(self, kinds: Kinds) -> TaskData:
        # A tokenizer without a limit says 1e30, which none takes.
        most = self.positions or min(int(self.tokenizer.model_max_length), UNLIMITED)
        metrics = tuple(self.metrics or USUAL[self.answers.kind])
        common = {"name": self.name, **no_examples(), "metrics": metrics, "max_length": most}
        return self._data(kinds, common, self.decoding or Decoding())

    def _data(self, kinds: Kinds, common: dict[str, Any], decoding: Decoding) -> TaskData:
        """Of the kind that the model's answers have."""
        tags, text, sets, labels = kinds
        names = self.answers.names
        if self.answers.kind == TAGS:
            return tags(**common, tag_names=names or ())
        if self.answers.kind == TEXT:  # what is given ends where the answer begins
            return text(**common, decoding=decoding, separator="")
        if self.answers.kind == LABELS:
            return sets(**common, label_names=list(names or ()))
        return labels(**common, label_names=None if names is None else list(names))

    @property
    def _has_validation(self) -> bool:
        return "test" in self.data and "validation" in self.data

    def _check_room(self, tests: dict[str, Sequence[Any]], decoding: Decoding, split: str) -> None:
        """Refuse answers that would run out of the model's positions."""
        if self.positions is None:
            return
        for number, example in enumerate(tests.get("test", [])):
            labels = example.columns["labels"]
            taken = 0 if self.seq2seq else answer_start(labels)
            if taken + decoding.max_new_tokens > self.positions:
                behind = "" if self.seq2seq else f"row {number} of {split} has {taken} tokens, and "
                raise UserError(
                    f"{behind}decoding.max_new_tokens={decoding.max_new_tokens} exceeds the "
                    f"model's {self.positions} positions"
                )

    def _rows(self, split: str) -> Sequence[Any]:
        convert = None
        if self.answers.kind in (CLASSES, TAGS):
            convert = renumbering(split, *map(class_names, (self.data[split], self.data["train"])))
        alike, column = Alike(), self.source_column if split == "train" else None

        def examples() -> Iterator[Any]:
            for number, row in enumerate(self.data[split]):  # once: it may be a generator
                where = f"row {number} of {split}"
                example = self._row(row if convert is None else convert(row), where)
                alike.check(example, where)
                yield example if column is None else from_source(example, row, column, number)

        rows = held(examples())
        if not rows:
            raise UserError(f"data[{split!r}] is empty")
        if column is not None:
            say_look_alikes(list(sizes(rows) or ()), "data['train']", "sources")
        return rows

    def _row(self, row: Mapping[str, Any], where: str) -> Any:
        most = self.positions
        if self.answers.kind == TAGS:
            example: Any = tagged(row, where, self.answers.names or (), most, self.tokenizer)
        elif self.answers.kind == TEXT:
            example = written(row, where, self.tokenizer, self.seq2seq, most)
        elif self.answers.kind == LABELS:
            example = marked(row, where, self.answers.size, most, self.tokenizer)
        else:
            example = labelled(row, where, self.answers.size, most, self.tokenizer)
        text = self.answers.kind == TEXT
        ids = ("input_ids", "labels") if text else ("input_ids",)
        check_rows([example.columns], self.tokens, lambda _: where, ids)
        self._check_types(example.columns, where)
        return example

    def _check_types(self, columns: dict[str, Any], where: str) -> None:
        """Take token types off that the model does not read; refuse those it does not know."""
        found = columns.get("token_type_ids")
        if found is None or self.types is None:
            return
        if not self.types:
            del columns["token_type_ids"]
        elif min(found) < 0 or max(found) >= self.types:
            raise UserError(
                f"{where} has {min(found)} to {max(found)} in token_type_ids, and the model knows "
                f"0 to {self.types - 1}: leave the column out, or use the model's own tokenizer"
            )
