r"""Serve tasks whose answers stand in a text: where each begins and where it ends.

With b_t and e_t a token's scores as a beginning and as an end, of a window w of the context,

    answer = argmax over w, s <= t < s + max_answer_tokens of b_s + e_t,
    null   = min over w of b_cls + e_cls,     said instead where it is larger, and allowed,

the rule of Devlin et al. (NAACL 2019, section 4.2 and 4.3, threshold 0). Its ``probability`` is
exp(b_s + e_t) over the sum of exp of all that it was chosen among.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bilevel.errors import UserError
from bilevel.labels import NO_LABEL
from bilevel.precision import in_float64
from experiments.answers import SPANS, Answers
from experiments.metrics import spans
from experiments.models.spans import span_losses
from experiments.tasks.examples import SpanExample
from experiments.tasks.kinds.labelled import DIGITS, over_tests
from experiments.tasks.kinds.remarks import say_unknown
from experiments.tasks.kinds.windows import NULL, WindowCollator, owners, windows_of
from experiments.tasks.task import TaskData

__all__ = ["Found", "SpanData"]

LEAST = float("-inf")


class Found(NamedTuple):
    """An answer: characters of the context from ``start`` to before ``end``; both -1 for none."""

    start: int
    end: int
    probability: float

    def text(self, example: SpanExample) -> str:
        """The answer, without the spaces that some tokenizers' words have; empty for none."""
        return example.context[self.start : self.end].strip() if self.start >= 0 else ""

    def begin(self, example: SpanExample) -> int:
        """The character at which :meth:`text` begins; -1 for none."""
        said = example.context[self.start : self.end] if self.start >= 0 else ""
        return self.start + len(said) - len(said.lstrip())


