"""Hand a run's stages what they share: data to score, options, and where they write."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from bilevel.callbacks.callback import Callback
    from bilevel.checkpoint.folder import Checkpointer
    from experiments.config.schema import EngineOptions
    from experiments.tasks.task import TaskData

__all__ = ["RunContext"]


@dataclass(frozen=True)
class RunContext:
    """What every stage of a run is told.

    Attributes:
        task: reads the model's outputs and scores them.
        tests: its test sets by name, tokenised; none where nothing is to be scored.
        collate: makes a padded batch of tensors out of tokenised examples.
        options: of the engine.
        folder: the run's.
        validation: the task's own validation split, tokenised; None without one.
        examples: what a tokenised training or validation example was made of, by its key.
        tokenizer: of the model.
        checkpointer: keeps the run's checkpoints.
        resume: go on from the newest checkpoint, where it is of the stage.
        listeners: are handed every line of metrics.jsonl.
        callbacks: the user's own, of every stage.
    """

    task: TaskData
    tests: dict[str, Sequence[dict[str, Any]]]
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
    options: EngineOptions
    folder: Path
    validation: Sequence[dict[str, Any]] | None
    examples: Mapping[Hashable, Any]
    tokenizer: PreTrainedTokenizerBase
    checkpointer: Checkpointer
    resume: bool
    listeners: Sequence[Callable[[dict[str, Any]], None]] = ()
    callbacks: Sequence[Callback] = ()
