"""Serve tasks with a tag for every word of a sentence, of which the first token speaks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from torch import Tensor
from torch.nn import functional
from transformers import DataCollatorForTokenClassification

from bilevel.errors import UserError
from bilevel.labels import NO_LABEL
from bilevel.precision import in_float64
from experiments.answers import TAGS, Answers
from experiments.metrics import constant
from experiments.metrics.tags import TAG_METRICS, by_type, settings
from experiments.tasks.examples import TaggedExample, parts
from experiments.tasks.kinds.labelled import over_tests
from experiments.tasks.kinds.remarks import say_share, say_unknown
from experiments.tasks.task import TaskData

__all__ = ["OUTSIDE", "TaggedData", "words_have_space"]

OUTSIDE = "O"


@dataclass(frozen=True)
class TaggedData(TaskData):
    """Sentences with tags; predictions are the names of a sentence's tags.

    A sentence that is longer than allowed is cut. The words cut off are not learned, and in the
    scores they count as `OUTSIDE`.

    Attributes:
        tag_names: all tags, in the order of the head's outputs.
    """

    tag_names: tuple[str, ...] = ()

    @property
    def answers(self) -> Answers:
        """Tags."""
        return Answers(TAGS, len(self.tag_names), self.tag_names)

    def tested_labels(self) -> set[str]:
        """The tags in the test sets."""
        return {tag for rows in self.tests.values() for e in rows for tag in e.tags}

    def renumbered(self, names: tuple[str, ...]) -> Self:
        """See :meth:`TaskData.renumbered`."""

        def kept(examples: Sequence[Any]) -> list[Any]:
            return [example for example in examples if set(example.tags) <= set(names)]

        return replace(
            self,
            train=kept(self.train),
            validation=None if self.validation is None else kept(self.validation),
            tag_names=names,
        )

    @property
    def metric_settings(self) -> dict[str, str]:
        """How each metric is computed."""
        every = settings()
        return {name: every[name] for name in self.metrics}

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """Return input_ids, attention_mask, [token_type_ids] and labels of each, unpadded.

        The label of a word is that of its first token; other tokens have `NO_LABEL`.

        Raises:
            UserError: the tokenizer does not tell which token is of which word, it cuts sentences
                at their beginning, or it has no token for a word.
        """
        if not tokenizer.is_fast:
            raise UserError(
                f"{type(tokenizer).__name__} does not tell which token is of which word, which "
                f"task {self.name} needs: take a model with a fast tokenizer (tokenizer.json)"
            )
        numbers = {name: i for i, name in enumerate(self.tag_names)}
        limit = min(self.max_length, tokenizer.model_max_length)
        space = " " if words_have_space(tokenizer) else ""
        rows, cut, lost = [], 0, 0
        for example in examples:
            words = [space + word for word in example.words]
            row, first = _encode(tokenizer, words, limit)
            labels = [NO_LABEL] * len(row["input_ids"])
            for position, tag in zip(first, example.tags, strict=False):
                labels[position] = numbers[tag]
            rows.append({**row, "labels": labels})
            cut += len(first) < len(words)
            lost += len(words) - len(first)
        say_share(
            "sentences cut",
            (cut, len(examples), lost),
            lambda counts: (
                f"{counts[0]} of {counts[1]} sentences have more than {limit} tokens: {counts[2]} "
                f"words are cut off and count as {OUTSIDE}"
            ),
        )
        say_unknown("sentences", tokenizer, [row["input_ids"] for row in rows])
        return rows

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Pads inputs, and labels by `NO_LABEL`."""
        return DataCollatorForTokenClassification(tokenizer, label_pad_token_id=NO_LABEL)

    def losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[float, int]:
        """The cross-entropy over words: the model's own training loss."""
        logits = in_float64(outputs.logits).flatten(0, 1)
        labels = batch["labels"].to(logits.device).flatten()
        total = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum")
        return float(total), int((labels != NO_LABEL).sum())

    def example_losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`TaskData.example_losses`."""
        logits = in_float64(outputs.logits).transpose(1, 2)
        labels = batch["labels"].to(logits.device)
        each = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="none")
        return each.sum(1), (labels != NO_LABEL).sum(1)

    def constant_losses(self, examples: Sequence[dict[str, Any]]) -> np.ndarray | None:
        """Of the tags' shares among all words; see :meth:`TaskData.constant_losses`."""
        rows = [np.array(example["labels"]) for example in examples]
        return constant.of_tags([row[row != NO_LABEL] for row in rows])

    def predictions(self, outputs: Any, batch: dict[str, Tensor]) -> list[list[str]]:
        """The tags of the words that the model was given."""
        labelled = batch["labels"] != NO_LABEL
        best = outputs.logits.argmax(-1)
        return [
            [self.tag_names[i] for i in tags[mask].tolist()]
            for tags, mask in zip(best, labelled, strict=True)
        ]

    def score(self, predictions: dict[str, list[Any]]) -> dict[str, float | None]:
        """See :meth:`TaskData.score`."""

        def value(metric: str, names: list[str]) -> float | None:
            return TAG_METRICS[metric](*self._compared(predictions, names))

        return over_tests(self.metrics, value, list(self.tests))

    def entities(
        self, predictions: dict[str, list[Any]]
    ) -> dict[str, dict[str, float | int | None]] | None:
        """Precision, recall, F1 and support of each type, by `experiments.metrics.tags`."""
        types = [name[2:] for name in self.tag_names if name.startswith("B-")]
        return by_type(*self._compared(predictions, list(self.tests)), types)

    def records(self, predictions: Sequence[Any], examples: Sequence[Any]) -> list[dict[str, Any]]:
        """``prediction``, ``words`` and ``tags`` (the right ones): three lists of equal length."""
        return [
            {"prediction": _whole(tags, example), **parts(example)}
            for tags, example in zip(predictions, examples, strict=True)
        ]

    def _compared(
        self, predictions: dict[str, list[Any]], names: list[str]
    ) -> tuple[list[list[str]], list[list[str]]]:
        """The right tags of the named test sets, and those found."""
        examples = [example for name in names for example in self.tests[name]]
        given = [tags for name in names for tags in predictions[name]]
        found = [_whole(tags, example) for tags, example in zip(given, examples, strict=True)]
        return [list(example.tags) for example in examples], found