@dataclass(frozen=True)
class SpanData(TaskData):
    """Questions on texts; predictions are :class:`Found`.

    Attributes:
        stride: tokens by which the windows of a long context overlap.
        max_answer_tokens: of an answer that is said, at most.
        unanswerable: some questions have no answer, and none may be said.
    """

    stride: int = 128
    max_answer_tokens: int = 30
    unanswerable: bool = False

    @property
    def answers(self) -> Answers:
        """A beginning and an end."""
        return Answers(SPANS, 2)

    @property
    def metric_settings(self) -> dict[str, str]:
        """How each metric is computed."""
        every = spans.settings()
        return {name: every[name] for name in self.metrics}

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """A row for each question, with all windows of its context; see the module `windows`.

        Raises:
            UserError: as there, or the tokenizer has no token to say by that there is no answer.
        """
        if self.unanswerable and tokenizer.cls_token_id is None:
            raise UserError(
                "task.unanswerable=true: the model's tokenizer has no token that stands for a "
                "whole text (BERT's [CLS]), by which it could say that there is no answer: take "
                "an encoder"
            )
        limit = min(self.max_length, tokenizer.model_max_length)
        rows = windows_of(tokenizer, examples, limit, self.stride, self.name)
        say_unknown("questions", tokenizer, [row["input_ids"][0] for row in rows])
        return rows

    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Pads windows."""
        return WindowCollator(tokenizer)

    def losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[float, int]:
        """The cross-entropy over beginnings and ends: the model's own training loss."""
        totals, terms = self.example_losses(outputs, batch)
        return float(totals.sum()), int(terms.sum())

    def example_losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of each question, over its windows; see :meth:`TaskData.example_losses`."""
        logits = in_float64(outputs.logits)
        labels, mask = batch["labels"].to(logits.device), batch["attention_mask"].to(logits.device)
        owner = owners(batch).to(logits.device)
        each = span_losses(logits, labels, mask).sum(1)
        count = len(batch["first"])
        terms = (labels != NO_LABEL).sum(1)
        return (
            each.new_zeros(count).index_add(0, owner, each),
            terms.new_zeros(count).index_add(0, owner, terms),
        )

    def constant_losses(self, examples: Sequence[dict[str, Any]]) -> np.ndarray | None:
        """Of giving all tokens of a context the same probability, which needs no look at them."""
        totals = []
        for row in examples:
            places = [int((each[:, 0] >= 0).sum()) + 1 for each in row["offsets"]]  # and of none
            labels = np.array(row["labels"]) != NO_LABEL
            totals.append(float((labels.sum(1) * np.log(places)).sum()))
        return np.array(totals)

    def predictions(self, outputs: Any, batch: dict[str, Tensor]) -> list[Found]:
        """The best answer to each question of a batch."""
        logits, offsets = outputs.logits.float(), batch["offsets"]
        scores = _span_scores(logits, offsets[..., 0] >= 0, self.max_answer_tokens)
        best, place = scores.flatten(1).max(1)
        length = scores.shape[2]
        window = torch.arange(len(best), device=best.device)
        begin = offsets[window, place // length, 0]
        end = offsets[window, (place // length + place % length).clamp(max=logits.shape[1] - 1), 1]
        null = torch.where(offsets[..., :1] == NULL, logits, 0.0).sum((1, 2))
        total = scores.flatten(1).logsumexp(1)
        table = torch.stack([best, total, null], dim=1).cpu().double().numpy()
        bounds = torch.stack([begin, end], dim=1).cpu().numpy()
        starts = batch["first"].cpu().numpy()
        parts = zip(np.split(table, starts[1:]), np.split(bounds, starts[1:]), strict=True)
        return [_chosen(*part, self.unanswerable) for part in parts]

    def score(self, predictions: dict[str, list[Any]]) -> dict[str, float | None]:
        """See :meth:`TaskData.score`."""

        def value(metric: str, names: list[str]) -> float | None:
            pairs = [
                (found.text(example), [answer.text for answer in example.answers])
                for name in names
                for found, example in zip(predictions[name], self.tests[name], strict=True)
            ]
            return spans.mean(metric, [said for said, _ in pairs], [right for _, right in pairs])

        return over_tests(self.metrics, value, list(self.tests))

    def records(self, predictions: Sequence[Any], examples: Sequence[Any]) -> list[dict[str, Any]]:
        """``index`` in the test set, ``id``, ``question``, ``answers``, ``prediction``, its
        ``start`` (a character of the context; -1 for none) and ``probability``; no context."""
        return [
            {
                "index": i,
                **({} if example.id is None else {"id": example.id}),
                "question": example.question,
                "answers": [answer.text for answer in example.answers],
                "prediction": found.text(example),
                "start": found.begin(example),
                "probability": round(found.probability, DIGITS),
            }
            for i, (found, example) in enumerate(zip(predictions, examples, strict=True))
        ]

    def texts(self, example: Any, tokenizer: Any) -> list[str]:
        """The question and its context."""
        return [example.question, example.context]


def _span_scores(logits: Tensor, inside: Tensor, longest: int) -> Tensor:
    """The score of every answer: (w, tokens, lengths), -inf of what is no answer.

    Args:
        logits: (w, tokens, 2).
        inside: (w, tokens), which tokens are of the context.
        longest: tokens of an answer at most.
    """
    starts, ends = logits.masked_fill(~inside[..., None], LEAST).unbind(-1)
    longest = min(longest, logits.shape[1])
    after = functional.pad(ends, (0, longest - 1), value=LEAST).unfold(1, longest, 1)
    return starts[..., None] + after


def _chosen(table: np.ndarray, bounds: np.ndarray, unanswerable: bool) -> Found:
    """The answer to a question.

    Args:
        table: (windows, 3): the best score, the log of the sum of exp of all, and that of none.
        bounds: (windows, 2), the characters of the best.
        unanswerable: whether none may be said.
    """
    window = int(table[:, 0].argmax())
    best, null = table[window, 0], table[:, 2].min()
    total = np.logaddexp.reduce(table[:, 1])
    if unanswerable:
        total = np.logaddexp(total, null)
    if best == LEAST or (unanswerable and null > best):  # a context without a token has none
        return Found(-1, -1, float(np.exp(null - total)) if unanswerable else 0.0)
    begin, end = map(int, bounds[window])
    return Found(begin, end, float(np.exp(best - total)))
