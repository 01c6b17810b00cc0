"""Serve tasks of multiple choice: of the answers that each question offers, one is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel.errors import UserError
from experiments.answers import CHOICES, Answers
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.kinds.pairs import separator

__all__ = ["ChoiceCollator", "ChoiceData"]


@dataclass(frozen=True)
class ChoiceData(LabelledData):
    """Questions with as many choices each; a model scores the choices one by one.

    `label_names` is what the data call the choices, in the order in which they stand: A, B, ...
    """

    @property
    def answers(self) -> Answers:
        """Choices."""
        names = self.label_names or []
        return Answers(CHOICES, len(names), tuple(names))

    def stratify(self, examples: Sequence[Any]) -> list[int] | None:
        """At which place the right choice stands is no class."""
        return None

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """Of each question input_ids, ... as a list a choice, unpadded, and ``labels``.

        The log says how many are cut, and of how many the tokenizer knows no word.

        Raises:
            UserError: a question has more or fewer choices, two texts cannot be parted, or a text
                has no token at all.
        """
        if not examples:
            return []
        count = len(self.label_names or [])
        for number, example in enumerate(examples):
            if len(example.choices) != count:
                raise UserError(
                    f"question {number} has {len(example.choices)} choices, and the training data "
                    f"have {count}: every question must have as many"
                )
        limit = min(self.max_length, tokenizer.model_max_length)
        before = separator(tokenizer)
        firsts, seconds = [], []
        for example in examples:
            text, *more = example.texts
            for choice in example.choices:
                firsts.append(text)
                seconds.append(before + " ".join([*more, choice]))
        encoded = tokenizer(firsts, seconds, truncation=True, max_length=limit)
        self._say(tokenizer, [firsts, seconds], encoded["input_ids"], limit)
        rows: list[dict[str, Any]] = []
        start = 0
        for example in examples:
            part = slice(start, start := start + len(example.choices))
            rows.append({**{key: encoded[key][part] for key in encoded}, "labels": example.label})
        return rows

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Pads to the batch's longest choice."""
        return ChoiceCollator(tokenizer)

    def texts(self, example: Any, tokenizer: Any) -> list[str]:
        """What is asked, and the choices by their names."""
        names = self.label_names or []
        pairs = zip(names, example.choices, strict=True)
        return [*example.texts, *(f"{name}: {choice}" for name, choice in pairs)]


@dataclass(frozen=True)
class ChoiceCollator:
    """Makes (questions, choices, tokens) of rows, padded to the longest; labels (questions,)."""

    tokenizer: Any

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch."""
        keys = [key for key in rows[0] if key != "labels"]
        flat = [
            {key: row[key][i] for key in keys} for row in rows for i in range(len(row["input_ids"]))
        ]
        padded = self.tokenizer.pad(flat, return_tensors="pt")
        batch = {key: tensor.view(len(rows), -1, tensor.shape[1]) for key, tensor in padded.items()}
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}
