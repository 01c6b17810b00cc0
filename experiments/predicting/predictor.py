"""Ask a fine-tuned model for its answers: batches by length, in the order of what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from experiments.models.batching import EXAMPLES
from experiments.models.generation import generate
from experiments.models.virtual_tokens import beside_adapter
from experiments.models.vocabulary import check_rows
from experiments.tasks.kinds.tags import TaggedData
from experiments.tasks.kinds.text import TextData
from experiments.tasks.task import TaskData
from experiments.training.scoring import read_outputs

__all__ = ["Predictor"]

SAID = (
    "prediction",
    "probabilities",
    "start",
    "probability",
)  # of what predictions.jsonl says of an example


@dataclass(frozen=True)
class Predictor:
    """A model with its tokenizer, and the task that reads its outputs.

    Attributes:
        model: of transformers or PEFT, on its device.
        tokenizer: ready for the model, as training had it.
        task: without examples.
        seq2seq: the model is an encoder with a decoder that writes text.
        tokens: that the model has an embedding for; None if unknown.
    """

    model: nn.Module
    tokenizer: Any
    task: TaskData
    seq2seq: bool
    tokens: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokenizer", beside_adapter(self.tokenizer, self.model))

    def answers(self, examples: Sequence[Any], batch_size: int = EXAMPLES) -> list[dict[str, Any]]:
        """What predictions.jsonl of a run says of each example, in their order.

        Args:
            examples: of the task; whatever answer they have is not looked at.
            batch_size: examples at once at most; of long ones fewer.

        Returns:
            ``prediction`` of each, and ``probabilities`` by name where there are classes or
            choices; of an answer in a text its ``start`` and its ``probability``.

        Raises:
            UserError: an example has no token, or a token no embedding.
        """
        if not examples:
            return []
        if isinstance(self.task, TextData):
            found = self._written(self.task, examples, batch_size)
        else:
            found = self._predicted(examples, batch_size)
        names = self.task.answers.names or ()
        return [_said(record, names) for record in self.task.records(found, examples)]

    def _written(self, task: TextData, examples: Sequence[Any], batch_size: int) -> list[str]:
        prompts = task.prompts(self.tokenizer, examples, self.seq2seq)
        self._check([{"input_ids": prompt} for prompt in prompts])
        return generate(self.model, self.tokenizer, prompts, task.decoding, batch_size=batch_size)

    def _predicted(self, examples: Sequence[Any], batch_size: int) -> list[Any]:
        if isinstance(self.task, TaggedData):  # any tag: it says which token is a word's first
            tag = self.task.tag_names[0]
            examples = [e if e.tags else e._replace(tags=(tag,) * len(e.words)) for e in examples]
        rows = self.task.tokenise(self.tokenizer, examples, self.seq2seq)
        self._check(rows)
        found: list[Any] = [None] * len(rows)
        collate = self.task.collator(self.tokenizer)
        read = self.task.predictions
        for indices, said in read_outputs(self.model, rows, collate, read, batch_size=batch_size):
            for index, prediction in zip(indices, said, strict=True):
                found[index] = prediction
        return found

    def _check(self, rows: list[dict[str, Any]]) -> None:
        check_rows(rows, self.tokens, lambda number: f"example {number}")


def _said(record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    found = {key: record[key] for key in SAID if key in record}
    if "probabilities" in found:
        found["probabilities"] = dict(zip(names, found["probabilities"], strict=True))
    return found
