"""Outputs and losses of a model on tokenised examples, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.tasks.base import REGRESSION, TaskData

__all__ = ["mean_loss", "outputs", "score", "some"]

BATCH_SIZE = 64


@torch.no_grad()
def outputs(
    model: nn.Module,
    examples: Sequence[dict[str, Any]],
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    precision: AbstractContextManager[None] | None = None,
) -> np.ndarray:
    """The logits, float32 (n, labels), in the order of the examples.

    Args:
        model: a transformers or PEFT model; its training mode is put back at the end.
        examples: unpadded, as `TaskData.tokenise` returns them.
        collate: makes a padded batch of tensors.
        precision: an autocast context; None computes in the parameters' own precision.
    """
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    # Batches of like length need little padding; where an example is padded changes nothing else.
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i]["input_ids"]))
    found: list[np.ndarray] = []
    try:
        with precision or nullcontext():
            for start in range(0, len(order), BATCH_SIZE):
                rows = [examples[i] for i in order[start : start + BATCH_SIZE]]
                batch = {k: v.to(device) for k, v in collate(rows).items() if k != "labels"}
                found.append(model(**batch).logits.float().cpu().numpy())
    finally:
        for module, training in modes.items():
            module.training = training
    sorted_logits = np.concatenate(found)
    logits = np.empty_like(sorted_logits)
    logits[order] = sorted_logits
    return logits


def mean_loss(logits: np.ndarray, examples: Sequence[dict[str, Any]], problem_type: str) -> float:
    """Mean cross-entropy, or mean squared error for regression: the model's own training loss."""
    values = torch.from_numpy(logits).double()
    labels = torch.tensor([example["labels"] for example in examples])
    if problem_type == REGRESSION:
        return float(functional.mse_loss(values[:, 0], labels.double()))
    return float(functional.cross_entropy(values, labels))


def score(
    model: nn.Module,
    task: TaskData,
    tests: dict[str, list[dict[str, Any]]],
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    precision: AbstractContextManager[None] | None = None,
) -> tuple[dict[str, float], float]:
    """Metrics, and the mean loss over all test examples.

    Args:
        model: what to score.
        task: its ``tests`` are the examples that ``tests`` holds tokenised.
        tests: tokenised test sets by name.
        collate, precision: see :func:`outputs`.
    """
    every = [example for rows in tests.values() for example in rows]
    logits = outputs(model, every, collate, precision)
    by_test, start = {}, 0
    for name, rows in tests.items():
        by_test[name] = logits[start : start + len(rows)]
        start += len(rows)
    return task.score(by_test), mean_loss(logits, every, task.problem_type)


def some(count: int, limit: int | None) -> list[int]:
    """Indices of a fixed random choice of ``limit`` among ``count``, in order; all without one."""
    if limit is None or count <= limit:
        return list(range(count))
    return sorted(np.random.default_rng(0).choice(count, limit, replace=False).tolist())
