"""Hold a fine-tuned model that predicts, and load one from a run's folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel

from bilevel.errors import UserError
from bilevel.settings import MOST
from experiments.artefacts.artefact import Artefact
from experiments.cli import places
from experiments.cli.command_line import CommandLine
from experiments.cli.quiet import quiet
from experiments.models.base_reference import of_name
from experiments.models.batching import EXAMPLES
from experiments.predicting.asked import Asker, RunAsker, items_of
from experiments.predicting.remarks import once_said
from experiments.predicting.saved import Asking
from experiments.predicting.window import rows_at_once
from experiments.results import saved_model
from experiments.results.finished_run import SavedRun

__all__ = ["FineTuned", "load"]


@dataclass(frozen=True)
class FineTuned:
    """What :func:`experiments.finetune` and :func:`load` return.

    Attributes:
        model: as stock PEFT (or transformers) reads it from the disk, in evaluation mode, fp32.
        lora_config: the adapter's configuration, true ranks in ``rank_pattern``; of another class
            for methods that are no LoRA; None where there is no adapter.
        result: what result.json of a run says (docs/results.md).
        asker: knows how inputs are read, for :meth:`predict`.
        artefact: what goes with the weights where they are saved, for :meth:`save`; None of a run
            that lies on the disk with all of it.
    """

    model: torch.nn.Module
    lora_config: PeftConfig | None
    result: dict[str, Any] = field(repr=False)
    asker: Asker = field(repr=False, compare=False)
    artefact: Artefact | None = field(repr=False, compare=False)

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        result: dict[str, Any],
        asker: Asker,
        artefact: Artefact | None,
    ) -> FineTuned:
        """A model as it was read from the disk."""
        config = model.peft_config["default"] if isinstance(model, PeftModel) else None
        return cls(model.eval(), config, result, asker, artefact)

    def save(self, folder: str | Path, base: str | None = None) -> Path:
        """Write the model with its tokenizer, its labels' names and a model card.

        Args:
            folder: for ``adapter`` and ``adapter_compact``, or ``model`` where the model's own
                weights were trained; none of them may be there.
            base: a hub id or a folder where readers have the base model; None for what the model
                was loaded from.

        Returns:
            The folder to load, or to send to the hub.

        Raises:
            UserError: something is there already, ``base`` is neither, the disk is full, or the
                model was loaded from a run's folder, where all of it lies.
        """
        if self.artefact is None:
            raise UserError(
                "this model was loaded from a run's folder, where it lies with its card: copy "
                f"{self.result['adapter_dir']}, or write it anew by experiments.export"
            )
        place = Path(folder).expanduser()
        places = saved_model.places(place)
        there = [path for path in places if path.exists()]
        if there:
            raise UserError(f"{there[0]} is there already: give another folder, or remove it")
        artefact = self.artefact
        if base is not None:
            reference = of_name(base)
            if reference.name is None:
                raise UserError(f"base={base!r}: this must be a hub id, or a folder that is there")
            artefact = replace(artefact, base=reference)
        saved = saved_model.write(self.model, place)
        written = [path for path in places if path.is_dir()]
        artefact.complete(written)
        saved_model.seal(place)
        artefact.card(written, self.result)
        return saved.folder

    def predict(self, inputs: Iterable[Any], batch_size: int = EXAMPLES) -> list[dict[str, Any]]:
        """What the model says of each input, in their order.

        Args:
            inputs: n texts; pairs of texts; lists of words for a model that tags; or rows with the
                columns of the run's data, or with ``input_ids`` for one that :func:`finetune`
                returned.
            batch_size: inputs at once at most; of long ones fewer.

        Returns:
            n mappings. ``prediction`` is the name of a class, a list of labels or of a tag for each
            word, a number, or a text; of classes, labels and choices there are ``probabilities``, a
            mapping from each name to a number from 0 to 1, of an answer in a text its ``start`` and
            its ``probability``.

        Raises:
            UserError: an input is of another kind than the model reads, or empty.
        """
        if type(batch_size) is not int or not 1 <= batch_size <= MOST:
            raise UserError(f"batch_size={batch_size!r}: this must be a whole number, 1 or more")
        items = items_of(inputs)
        if not items:
            return []
        predictor, read = self.asker.of(items[0])
        examples = [read(item, f"input {i}") for i, item in enumerate(items)]
        found: list[dict[str, Any]] = []
        size = rows_at_once(predictor.task.answers.kind)
        with once_said():
            for start in range(0, len(examples), size):
                found += predictor.answers(examples[start : start + size], batch_size)
        return found


def load(
    run: str | Path, overrides: Sequence[str] = (), config_dir: str | Path | None = None
) -> FineTuned:
    """Load what a finished run has left, ready to predict.

    Args:
        run: its folder, of ``python -m experiments.run``.
        overrides: ``GROUP.KEY=VALUE`` words, ``model.pretrained=FOLDER`` where the base model has
            moved.
        config_dir: of a task of your own, what ``--config-dir`` is on the command line.

    Raises:
        UserError: there is no finished run, or its model cannot be loaded.
    """
    if isinstance(overrides, str):
        raise UserError(f"overrides={overrides!r}: this must be a list of GROUP.KEY=VALUE words")
    folder = None if config_dir is None else str(config_dir)
    line = CommandLine(places.settled(overrides), folder, False, [])
    asking = Asking.of(SavedRun.open(str(run), line, line.overrides))
    quiet()
    predictor = asking.load()
    asker = RunAsker(predictor, asking.inputs)
    return FineTuned.of(predictor.model, asking.run.result, asker, None)
