"""Serve tasks of text to text: sources, targets to learn, and references to score a test by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import DataCollatorForSeq2Seq

from bilevel.errors import UserError
from bilevel.labels import NO_LABEL
from bilevel.precision import in_float64
from experiments.answers import TEXT, Answers, Decoding
from experiments.metrics.text import TEXT_METRICS, chosen, score_text
from experiments.tasks.examples import parts
from experiments.tasks.kinds.labelled import over_tests
from experiments.tasks.kinds.remarks import numbered, refuse_unknown, say_cut, say_unknown
from experiments.tasks.task import LEAST_LENGTH, TaskData

__all__ = ["UNLIMITED", "TextData", "answer_start"]

log = logging.getLogger(__name__)

UNLIMITED = 10**9  # tokens


@dataclass(frozen=True)
class TextData(TaskData):
    """Sources and targets; predictions are texts.

    A causal model reads ``source SEPARATOR target END`` and learns the target and END alone; one
    with a decoder reads the source and learns the target. The loss is a mean over these tokens, of
    a test over its first reference's.

    Attributes:
        decoding: how a test's answer is written.
        separator: between source and target for causal models; None for the model's token of the
            beginning (GPT-2: its only special token, as in LoRA's code).
        max_target_length: longer targets are cut; None refuses those that do not fit.
        tokenization: how scores cut words, by name; auto goes by the script of the references.
        looks: what a source looks like, for those who are given the model.
        unscored: the scores that :meth:`score` found to have no value, and why.
    """

    decoding: Decoding = field(default_factory=Decoding)
    separator: str | None = None
    max_target_length: int | None = None
    tokenization: str = "auto"
    looks: str = "A text."
    unscored: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def answers(self) -> Answers:
        """Text."""
        return Answers(TEXT, 0)

    @property
    def metric_settings(self) -> dict[str, str]:
        """How each metric is computed, or why it is not."""
        metrics = {name: TEXT_METRICS[name] for name in self.metrics}
        cut = self._tokenization()
        return {name: m.described(cut) for name, m in metrics.items()} | self.unscored

    def _tokenization(self) -> str:
        """The one for all test sets, so that their scores compare."""
        return chosen(self.tokenization, (e.references for t in self.tests.values() for e in t))

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """Return input_ids, attention_mask and labels of each; see :meth:`TaskData.tokenise`.

        Raises:
            UserError: a target leaves no room for its source, the decoding needs more positions
                than the model has, or the tokenizer knows hardly a word of the targets.
        """
        limit = min(self.max_length, tokenizer.model_max_length)
        self._check_decoding(tokenizer, seq2seq)
        rows = []
        unknown, tokens = 0, 0
        sources: list[int] = []  # lengths of those that are cut
        targets: list[int] = []
        for number, example in enumerate(examples):
            target = self._target(tokenizer, example.target, seq2seq)
            if self.max_target_length is not None and len(target) > self.max_target_length:
                targets.append(len(target))
                target = [*target[: self.max_target_length - 1], target[-1]]  # the end stays
            unknown, tokens = unknown + target.count(tokenizer.unk_token_id), tokens + len(target)
            # written or learned, the target stands in the same positions as the source
            taken = 0 if seq2seq else max(len(target), self.decoding.max_new_tokens)
            room = min(limit - (0 if seq2seq else len(target)), tokenizer.model_max_length - taken)
            if room < LEAST_LENGTH or len(target) > tokenizer.model_max_length:
                raise UserError(
                    f"example {numbered(number)} of task {self.name} has a target of {len(target)} "
                    f"tokens, and {limit} tokens are allowed (the smaller of task.max_length and "
                    "the model's positions): cut targets by task.max_target_length"
                )
            source = self.source(tokenizer, example.source, room, seq2seq)
            if len(source) == room:
                whole = len(self.source(tokenizer, example.source, UNLIMITED, seq2seq))
                if whole > room:
                    sources.append(whole if seq2seq else whole + len(target))
            inputs = source if seq2seq else source + target
            labels = target if seq2seq else [NO_LABEL] * len(source) + target
            rows.append(
                {"input_ids": inputs, "attention_mask": [1] * len(inputs), "labels": labels}
            )
        # GPT-2's unknown token is its end of text too; as a tokenizer of bytes it knows every word.
        if tokenizer.unk_token_id != tokenizer.eos_token_id:
            refuse_unknown(unknown, tokens, self.name, tokenizer)
        what = "sources" if seq2seq else "sources (with their targets)"
        option = f"task.max_length={self.max_length}, or the model's positions less the answer's"
        say_cut(what, sources, limit, len(rows), option)
        if self.max_target_length is not None:
            allowed = self.max_target_length
            say_cut("targets", targets, allowed, len(rows), f"task.max_target_length={allowed}")
        read = [self.prompt(row, seq2seq) for row in rows]
        say_unknown("sources", tokenizer, read)
        return rows

    def prompts(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[list[int]]:
        """The tokens that an answer is written after, of each example; no target is looked at.

        A source is cut where no room would be left for the answer; one that fits together with its
        target, as :meth:`tokenise` has it, is not.

        Raises:
            UserError: the decoding needs more positions than the model has.
        """
        limit = min(self.max_length, tokenizer.model_max_length)
        self._check_decoding(tokenizer, seq2seq)
        room = limit
        if not seq2seq:
            room = min(limit - 1, tokenizer.model_max_length - self.decoding.max_new_tokens)
        found = [self.source(tokenizer, example.source, room, seq2seq) for example in examples]
        full = [i for i, tokens in enumerate(found) if len(tokens) >= room]
        lengths = [
            len(self.source(tokenizer, examples[i].source, UNLIMITED, seq2seq)) for i in full
        ]
        option = f"task.max_length={self.max_length}, or the model's positions less the answer's"
        say_cut("sources", [n for n in lengths if n > room], room, len(found), option)
        say_unknown("sources", tokenizer, found)
        return found

    def _check_decoding(self, tokenizer: Any, seq2seq: bool) -> None:
        beside = 0 if seq2seq else LEAST_LENGTH  # a decoder has positions of its own
        if self.decoding.max_new_tokens + beside > tokenizer.model_max_length:
            raise UserError(
                f"task.decoding.max_new_tokens={self.decoding.max_new_tokens} does not fit "
                f"the model's {tokenizer.model_max_length} positions, source included"
            )

    def prompt(self, row: dict[str, Any], seq2seq: bool) -> list[int]:
        """The tokens of a tokenised example that the answer is written after."""
        if seq2seq:
            return list(row["input_ids"])
        return row["input_ids"][: answer_start(row["labels"])]

    def source(self, tokenizer: Any, text: str, room: int, seq2seq: bool) -> list[int]:
        """The tokens of a source, and of the separator for a causal model, cut to ``room``."""
        if seq2seq:
            return list(tokenizer(text, truncation=True, max_length=room)["input_ids"])
        tokens = list(tokenizer(text, verbose=False)["input_ids"])
        if tokens and tokens[-1] == tokenizer.eos_token_id:  # some add it by themselves
            tokens.pop()
        if self.separator is None:
            begin = tokenizer.bos_token_id
            middle = [tokenizer.eos_token_id if begin is None else begin]
        else:
            middle = list(tokenizer(self.separator, add_special_tokens=False)["input_ids"])
        if len(middle) >= room:
            raise UserError(
                f"task.separator has {len(middle)} tokens, and there is room for {room} in all "
                "before the target"
            )
        return tokens[: room - len(middle)] + middle

    def _target(self, tokenizer: Any, text: str, seq2seq: bool) -> list[int]:
        if seq2seq:
            tokens = list(tokenizer(text_target=text)["input_ids"])
        else:
            tokens = list(
                tokenizer(_spaced(tokenizer, text), add_special_tokens=False)["input_ids"]
            )
            tokens.append(tokenizer.eos_token_id)
        return tokens

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Pads inputs, and labels by `NO_LABEL`."""
        return DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=NO_LABEL)

    def losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[float, int]:
        """The cross-entropy of the targets' tokens, the end of text included."""
        labels = batch["labels"]
        decoder = "encoder_last_hidden_state" not in outputs
        if decoder and outputs.logits.shape[1] == labels.shape[1]:  # no virtual tokens before it
            labels = labels[:, 1:]  # a causal model is not asked for the first token
        count = int((labels != NO_LABEL).sum())
        return (float(outputs.loss) * count if count else 0.0), count

    def example_losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`TaskData.example_losses`."""
        labels, logits = batch["labels"], outputs.logits
        if "encoder_last_hidden_state" not in outputs:  # a causal model answers one token ahead
            virtual = logits.shape[1] - labels.shape[1]
            labels = labels if virtual else labels[:, 1:]
            logits = logits[:, -labels.shape[1] - 1 : -1]
        each = functional.cross_entropy(
            logits.transpose(1, 2).float(), labels, ignore_index=NO_LABEL, reduction="none"
        )
        totals = in_float64(each).sum(1)
        return totals, (labels != NO_LABEL).sum(1).to(totals.device)

    def predictions(self, outputs: Any, batch: dict[str, Tensor]) -> list[None]:
        """Nothing: texts are written by `experiments.models.generation`."""
        return [None] * len(batch["labels"])

    def score(self, predictions: dict[str, list[Any]]) -> dict[str, float | None]:
        """Scores of written texts; see :meth:`TaskData.score`."""
        reasons = {name: TEXT_METRICS[name].unavailable() for name in self.metrics}
        cut = self._tokenization()
        self.unscored.clear()
        for name, reason in reasons.items():  # once, not for each test set
            if reason is not None:
                log.warning("%s", reason)
                self.unscored[name] = reason

        def value(metric: str, names: list[str]) -> float | None:
            if reasons[metric] is not None:
                return None
            written = [text for name in names for text in predictions[name]]
            references = [list(e.references) for name in names for e in self.tests[name]]
            scores, settings = score_text([metric], written, references, cut)
            if scores[metric] is None:
                whole = len(names) == len(self.tests)
                self.unscored[metric if whole else f"{metric}_{names[0]}"] = settings[metric]
            return scores[metric]

        return over_tests(self.metrics, value, list(self.tests))

    def records(self, predictions: Sequence[Any], examples: Sequence[Any]) -> list[dict[str, Any]]:
        """``prediction`` (what was written), ``source``, ``target`` and ``references``."""
        return [
            {"prediction": text, **parts(example)}
            for text, example in zip(predictions, examples, strict=True)
        ]


def answer_start(labels: Sequence[int]) -> int:
    """Where the last answer of a causal model's row begins: labels without a gap, to the end."""
    start = len(labels)
    while start and labels[start - 1] != NO_LABEL:
        start -= 1
    return start


def _spaced(tokenizer: Any, text: str) -> str:
    """A text as it stands inside another: with a space, where that makes a token of its own kind.

    For GPT-2 " The" is the common token and "The" the rare one; tokenizers that begin every text
    with a space by themselves (Llama) would see two.
    """
    plain, spaced = tokenizer.tokenize("a"), tokenizer.tokenize(" a")
    return f" {text}" if len(spaced) == 1 and spaced != plain else text
