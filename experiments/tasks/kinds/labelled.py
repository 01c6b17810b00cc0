"""Serve tasks of one or two texts with one answer: a class or a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional
from transformers import DataCollatorWithPadding

from bilevel.errors import UserError
from bilevel.precision import in_float64
from experiments.answers import CLASSES, NUMBER, Answers
from experiments.metrics import constant
from experiments.metrics.labels import METRICS
from experiments.stored_data.parts import column
from experiments.tasks.kinds.pairs import separator
from experiments.tasks.kinds.remarks import numbered, say_cut, say_unknown
from experiments.tasks.task import TaskData

__all__ = ["LabelledData", "over_tests"]

DIGITS = 6  # of a probability in predictions.jsonl, after the point


@dataclass(frozen=True)
class LabelledData(TaskData):
    """Texts with labels; predictions are the model's outputs, (num_labels,) for each example.

    Attributes:
        label_names: the classes' names, in the order of their numbers; None for regression.
        scored_by: metric by name, of predictions and right answers as arrays.
    """

    scored_by: ClassVar[Mapping[str, Callable[[np.ndarray, np.ndarray], float]]] = METRICS
    label_names: list[str] | None = None

    @property
    def answers(self) -> Answers:
        """Classes, or one number."""
        if self.label_names is None:
            return Answers(NUMBER, 1)
        return Answers(CLASSES, len(self.label_names), tuple(self.label_names))

    @property
    def metric_settings(self) -> dict[str, str]:
        """Of which class the F1 is."""
        if "f1" not in self.metrics or self.label_names is None:
            return {}
        return {"f1": f"of the class {self.label_names[1]!r}, the second of two"}

    def tested_labels(self) -> set[str]:
        """Names of the classes in the test sets."""
        names = self.label_names or []
        return {names[int(e.label)] for rows in self.tests.values() for e in rows}

    def renumbered(self, names: tuple[str, ...]) -> Self:
        """See :meth:`TaskData.renumbered`."""
        numbers = {i: names.index(n) for i, n in enumerate(self.label_names or ()) if n in names}

        def kept(examples: Sequence[Any]) -> list[Any]:
            found = (self._renumbered(example, numbers) for example in examples)
            return [example for example in found if example is not None]

        return replace(
            self,
            train=kept(self.train),
            validation=None if self.validation is None else kept(self.validation),
            tests={name: kept(rows) for name, rows in self.tests.items()},
            label_names=list(names),
        )

    def _renumbered(self, example: Any, numbers: Mapping[int, int]) -> Any:
        """An example with another number for its class; None where that has none."""
        number = numbers.get(int(example.label))
        if number is None:
            return None
        origin = example.origin
        if origin is not None and origin.truth is not None:
            origin = origin._replace(truth=numbers.get(int(origin.truth)))
        return example._replace(label=number, origin=origin)

    def stratify(self, examples: Sequence[Any]) -> list[int] | None:
        """Class numbers for a stratified split; None for regression."""
        if self.label_names is None:
            return None
        return [int(label) for label in column(examples, "label")]

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """Return input_ids, attention_mask, [token_type_ids] and labels of each, unpadded.

        The log says how many are cut, and of how many the tokenizer knows no word.

        Raises:
            UserError: two texts cannot be parted, or a text has no token at all.
        """
        if not examples:
            return []
        limit = min(self.max_length, tokenizer.model_max_length)
        columns = [list(column) for column in zip(*(e.texts for e in examples), strict=True)]
        if len(columns) == 2:
            before = separator(tokenizer)
            columns[1] = [before + text for text in columns[1]]
        encoded = tokenizer(*columns, truncation=True, max_length=limit)
        self._say(tokenizer, columns, encoded["input_ids"], limit)
        keys = list(encoded)
        return [
            {**{key: encoded[key][i] for key in keys}, "labels": example.label}
            for i, example in enumerate(examples)
        ]

    def _say(
        self, tokenizer: Any, columns: list[list[str]], rows: list[list[int]], limit: int
    ) -> None:
        for number, row in enumerate(rows):
            if not row:
                raise UserError(
                    f"example {numbered(number)} of task {self.name} is empty, and the model's "
                    "tokenizer gives it no token: leave it out"
                )
        full = [i for i, row in enumerate(rows) if len(row) >= limit]
        lengths: list[int] = []
        if full:
            whole = tokenizer(*([column[i] for i in full] for column in columns), verbose=False)
            lengths = [len(row) for row in whole["input_ids"] if len(row) > limit]
        option = f"task.max_length={self.max_length}, or the model's positions"
        say_cut("texts", lengths, limit, len(rows), option)
        say_unknown("texts", tokenizer, rows)

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Pads to the batch's longest example."""
        return DataCollatorWithPadding(tokenizer)

    def losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[float, int]:
        """Cross-entropy, or the squared error for regression: the model's own training loss."""
        logits = in_float64(outputs.logits)
        labels = batch["labels"].to(logits.device)
        if self.label_names is None:
            total = functional.mse_loss(logits[:, 0], in_float64(batch["labels"]), reduction="sum")
        else:
            total = functional.cross_entropy(logits, labels, reduction="sum")
        return float(total), len(labels)

    def example_losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`TaskData.example_losses`."""
        logits = in_float64(outputs.logits)
        labels = batch["labels"].to(logits.device)
        if self.label_names is None:
            targets = in_float64(batch["labels"])
            totals = functional.mse_loss(logits[:, 0], targets, reduction="none")
        else:
            totals = functional.cross_entropy(logits, labels, reduction="none")
        return totals, torch.ones_like(labels, dtype=torch.long)

    def constant_losses(self, examples: Sequence[dict[str, Any]]) -> np.ndarray | None:
        """Of the classes' shares, or of the mean number; see :meth:`TaskData.constant_losses`."""
        labels = np.array([example["labels"] for example in examples])
        return (
            constant.of_numbers(labels) if self.label_names is None else constant.of_classes(labels)
        )

    def predictions(self, outputs: Any, batch: dict[str, Tensor]) -> list[np.ndarray]:
        """The logits, float32 (num_labels,) for each example."""
        return list(outputs.logits.float().cpu().numpy())

    def score(self, predictions: dict[str, list[Any]]) -> dict[str, float | None]:
        """See :meth:`TaskData.score`."""
        found = {name: self._decide(predictions[name]) for name in self.tests}
        right = {name: self._right(rows) for name, rows in self.tests.items()}
        return over_tests(
            self.metrics,
            lambda metric, names: self.scored_by[metric](
                np.concatenate([found[name] for name in names]),
                np.concatenate([right[name] for name in names]),
            ),
            list(self.tests),
        )

    def records(self, predictions: Sequence[Any], examples: Sequence[Any]) -> list[dict[str, Any]]:
        """``index`` in the test set, ``label`` and ``prediction``; no text.

        Of classes these are names, with ``probabilities`` in the order of `label_names`; of
        regression they are numbers.
        """
        names = self.label_names
        if names is None:
            return [
                {"index": i, "label": float(example.label), "prediction": float(logits[0])}
                for i, (logits, example) in enumerate(zip(predictions, examples, strict=True))
            ]
        if not len(predictions):
            return []
        shares = softmax(np.array(predictions, dtype=np.float64), axis=1).round(DIGITS).tolist()
        said = np.array(predictions).argmax(axis=1).tolist()
        return [
            {
                "index": i,
                "label": names[int(example.label)],
                "prediction": names[said[i]],
                "probabilities": shares[i],
            }
            for i, example in enumerate(examples)
        ]

    def texts(self, example: Any, tokenizer: Any) -> list[str]:
        """One or two."""
        return list(example.texts)

    def _decide(self, logits: list[np.ndarray]) -> np.ndarray:
        table = np.array(logits)
        return table[:, 0] if self.label_names is None else table.argmax(axis=1)

    def _right(self, examples: Sequence[Any]) -> np.ndarray:
        return np.array(column(examples, "label"))


def over_tests(
    metrics: Sequence[str],
    score: Callable[[str, list[str]], float | None],
    tests: list[str],
) -> dict[str, float | None]:
    """Each metric over all test sets and, when there are several, over each as `metric_name`.

    Args:
        metrics: their names.
        score: from a metric's name and names of test sets to its value on all of them together.
        tests: the names of the test sets.
    """
    scores = {}
    for metric in metrics:
        scores[metric] = score(metric, tests)
        if len(tests) > 1:
            scores |= {f"{metric}_{name}": score(metric, [name]) for name in tests}
    return scores
