"""Serve tasks of texts with any number of labels each: none, one or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from bilevel.precision import in_float64
from experiments.answers import LABELS, Answers
from experiments.metrics import constant
from experiments.metrics.labels import LABEL_SET_METRICS
from experiments.tasks.examples import Example
from experiments.tasks.kinds.labelled import DIGITS, LabelledData

__all__ = ["LabelSetData"]

THRESHOLDS = [i / 100 for i in range(1, 100)]  # among which one is chosen


@dataclass(frozen=True)
class LabelSetData(LabelledData):
    """Texts with sets of labels; predictions are logits, a label is said above a probability.

    Examples are `LabelSetExample`; the loss is the binary cross-entropy, a mean over labels.

    Attributes:
        threshold: that probability; None for one that is chosen on validation data by
            :meth:`decided`, 0.5 until then.
    """

    scored_by: ClassVar[Mapping[str, Callable[[np.ndarray, np.ndarray], float]]] = LABEL_SET_METRICS

    threshold: float | None = 0.5

    def decided(self, predictions: Sequence[np.ndarray], examples: Sequence[Any]) -> LabelSetData:
        """The same with the threshold of the best primary metric, of equal ones that next to 0.5.

        Args:
            predictions: logits of validation data.
            examples: the same data.
        """
        right = self._right(examples)
        scored = {
            t: self.scored_by[self.metrics[0]](np.array(predictions) > _logit(t), right)
            for t in THRESHOLDS
        }
        best = max(THRESHOLDS, key=lambda t: (scored[t], -abs(t - 0.5)))
        return replace(self, threshold=best)

    def at_threshold(self, threshold: float) -> LabelSetData:
        """See :meth:`TaskData.at_threshold`; one that is given stays."""
        return replace(self, threshold=threshold) if self.threshold is None else self

    @property
    def _least(self) -> float:
        """The logit above which a label is said."""
        return _logit(0.5 if self.threshold is None else self.threshold)

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
        threshold = 0.5 if self.threshold is None else self.threshold
        return {name: f"{means[name]}; said where p > {threshold:g}" for name in self.metrics}

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
        logits, labels = in_float64(outputs.logits), in_float64(batch["labels"])
        total = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return float(total), labels.numel()

    def example_losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`TaskData.example_losses`."""
        logits, labels = in_float64(outputs.logits), in_float64(batch["labels"])
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
            said = [names[j] for j in np.flatnonzero(logits > self._least)]
            shares = expit(logits.astype(np.float64)).tolist()
            row = {"index": i, "label": [names[j] for j in example.labels], "prediction": said}
            found.append({**row, "probabilities": [round(share, DIGITS) for share in shares]})
        return found

    def _decide(self, logits: list[np.ndarray]) -> np.ndarray:
        return np.array(logits) > self._least

    def _right(self, examples: Sequence[Any]) -> np.ndarray:
        return np.array([self._marks(example) for example in examples]) > 0

    def _marks(self, example: Any) -> list[float]:
        return [float(i in example.labels) for i in range(len(self.label_names or ()))]


def _logit(p: float) -> float:
    """log(p / (1 - p)), 0 of 0.5."""
    return math.log(p / (1 - p))
