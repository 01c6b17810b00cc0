"""Serve tasks of texts with any number of labels each: none, one or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from experiments.answers import LABELS, Answers
from experiments.metrics import constant
from experiments.metrics.labels import LABEL_SET_METRICS
from experiments.tasks.examples import Example
from experiments.tasks.kinds.labelled import DIGITS, LabelledData

__all__ = ["LabelSetData"]


@dataclass(frozen=True)
class LabelSetData(LabelledData):
    """Texts with sets of labels; predictions are logits, a label is said where its own is above 0.

    Examples are `LabelSetExample`; the loss is the binary cross-entropy, a mean over labels.
    """

    scored_by: ClassVar[Mapping[str, Callable[[np.ndarray, np.ndarray], float]]] = LABEL_SET_METRICS

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

    def _renumbered(self, example: Any, numbers: Mapping[int, int]) -> Any:
        if not all(i in numbers for i in example.labels):
            return None
        return example._replace(labels=tuple(sorted(numbers[i] for i in example.labels)))

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

    def example_losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`TaskData.example_losses`."""
        logits, labels = outputs.logits.double(), batch["labels"].double()
        each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return each.sum(1), torch.full((len(labels),), labels.shape[1], device=labels.device)

    def constant_losses(self, examples: Sequence[dict[str, Any]]) -> np.ndarray | None:
        """Of each label's share; see :meth:`TaskData.constant_losses`."""
        return constant.of_sets(np.array([example["labels"] for example in examples], dtype=float))

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

    def _decide(self, logits: list[np.ndarray]) -> np.ndarray:
        return np.array(logits) > 0

    def _right(self, examples: Sequence[Any]) -> np.ndarray:
        return np.array([self._marks(example) for example in examples]) > 0

    def _marks(self, example: Any) -> list[float]:
        return [float(i in example.labels) for i in range(len(self.label_names or ()))]
