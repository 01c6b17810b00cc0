"""Complete a saved model, so that its folder can be used by itself: with tokenizer and card.

| file | of | what |
|---|---|---|
| tokenizer.json, ... | all | the tokenizer, as the model was trained with it |
| labels.json | adapters | names of classes or tags; whole models have them in config.json |
| adapter_config.json | PEFT's adapters | names the base model as others can have it |
| generation_config.json | whole models that write text | the decoding that it was scored with |
| README.md | all | the model card |
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from bilevel.checkpoint.disk import told_when_full
from bilevel.reading import json_object
from experiments.answers import TEXT, Answers
from experiments.artefacts.card_lines import decoding_options
from experiments.artefacts.model_card import CardFacts, form_of, write_card
from experiments.artefacts.usage import Usage
from experiments.cli.writing import write_atomically
from experiments.models.base_reference import BaseReference
from experiments.results import saved_model
from experiments.tasks.task import TaskData

__all__ = ["Artefact"]


@dataclass(frozen=True)
class Artefact:
    """What goes with the weights of a saved model.

    Attributes:
        tokenizer: of the model.
        usage: how it is asked.
        base: the base model.
    """

    tokenizer: Any
    usage: Usage
    base: BaseReference

    @classmethod
    def of(
        cls,
        task: TaskData | None,
        answers: Answers,
        tokenizer: Any,
        config: Any,
        base: BaseReference,
        dtype: str = "float32",
        replaces: bool = False,
        pairs: bool | None = None,
    ) -> Artefact:
        """Of a model for a task.

        Args:
            task, answers, tokenizer, config, dtype, replaces, pairs: see :meth:`Usage.of`.
            base: the base model.
        """
        usage = Usage.of(task, answers, tokenizer, config, dtype, replaces, pairs)
        return cls(tokenizer, usage, base)

    def complete(self, folders: Iterable[Path]) -> None:
        """Put into folders all but the card, which is written when the scores are known.

        Args:
            folders: each with a saved adapter or a whole model.

        Raises:
            UserError: the disk is full.
        """
        for folder in folders:
            with told_when_full(folder):
                self._for_writing().save_pretrained(str(folder))
                if form_of(folder) == "model":
                    self._set_decoding(folder)
                else:
                    self._name_base(folder)
            saved_model.name_labels(self.usage.answers, [folder])

    def card(
        self,
        folders: Sequence[Path],
        result: Mapping[str, Any],
        *,
        shown: Sequence[Path] | None = None,
        scored: bool = True,
        interval: tuple[float, float] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Write the card into folders.

        Args:
            folders: each with a saved adapter or a whole model.
            result: what result.json says; empty where no run is known.
            shown: where each of them will lie at last; None for where it is.
            scored, interval, notes: see :class:`CardFacts`.

        Raises:
            UserError: the disk is full.
        """
        facts = CardFacts(self.base, self.usage, result, scored, interval, notes)
        for folder, place in zip(folders, shown or folders, strict=True):
            write_card(facts, folder, place)

    def _for_writing(self) -> Any:
        """The tokenizer; a causal model's answers begin where its padded prompts end."""
        if self.usage.answers.kind != TEXT or self.usage.seq2seq:
            return self.tokenizer
        tokenizer = copy.copy(self.tokenizer)
        tokenizer.padding_side = "left"
        return tokenizer

    def _name_base(self, folder: Path) -> None:
        path = folder / "adapter_config.json"
        config = json_object(path)
        if "base_model_name_or_path" in config:  # PEFT's; bottleneck adapters name no base
            config["base_model_name_or_path"] = self.base.name
            config["revision"] = self.base.revision
            write_atomically(path, json.dumps(config, indent=2, sort_keys=True) + "\n")

    def _set_decoding(self, folder: Path) -> None:
        usage = self.usage
        if usage.decoding is None:
            return
        settings = GenerationConfig.from_pretrained(str(folder))
        settings.update(
            **decoding_options(usage.decoding, usage.seq2seq),
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        settings.save_pretrained(str(folder))