def _whole(tags: list[str], example: TaggedExample) -> list[str]:
    """The tags of all words; those cut off are `OUTSIDE`."""
    return tags + [OUTSIDE] * (len(example.words) - len(tags))


def words_have_space(tokenizer: Any) -> bool:
    """Whether a word has to be given with the space before it.

    For byte-level tokenizers (RoBERTa, GPT-2, ModernBERT, Llama 3) " gene" is the common token and
    "gene" the rare one that goes on with a word. Others (BERT, SentencePiece) mark words
    themselves. ``add_prefix_space`` does not serve: transformers ignores it for ModernBERT, and
    for Qwen it puts spaces into words.
    """
    options = {"add_special_tokens": False}
    apart = tokenizer(["a", "a"], is_split_into_words=True, **options)["input_ids"]
    return apart != tokenizer("a a", **options)["input_ids"]


def _encode(
    tokenizer: Any, words: Sequence[str], limit: int
) -> tuple[dict[str, list[int]], list[int]]:
    """The columns of a sentence, and where the first token of each word stands.

    The words cut off are missing at the end; every other word has a token.
    """
    row, first = _tokens(tokenizer, words, limit)
    end = len(words) if len(row["input_ids"]) < limit else max(first, default=-1) + 1
    silent = set(range(end)) - set(first)
    if silent and tokenizer.unk_token is not None:
        # Some tokenizers drop a word of control or zero-width characters, but it has a tag.
        heard = [tokenizer.unk_token if i in silent else word for i, word in enumerate(words)]
        row, first = _tokens(tokenizer, heard, limit)
    if list(first) != list(range(len(first))) or not first:
        word = min(silent, default=0)
        raise UserError(
            f"{type(tokenizer).__name__} has no token for word {word} ({words[word]!r}) of the "
            f"sentence that begins with {' '.join(words)[:40]!r}, or it cuts sentences at the left"
        )
    return row, list(first.values())


def _tokens(
    tokenizer: Any, words: Sequence[str], limit: int
) -> tuple[dict[str, list[int]], dict[int, int]]:
    encoded = tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=limit)
    first: dict[int, int] = {}
    for position, word in enumerate(encoded.word_ids()):
        if word is not None:
            first.setdefault(word, position)
    return dict(encoded), first
