"""Compute losses and scores of a model on tokenised examples, in evaluation mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bilevel.cutting.losses import Losses
from bilevel.distributed import each_once
from bilevel.evaluation import evaluating, matching_autocast
from bilevel.sharding import device_of, is_sharded
from experiments.models.batching import EXAMPLES, batches
from experiments.models.generation import generate
from experiments.models.memory import without_cache
from experiments.stored_data.rows import StoredRows
from experiments.tasks.kinds.text import TextData
from experiments.tasks.task import TaskData
from problems.common.records import tokens_of

__all__ = ["Scores", "example_losses", "forward", "outputs_of", "read_outputs", "score"]

R = TypeVar("R")
Collate = Callable[[list[dict[str, Any]]], dict[str, Tensor]]


class Scores(NamedTuple):
    """Metrics, the mean loss over all test examples, and what the model said, by test set."""

    metrics: dict[str, float | None]
    loss: float
    predictions: dict[str, list[Any]]


@contextmanager
def outputs_of(
    model: nn.Module,
    examples: Sequence[dict[str, Any]],
    collate: Collate,
    precision: AbstractContextManager[None] | None = None,
    batch_size: int = EXAMPLES,
) -> Iterator[Iterator[tuple[list[int], Any, dict[str, Tensor]]]]:
    """Indices, outputs and batch, of all examples in batches of like length.

    In here the model is in evaluation mode, without a cache; arguments as :func:`forward`'s, and
    ``batch_size``, examples at once at most.
    """
    with _ready(model, precision):
        yield (
            (indices, *_asked(model, examples, collate, indices))
            for indices in _batches(examples, batch_size)
        )


@torch.no_grad()
def read_outputs(
    model: nn.Module,
    examples: Sequence[dict[str, Any]],
    collate: Collate,
    read: Callable[[Any, dict[str, Tensor]], R],
    precision: AbstractContextManager[None] | None = None,
    batch_size: int = EXAMPLES,
) -> list[tuple[list[int], R]]:
    """Indices of each batch of :func:`outputs_of`, and what ``read(outputs, batch)`` makes of it.

    Several processes share the batches, and all of them get everything: all have to come here.
    What is read must lie on the CPU.
    """
    with _ready(model, precision):
        return each_once(
            _batches(examples, batch_size),
            lambda indices: (indices, read(*_asked(model, examples, collate, indices))),
            together=is_sharded(model),
        )


@contextmanager
def _ready(model: nn.Module, precision: AbstractContextManager[None] | None) -> Iterator[None]:
    with evaluating(model), without_cache(model), precision or matching_autocast(model):
        yield


def _batches(examples: Sequence[dict[str, Any]], batch_size: int) -> Iterable[list[int]]:
    if isinstance(examples, StoredRows):  # whose lengths are in the file
        return batches(examples.lengths.tolist(), batch_size)
    return batches([len(tokens_of(row)) for row in examples], batch_size)


def _asked(
    model: nn.Module, examples: Sequence[dict[str, Any]], collate: Collate, indices: list[int]
) -> tuple[Any, dict[str, Tensor]]:
    """The outputs of a batch, and the batch."""
    device = device_of(model)
    batch = {k: v.to(device) for k, v in collate([examples[i] for i in indices]).items()}
    return model(**batch), batch


@torch.no_grad()
def forward(
    model: nn.Module,
    task: TaskData,
    examples: Sequence[dict[str, Any]],
    collate: Collate,
    precision: AbstractContextManager[None] | None = None,
) -> tuple[list[Any], float]:
    """The task's predictions in the order of the examples, and the mean loss (nan of none).

    Args:
        model: a transformers or PEFT model; its training mode is put back at the end.
        task: reads the model's outputs.
        examples: unpadded, as `TaskData.tokenise` returns them.
        collate: makes a padded batch of tensors.
        precision: an autocast context; None computes in the parameters' own precision, under bf16
            autocast if they have two.
    """
    found: list[Any] = [None] * len(examples)
    total, count = 0.0, 0

    def read(outputs: Any, batch: dict[str, Tensor]) -> tuple[list[Any], tuple[float, int]]:
        return task.predictions(outputs, batch), task.losses(outputs, batch)

    for indices, (said, (loss, terms)) in read_outputs(model, examples, collate, read, precision):
        for index, prediction in zip(indices, said, strict=True):
            found[index] = prediction
        total, count = total + loss, count + terms
    return found, total / count if count else math.nan


@torch.no_grad()
def example_losses(
    model: nn.Module,
    task: TaskData,
    examples: Sequence[dict[str, Any]],
    collate: Collate,
) -> Losses:
    """The loss of each example, in their order; arguments as :func:`forward`'s."""
    totals, terms = np.zeros(len(examples)), np.zeros(len(examples), dtype=int)

    def read(outputs: Any, batch: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        found, counted = task.example_losses(outputs, batch)
        return found.cpu().numpy(), counted.cpu().numpy()

    for indices, (found, counted) in read_outputs(model, examples, collate, read):
        totals[indices], terms[indices] = found, counted
    return Losses(totals, terms, task.constant_losses(examples))


def score(
    model: nn.Module,
    task: TaskData,
    tests: Mapping[str, Sequence[dict[str, Any]]],
    collate: Collate,
    precision: AbstractContextManager[None] | None = None,
    tokenizer: Any = None,
) -> Scores:
    """Score a model on a task's test sets.

    Args:
        model: what to score.
        task: its ``tests`` are the examples that ``tests`` holds tokenised.
        tests: tokenised test sets by name.
        collate, precision: see :func:`forward`.
        tokenizer: to write text with, where the task wants text; without it such a task's only
            score is the loss, which is much faster.
    """
    (*parts,) = tests.values()
    every = parts[0] if len(parts) == 1 else [example for rows in parts for example in rows]
    found, loss = forward(model, task, every, collate, precision)
    if isinstance(task, TextData):
        if tokenizer is None:
            return Scores({}, loss, {})
        prompts = [task.prompt(row, bool(model.config.is_encoder_decoder)) for row in every]  # type: ignore[union-attr]
        found = generate(model, tokenizer, prompts, task.decoding, precision)
    predictions = by_test(found, tests)
    return Scores(task.score(predictions), loss, predictions)


def by_test(
    found: list[Any], tests: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, list[Any]]:
    """Part a list over all test sets, in their order, into one for each."""
    parts, start = {}, 0
    for name, rows in tests.items():
        parts[name] = found[start : start + len(rows)]
        start += len(rows)
    return parts
