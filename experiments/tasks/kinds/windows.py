"""Part a question's context into windows that fit a model, and put windows into batches.

A window is the question, and a piece of the context behind it. Neighbours overlap by ``stride``
tokens, so that an answer at the edge of one is whole in the next. A tokenised row is a question
with all of its windows, so that everything that counts, draws or weights rows does so by questions:

| key | of a row | of a batch of n questions, w windows |
|---|---|---|
| input_ids, attention_mask, token_type_ids | a list a window | (w, tokens) |
| labels | [beginning, end] a window, positions in it; -100: not learned | (w, 2) |
| offsets | (tokens, 2) a window: the characters of the context that a token is; `NOWHERE`: of no context, `NULL`: the token that says there is no answer | (w, tokens, 2) |
| first | | (n,), which window is a question's first |
"""  # noqa: E501

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import UserError
from bilevel.labels import NO_LABEL
from experiments.tasks.examples import SpanExample
from experiments.tasks.kinds.pairs import separator

__all__ = ["NULL", "WindowCollator", "owners", "windows_of"]

log = logging.getLogger(__name__)

AT_ONCE = 1000  # questions: the tokenizer's own offsets are large
NOWHERE = -1
NULL = -2


def windows_of(
    tokenizer: Any, examples: Sequence[SpanExample], limit: int, stride: int, name: str
) -> list[dict[str, Any]]:
    """A row for each question; see the module. The log says what was cut, or has no label.

    Args:
        tokenizer: of the model.
        examples: the questions; the label is the first answer of each.
        limit: tokens of a window at most.
        stride: tokens by which windows overlap.
        name: of the task, for messages.

    Raises:
        UserError: the tokenizer does not tell which characters a token is.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not tell which characters a token is, which task "
            f"{name} needs: take a model with a fast tokenizer (tokenizer.json)"
        )
    if not examples:
        return []
    asked, room = _questions(tokenizer, examples, limit)
    overlap = min(stride, room // 2)
    before = separator(tokenizer)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(examples), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        rows += _encode(tokenizer, asked[part], examples[part], limit, overlap, before)
    parted = [row for row in rows if len(row["input_ids"]) > 1]
    if parted:
        log.info(
            "%d of %d contexts are longer than a window of %d tokens: they are read in %d windows, "
            "which overlap by %d tokens",
            *(len(parted), len(rows), limit, sum(len(r["input_ids"]) for r in parted), overlap),
        )
    lost = [
        row
        for row, example in zip(rows, examples, strict=True)
        if example.answers and not any(label[0] != NO_LABEL for label in row["labels"])
    ]
    if lost:
        log.warning(
            "%d of %d answers fit into no window, and nothing is learned from their questions: "
            "raise task.max_length or task.stride",
            *(len(lost), len(rows)),
        )
    return rows


def _questions(
    tokenizer: Any, examples: Sequence[SpanExample], limit: int
) -> tuple[list[str], int]:
    """The questions, cut to half of a window, and the tokens that are left for a context."""
    inside = limit - tokenizer.num_special_tokens_to_add(pair=True)
    most = max(1, inside // 2)
    asked, longest, cut = [], 0, 0
    for start in range(0, len(examples), AT_ONCE):
        texts = [example.question for example in examples[start : start + AT_ONCE]]
        found = tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        for text, places in zip(texts, found["offset_mapping"], strict=True):
            asked.append(text if len(places) <= most else text[: places[most - 1][1]])
            cut += len(places) > most
            longest = max(longest, min(len(places), most))
    if cut:
        log.warning(
            "%d of %d questions are cut: half of a window, %d tokens, are allowed "
            "(task.max_length, or the model's positions)",
            *(cut, len(examples), most),
        )
    return asked, max(1, inside - longest)


def _encode(
    tokenizer: Any,
    questions: Sequence[str],
    examples: Sequence[SpanExample],
    limit: int,
    overlap: int,
    before: str,
) -> list[dict[str, Any]]:
    encoded = tokenizer(
        list(questions),
        [before + example.context for example in examples],
        truncation="only_second",
        max_length=limit,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    keys = [k for k in encoded if k not in ("offset_mapping", "overflow_to_sample_mapping")]
    rows: list[dict[str, Any]] = [
        {key: [] for key in (*keys, "labels", "offsets")} for _ in examples
    ]
    for i, owner in enumerate(encoded["overflow_to_sample_mapping"]):
        row, example = rows[owner], examples[owner]
        offsets = np.array(encoded["offset_mapping"][i], dtype=np.int32).reshape(-1, 2)
        offsets = np.maximum(offsets - len(before), 0)
        inside = np.array([part == 1 for part in encoded.sequence_ids(i)], dtype=bool)
        offsets[~inside | (offsets[:, 1] <= offsets[:, 0])] = NOWHERE
        null = _null(tokenizer, encoded["input_ids"][i])
        if null != NO_LABEL:
            offsets[null] = NULL
        for key in keys:
            row[key].append(encoded[key][i])
        row["offsets"].append(offsets)
        row["labels"].append(_label(example, offsets) or [null, null])
    for row, example in zip(rows, examples, strict=True):
        whole = (_label(example, offsets) for offsets in row["offsets"])
        if example.answers and not any(whole):  # that it has no answer would be wrong
            row["labels"] = [[NO_LABEL, NO_LABEL] for _ in row["labels"]]
    return rows


def _label(example: SpanExample, offsets: np.ndarray) -> list[int] | None:
    """The first and the last token of the answer; None where it is not whole in the window."""
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if not example.answers or not len(inside):
        return None
    text, start = example.answers[0]
    start += len(text) - len(text.lstrip())
    end = start + len(text.strip())
    if offsets[inside[0], 0] > start or offsets[inside[-1], 1] < end:
        return None
    hit = inside[(offsets[inside, 0] < end) & (offsets[inside, 1] > start)]
    return [int(hit[0]), int(hit[-1])] if len(hit) else None


def _null(tokenizer: Any, ids: Sequence[int]) -> int:
    """Where a window says that it has no answer: at the token that stands for the whole text."""
    token = tokenizer.cls_token_id
    return ids.index(token) if token is not None and token in ids else NO_LABEL


@dataclass(frozen=True)
class WindowCollator:
    """Pads the windows of several rows to the longest, at their ends; see the module."""

    tokenizer: Any

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch."""
        own = [key for key in rows[0] if key not in ("labels", "offsets")]
        flat = [
            {key: row[key][i] for key in own} for row in rows for i in range(len(row["input_ids"]))
        ]
        # Labels are positions, which padding before a window would move.
        batch = dict(self.tokenizer.pad(flat, padding_side="right", return_tensors="pt"))
        counts = torch.tensor([len(row["input_ids"]) for row in rows])
        offsets = [each for row in rows for each in row["offsets"]]
        table = np.full((len(flat), batch["input_ids"].shape[1], 2), NOWHERE, dtype=np.int32)
        for place, each in zip(table, offsets, strict=True):
            place[: len(each)] = each
        return {
            **batch,
            "labels": torch.tensor([label for row in rows for label in row["labels"]]),
            "offsets": torch.from_numpy(table),
            "first": counts.cumsum(0) - counts,
        }


def owners(batch: dict[str, Tensor]) -> Tensor:
    """Whose window each is: (w,), numbers of the batch's questions."""
    windows = torch.arange(len(batch["labels"]), device=batch["first"].device)
    return torch.bucketize(windows, batch["first"], right=True) - 1
