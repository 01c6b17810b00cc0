"""Serve tasks of texts with any number of labels each: none, one or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from experiments.answers import LABELS, Answers
from experiments.metrics.labels import LABEL_SET_METRICS
from experiments.tasks.examples import Example
from experiments.tasks.kinds.labelled import DIGITS, LabelledData, over_tests

__all__ = ["LabelSetData"]


@dataclass(frozen=True)
class LabelSetData(LabelledData):
    """Texts with sets of labels; predictions are logits, a label is said where its own is above 0.

    Examples are `LabelSetExample`; the loss is the binary cross-entropy, a mean over labels.
    """

    @property
    def answers(self) -> Answers:
        """Labels, each by itself."""
        names = tuple(self.label_names or ())
        return Answers(LABELS, len(names), names)

    @property
    def metric_settings(self) -> dict[str, str]:
        """How sets are compared."""
        means = {
            "micro_f1": "F1 over all labels of all texts together",
            "macro_f1": "mean over labels of their F1; 0 of one that is neither said nor right",
            "exact_match": "share of texts whose labels are all right",
        }
        return {name: f"{means[name]}; said where p > 0.5" for name in self.metrics}

    def tested_labels(self) -> set[str]:
        """Names of the labels in the test sets."""
        names = self.label_names or []
        return {names[i] for rows in self.tests.values() for e in rows for i in e.labels}

    def renumbered(self, names: tuple[str, ...]) -> Self:
        """See :meth:`TaskData.renumbered`."""
        numbers = {i: names.index(n) for i, n in enumerate(self.label_names or ()) if n in names}

        def kept(examples: list[Any]) -> list[Any]:
            return [
                e._replace(labels=tuple(sorted(numbers[i] for i in e.labels)))
                for e in examples
                if all(i in numbers for i in e.labels)
            ]

        return replace(
            self,
            train=kept(self.train),
            validation=None if self.validation is None else kept(self.validation),
            tests={name: kept(rows) for name, rows in self.tests.items()},
            label_names=list(names),
        )

    def stratify(self, examples: Sequence[Any]) -> list[int] | None:
        """None: sets are not stratified."""
        return None

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """As of classes; ``labels`` is 1.0 for each label of a text and 0.0 for the others."""
        rows = super().tokenise(tokenizer, [Example(e.texts, 0) for e in examples])
        return [
            {**row, "labels": self._marks(example)}
            for row, example in zip(rows, examples, strict=True)
        ]

    def losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[float, int]:
        """The binary cross-entropy of each label: the model's own training loss."""
        logits, labels = outputs.logits.double(), batch["labels"].double()
        total = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return float(total), labels.numel()

    def score(self, predictions: dict[str, list[Any]]) -> dict[str, float | None]:
        """See :meth:`TaskData.score`."""
        found = {name: np.array(predictions[name]) > 0 for name in self.tests}
        right = {
            name: np.array([self._marks(e) for e in rows]) > 0 for name, rows in self.tests.items()
        }
        return over_tests(
            self.metrics,
            lambda metric, names: LABEL_SET_METRICS[metric](
                np.concatenate([found[name] for name in names]),
                np.concatenate([right[name] for name in names]),
            ),
            list(self.tests),
        )

    def records(self, predictions: Sequence[Any], examples: Sequence[Any]) -> list[dict[str, Any]]:
        """``index``, ``label`` and ``prediction`` (lists of names), each label's probability."""
        names = self.label_names or []
        found = []
        for i, (logits, example) in enumerate(zip(predictions, examples, strict=True)):
            said = [names[j] for j in np.flatnonzero(logits > 0)]
            shares = expit(logits.astype(np.float64)).tolist()
            row = {"index": i, "label": [names[j] for j in example.labels], "prediction": said}
            found.append({**row, "probabilities": [round(share, DIGITS) for share in shares]})
        return found

    def _marks(self, example: Any) -> list[float]:
        return [float(i in example.labels) for i in range(len(self.label_names or ()))]
