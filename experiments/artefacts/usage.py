"""Say how a fine-tuned model is to be asked: what its tokenizer gets, and how text is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from experiments.answers import CHOICES, SPANS, TAGS, TEXT, Answers, Decoding
from experiments.tasks.examples import Example, LabelSetExample
from experiments.tasks.in_memory_rows import GivenText
from experiments.tasks.kinds.chat import ChatData
from experiments.tasks.kinds.pairs import separator
from experiments.tasks.kinds.spans import SpanData
from experiments.tasks.kinds.tags import words_have_space
from experiments.tasks.kinds.text import TextData
from experiments.tasks.task import TaskData

__all__ = ["Usage"]

# What a tokenizer without a limit of its own says.
UNLIMITED = 10**6  # tokens


@dataclass(frozen=True)
class Usage:
    """How a model reads a text.

    Attributes:
        answers: what it puts out.
        dtype: of its frozen weights, as torch names it.
        max_length: tokens that it was shown at most; None for no limit.
        second: what stands before the second text of a pair; None where there is one text alone.
        spaced: each word is given with the space before it.
        pad: the token that a classifier must know in order to find the end of a text; None where
            it does not look for it.
        replaces: the base model has a head for other answers, which the adapter's replaces.
        seq2seq: it has an encoder and a decoder, and writes text.
        separator: between source and answer of a causal model, a text; None for ``begin``.
        begin: the token that stands there instead.
        ends: the tokenizer puts an end behind every text, which has no place before an answer.
        decoding: how its answers are written; None of a model that writes none.
        source: what a source looks like.
        threshold: the probability above which a label of several is said.
        chat: the source is messages (:func:`conversations.as_source`), written by the tokenizer's
            chat template.
        longest_answer: tokens at most of an answer that is found in a text.
        unanswerable: such an answer may be none.
    """

    answers: Answers
    dtype: str = "float32"
    max_length: int | None = None
    second: str | None = None
    spaced: bool = False
    pad: int | None = None
    replaces: bool = False
    seq2seq: bool = False
    separator: str | None = ""
    begin: int | None = None
    ends: bool = False
    decoding: Decoding | None = None
    source: str = "A text."
    threshold: float = 0.5
    chat: bool = False
    longest_answer: int = 30
    unanswerable: bool = False

    @classmethod
    def of(
        cls,
        task: TaskData | None,
        answers: Answers,
        tokenizer: Any,
        config: Any,
        dtype: str,
        replaces: bool = False,
        pairs: bool | None = None,
    ) -> Usage:
        """Of a model for a task.

        Args:
            task: its data; None where they are not known.
            answers: what the model puts out.
            tokenizer: of the model.
            config: of the model, transformers' own.
            dtype: of the frozen weights.
            replaces: the base model has a head for other answers.
            pairs: it reads two texts; None takes it from the task's examples.
        """
        longest = [tokenizer.model_max_length, *((task.max_length,) if task else ())]
        limit = min((n for n in longest if 0 < n < UNLIMITED), default=None)
        if answers.kind == TEXT:
            return cls(answers, dtype, limit, **_written(task, tokenizer, config))
        found: dict[str, Any] = {}
        if isinstance(task, SpanData):
            found["longest_answer"] = task.max_answer_tokens
            found["unanswerable"] = task.unanswerable
        if pairs is None:
            pairs = task is not None and _has_pairs(task)
        pairs = pairs or answers.kind in (SPANS, CHOICES)
        return cls(
            answers,
            dtype,
            limit,
            second=separator(tokenizer) if pairs else None,
            **found,
            spaced=answers.kind == TAGS and words_have_space(tokenizer),
            pad=tokenizer.pad_token_id if _reads_the_end(config) else None,
            replaces=replaces,
        )


def _written(task: TaskData | None, tokenizer: Any, config: Any) -> dict[str, Any]:
    """Of a model that writes text."""
    seq2seq = bool(config.is_encoder_decoder)
    found: dict[str, Any] = {"seq2seq": seq2seq, "decoding": Decoding()}
    if isinstance(task, GivenText):  # whose tokens the caller has put together
        found["decoding"] = task.decoding
    elif isinstance(task, TextData):
        begin = tokenizer.bos_token_id
        found |= {
            "decoding": task.decoding,
            "separator": task.separator,
            "begin": tokenizer.eos_token_id if begin is None else begin,
            "source": task.looks,
            "chat": isinstance(task, ChatData),
        }
    ids = tokenizer("a")["input_ids"]
    return {**found, "ends": bool(ids) and ids[-1] == tokenizer.eos_token_id}


def _has_pairs(task: TaskData) -> bool:
    rows = (row for part in (task.train, *task.tests.values()) for row in part[:1])
    return any(isinstance(row, Example | LabelSetExample) and len(row.texts) == 2 for row in rows)


def _reads_the_end(config: Any) -> bool:
    """Whether a classifier of this architecture reads the last token that is no padding."""
    kind = config.model_type
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return causal and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
