"""A task and a model that the caller of :mod:`experiments.api` has in memory already."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilevel.errors import UserError
from experiments.architecture import head_modules
from experiments.metrics import METRICS
from experiments.models import LoadedModel, ModelSpec
from experiments.quantization import keep_trainable
from experiments.tasks.base import Answers, Task, TaskData
from experiments.tasks.labelled import LabelledData

__all__ = ["GivenModel", "GivenTask"]


class TokenisedExample(NamedTuple):
    """An example that needs no tokenizer any more: columns for the model, and its label."""

    features: dict[str, Any]
    label: int | float


class TokenisedData(LabelledData):
    """`LabelledData` of :class:`TokenisedExample` rows."""

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """The rows' columns as they are, and ``labels``."""
        return [{**example.features, "labels": example.label} for example in examples]


@dataclass(frozen=True)
class GivenTask(Task):
    """Rows that are tokenised already.

    Attributes:
        data: ``train``, and ``test`` or ``validation``.
        num_labels: classes; 1 for regression.
        names: class number -> name.
        metrics: None for accuracy and macro F1, or Pearson's and Spearman's correlation.
    """

    data: Mapping[str, Iterable[Mapping[str, Any]]]
    num_labels: int
    names: Mapping[int, str] = field(default_factory=dict)
    metrics: Sequence[str] | None = None
    name: str = "given"

    def __post_init__(self) -> None:
        for metric in self.metrics or ():
            if metric not in METRICS:
                raise UserError(f"unknown metric {metric!r}; allowed: {', '.join(METRICS)}")

    def load(self) -> TaskData:
        """Check the rows.

        Raises:
            UserError: there is no training data, or a row lacks a column or has a strange label.
        """
        regression = self.num_labels == 1
        usual = ("pearson", "spearman") if regression else ("accuracy", "macro_f1")
        source = "test" if "test" in self.data else "validation"
        if "train" not in self.data:
            raise UserError(f"data has no 'train', only {', '.join(map(str, self.data))}")
        tests = {"test": self._rows(source)} if source in self.data else {}
        return TokenisedData(
            name=self.name,
            train=self._rows("train"),
            tests=tests,
            test_source=source if tests else "none",
            label_names=None
            if regression
            else [str(self.names.get(i, i)) for i in range(self.num_labels)],
            metrics=tuple(self.metrics or usual),
            max_length=0,
        )

    def _rows(self, split: str) -> list[Any]:
        rows = [self._row(row, f"row {i} of {split}") for i, row in enumerate(self.data[split])]
        if not rows:
            raise UserError(f"data[{split!r}] is empty")
        return rows

    def _row(self, row: Mapping[str, Any], where: str) -> TokenisedExample:
        key = "labels" if "labels" in row else "label"
        for needed in ("input_ids", key):
            if needed not in row:
                raise UserError(f"{where} has no {needed!r}, only {', '.join(map(str, row))}")
        label = row[key].item() if hasattr(row[key], "item") else row[key]
        if self.num_labels > 1 and not (isinstance(label, int) and 0 <= label < self.num_labels):
            raise UserError(
                f"{where} has the label {label!r}: it must be a whole number from 0 to "
                f"{self.num_labels - 1}, the classes of the model's head"
            )
        # Text columns and the like are left behind: a model takes numbers.
        features = {
            str(name): list(column)
            for name, column in row.items()
            if name in ("input_ids", "attention_mask", "token_type_ids")
        }
        return TokenisedExample(features, label)


@dataclass(frozen=True)
class GivenModel(ModelSpec):
    """A model in memory; each stage works on a copy.

    Attributes:
        model: with its head.
        tokenizer: pads batches.
        head: modules trained in full; None for those outside the backbone.
    """

    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    head: Sequence[str] | None = None

    @property
    def quantised(self) -> bool:
        """Whether the layers' weights are packed."""
        return bool(getattr(self.model, "is_quantized", False))

    def source(self) -> str:
        """Nothing to find."""
        return self.name

    def load(self, answers: Answers, seed: int) -> LoadedModel:
        """A copy of the model, which has its head."""
        return self.copy()

    def copy(self) -> LoadedModel:
        """A copy of the model in fp32, or quantised as it is."""
        assert self.model is not None
        assert self.tokenizer is not None
        fresh = copy.deepcopy(self.model).eval()
        if self.quantised:  # packed weights have no other precision
            keep_trainable(fresh)
        else:
            fresh = fresh.float()
        if fresh.config.pad_token_id is None:
            fresh.config.pad_token_id = self.tokenizer.pad_token_id
        fresh.config.problem_type = (
            "regression" if self.model.config.num_labels == 1 else "single_label_classification"
        )
        head = head_modules(fresh) if self.head is None else list(self.head)
        return LoadedModel(fresh, self.tokenizer, head, "SEQ_CLS" if head else None)
