"""Tell formal from informal English: GYAFC, from the files that its authors give out on request."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bilevel.errors import UserError
from experiments.tasks.examples import Example, Origin
from experiments.tasks.inputs import Inputs, text_inputs
from experiments.tasks.reading import formality
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.task import Length, Subset, no_examples

if TYPE_CHECKING:
    from experiments.tasks.kinds.labelled import LabelledData

__all__ = ["Gyafc"]


@dataclass(frozen=True)
class Gyafc(Subset):
    """Sentences of GYAFC, informal or formal; its tuning set is the validation data.

    A run of it is the classifier of ``python -m experiments.style_transfer data_dir=DIR``.
    """

    name: str = "gyafc"
    """The task's name in results."""
    data_dir: str | None = None
    """A domain of the corpus, such as GYAFC_Corpus/Family_Relationships; needed."""
    encoding: str | None = None
    """Of the files; null for UTF-8, with or without a byte-order mark."""
    max_length: Length = 128
    """Tokens of a sentence at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_dir is None:
            raise UserError(f"task={self.name} needs task.data_dir=DIR, a domain of the corpus")

    def load(self) -> LabelledData:
        """Read the three splits."""
        return self._load(("train", "tune", "test"))

    def to_score(self, labels: Sequence[str] | None) -> LabelledData:
        """As :meth:`load`; all but the test may be missing."""
        assert self.data_dir is not None
        there = [split for split in ("train", "tune") if formality.is_there(self.data_dir, split)]
        return self._load((*there, "test"))

    def inputs(self) -> Inputs:
        """A sentence, in a column ``text``."""
        return text_inputs(("text",), lambda texts: Example(texts, 0), Dialect(self.encoding))

    def to_predict(self, labels: Sequence[str] | None) -> LabelledData:
        """The styles alone; no file is read."""
        from experiments.tasks.kinds.labelled import LabelledData

        return LabelledData(
            name=self.name,
            **no_examples(),
            label_names=list(formality.STYLES),
            metrics=("accuracy", "macro_f1"),
            max_length=self.max_length,
        )

    def _load(self, splits: Sequence[str]) -> LabelledData:
        from experiments.tasks.kinds.labelled import LabelledData

        assert self.data_dir is not None
        parts = {}
        for split in splits:
            found = formality.read_split(self.data_dir, split, Dialect(self.encoding))
            lines = {style: itertools.count(1) for style in range(len(formality.STYLES))}
            parts[split] = [
                Example((s.text,), s.style, self._origin(split, s.style, next(lines[s.style])))
                for s in found
            ]
        labels = {split: [int(e.label) for e in rows] for split, rows in parts.items()}
        return LabelledData(
            name=self.name,
            train=self.kept_train(parts.get("train", []), labels.get("train")),
            train_source="train" if "train" in parts else None,
            tests={"test": self.kept_test(parts["test"], labels["test"])},
            test_source="test",
            label_names=list(formality.STYLES),
            metrics=("accuracy", "macro_f1"),
            max_length=self.max_length,
            validation=parts.get("tune"),
        )

    def _origin(self, split: str, style: int, line: int) -> Origin:
        """A sentence stands in the file of its style."""
        return Origin(str(Path(str(self.data_dir), split, formality.STYLES[style])), line, "line")
