"""Tell the two styles apart, by a finished run of this tool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bilevel.errors import UserError
from experiments.answers import CLASSES
from experiments.cli import places
from experiments.cli.command_line import CommandLine
from experiments.models.virtual_tokens import beside_adapter
from experiments.results import record, saved_model
from experiments.results.finished_run import SavedRun
from experiments.tasks.examples import Example
from experiments.tasks.kinds.labelled import LabelledData
from experiments.training.scoring import forward

__all__ = ["StyleClassifier"]


class StyleClassifier:
    """Says of texts which style they have.

    Args:
        folder: of the run.
        line: the command line.
        labels: the run's own labels of the styles 0 and 1; its classes are matched by name, in
            whatever order it has them.
        device: to compute on.
        model: where its base model is now; None for where the run had it.

    Raises:
        UserError: no finished run, or one that has other labels or reads pairs of texts.
    """

    def __init__(
        self,
        folder: str,
        line: CommandLine,
        labels: tuple[str, str],
        device: str,
        model: str | None = None,
    ) -> None:
        values = record.read(Path(folder))
        if values is None:
            raise UserError(f"classifier={folder}: there is no finished run, no result.json")
        names = values.get("labels") if values.get("kind") == CLASSES else None
        if not names or len(names) != 2:
            has = "no labels" if not names else f"{len(names)} labels"
            raise UserError(f"classifier={folder} is a run with {has}: one with two is needed")
        if set(names) != set(labels):
            raise UserError(
                f"classifier={folder} has the labels {', '.join(names)}, not {', '.join(labels)}: "
                "say which of its labels stand for 0 and 1 in the data, by "
                "classifier_labels=LABEL,LABEL"
            )
        moved = [] if model is None else [places.word("model.pretrained", model)]
        self.run = SavedRun.open(folder, line, moved)
        if self.run.task_options().reads_pairs():
            raise UserError(
                f"classifier={folder} reads pairs of texts: one that reads a text is needed"
            )
        self.styles_of_classes = [labels.index(name) for name in names]
        self.data = LabelledData(
            name=values["task"],
            train=[],
            tests={},
            test_source="none",
            metrics=("accuracy",),
            max_length=int(self.run.config.task.max_length),
            label_names=list(names),
        )
        loaded = self.run.base(self.data)
        saved = record.saved_folder(values, self.run.folder)
        self.model = saved_model.load(saved, loaded.model).to(device)
        self.loaded = replace(loaded, tokenizer=beside_adapter(loaded.tokenizer, self.model))

    def styles(self, texts: Sequence[str]) -> list[int | None]:
        """0 or 1 of each text; None of a blank one, which has no style."""
        said = [i for i, text in enumerate(texts) if text.strip()]
        rows = self.loaded.tokenise(self.data, [Example((texts[i],), 0) for i in said])
        logits, _ = forward(self.model, self.data, rows, self.data.collator(self.loaded.tokenizer))
        found: list[int | None] = [None] * len(texts)
        for i, values in zip(said, logits, strict=True):
            found[i] = self.styles_of_classes[int(np.argmax(values))]
        return found
