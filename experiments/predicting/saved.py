"""Make a finished run predict: its base model with its adapter, and how its rows are read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from bilevel.checkpoint.sums import CARD
from bilevel.errors import UserError
from experiments.answers import CHOICES, CLASSES, LABELS, TAGS, Answers
from experiments.results import record
from experiments.results.finished_run import SavedRun
from experiments.tasks.inputs import Inputs, equal_choices

if TYPE_CHECKING:
    from experiments.predicting.predictor import Predictor

__all__ = ["Asking"]


@dataclass(frozen=True)
class Asking:
    """A run that is to predict; no model is loaded yet.

    Attributes:
        run: which.
        inputs: how rows are read.
        adapter: the folder of what it trained.
    """

    run: SavedRun
    inputs: Inputs
    adapter: Path

    @classmethod
    def of(cls, run: SavedRun, adapter: str | None = None) -> Asking:
        """Look at what the run says of itself.

        Args:
            run: which.
            adapter: another folder than the run's own.

        Raises:
            UserError: its task does not say how rows are read, or there is no adapter.
        """
        inputs = run.task_options().inputs()
        names = run.result.get("labels")
        if run.result.get("kind") == CHOICES and names is not None:
            inputs = equal_choices(inputs, len(names))
        own = record.saved_folder(run.result, run.folder)
        folder = own if adapter is None else Path(adapter)
        if not any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
            raise UserError(f"{folder} holds no adapter and no model")
        return cls(run, inputs, folder)

    def answers(self) -> Answers:
        """What the model puts out.

        Raises:
            UserError: the oldest results do not say it, and the task's data cannot be had.
        """
        kind, names = self.run.result.get("kind"), self.run.result.get("labels")
        if kind is None or (kind in (CLASSES, LABELS, TAGS, CHOICES) and names is None):
            return self.run.to_predict().answers
        return Answers(str(kind), len(names or ()), tuple(names or ()))

    def digest(self) -> str:
        """What the predictions follow from, but for the data: of two runs alike it is the same."""
        found = hashlib.sha256()
        config = OmegaConf.to_container(self.run.config, resolve=True)
        found.update(repr(config).encode())
        found.update((self.run.folder / record.FILE).read_bytes())
        for path in sorted(self.adapter.iterdir()):
            if path.is_file() and path.name != CARD:  # which its user may write into
                found.update(path.name.encode())
                with path.open("rb") as file:
                    found.update(hashlib.file_digest(file, "sha256").digest())
        return found.hexdigest()

    def load(self) -> Predictor:
        """Load the model.

        Raises:
            UserError: it cannot be loaded, or the adapter does not fit it.
        """
        from bilevel import distributed
        from experiments.models.vocabulary import size
        from experiments.predicting.predictor import Predictor
        from experiments.results import saved_model

        task = self.run.to_predict()
        loaded = self.run.base(task)
        tokens = size(loaded.model)
        model = saved_model.load(self.adapter, loaded.model).to(distributed.setup().device).eval()
        return Predictor(model, loaded.tokenizer, task, loaded.seq2seq, tokens)
