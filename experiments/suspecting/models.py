"""Train LoRA on parts of the data, and ask it of each example what speaks against its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel
from transformers import set_seed

from bilevel import BilevelEngine, BilevelEngineConfig
from bilevel.data import stratified_order
from bilevel.evaluation import evaluating, matching_autocast
from bilevel.labels import NO_LABEL
from bilevel.sharding import device_of
from bilevel.views import taken
from experiments.answers import CLASSES, NUMBER, TAGS
from experiments.models.batching import batches
from experiments.models.memory import without_cache
from experiments.training.fine_tuning_job import FineTuningJob
from problems.common.records import TrainData, tokens_of
from problems.lora import LoRA, lora_training

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Said", "folds", "joined", "look", "part", "slopes", "trainable", "trained_lora"]

# Length of the step along the trusted gradient, in shares of the weights' norm: short enough for
# the loss to be straight, long enough for float32.
STEP = 1e-3


@dataclass(frozen=True)
class Said:
    """What a model says of n examples, of which the classes are of m items (words, or themselves).

    Attributes:
        losses: (n,), the mean loss of each example's answer.
        values: (n,) of the numbers predicted, of regression alone.
        probabilities: (m, classes); None without classes.
        given: (m,), the items' given classes; None without.
        owner: (m,), the example that each item is of; None without.
    """

    losses: np.ndarray
    values: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    given: np.ndarray | None = None
    owner: np.ndarray | None = None


def part(data: TrainData, indices: Sequence[int]) -> TrainData:
    """Some of the examples."""
    return replace(
        data,
        examples=taken(data.examples, indices),
        labels=None if data.labels is None else [data.labels[i] for i in indices],
        lengths=[data.lengths[i] for i in indices],
        validation=None,
        sources=None,
        weights=None if data.weights is None else [data.weights[i] for i in indices],
        draw_weights=None if data.draw_weights is None else [data.draw_weights[i] for i in indices],
    )


def folds(count: int, number: int, seed: int, labels: Sequence[int] | None) -> list[list[int]]:
    """Parts of range(count) of about the same size and the classes' proportions."""
    order = stratified_order(count, seed, labels)
    return [sorted(order[i::number]) for i in range(number)]


def trained_lora(
    job: FineTuningJob, data: TrainData, epochs: float, start: Mapping[str, Tensor] | None = None
) -> PeftModel:
    """LoRA on ``data``, as the job's method trains it; its last weights.

    Args:
        job: of a plan with method LoRA.
        data: at least two examples; batches are no larger.
        epochs: passes over them.
        start: the trainable weights of a model of the same job, head included, that it goes on
            from; None for new ones.
    """
    method = job.plan.method
    assert isinstance(method, LoRA)
    size = min(job.settings.batch_size, len(data.examples))
    settings = replace(job.settings, batch_size=size, epochs=epochs)
    own = replace(job, data=data, settings=settings, _fresh=None)
    set_seed(job.seed)
    options = {
        "r": method.rank,
        "lora_alpha": method.lora_alpha,
        "lora_dropout": method.lora_dropout,
    }
    training = lora_training(own, options, method.optimizer, epochs)
    if start is not None:
        with torch.no_grad():
            for name, weight in training.model.named_parameters():
                if weight.requires_grad:
                    weight.copy_(start[name])
    engine = BilevelEngine(
        training.problems,
        BilevelEngineConfig(train_iters=training.steps, strategy=job.plan.engine.strategy),
        training.dependencies,
    )
    with without_cache(training.model):
        engine.run()
    engine.cleanup()
    model: PeftModel = training.model
    return model


def trainable(model: PeftModel) -> dict[str, Tensor]:
    """The weights that a model's training changes, by name, in the CPU's memory."""
    weights = model.named_parameters()
    return {name: w.detach().cpu().clone() for name, w in weights if w.requires_grad}


@torch.no_grad()
def look(model: PeftModel, job: FineTuningJob, rows: Sequence[dict[str, Any]]) -> Said:
    """What the model says of tokenised examples, in evaluation mode."""
    kind = job.task.answers.kind
    device = device_of(model)
    losses = np.zeros(len(rows))
    values = np.zeros(len(rows))
    items: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with evaluating(model), without_cache(model), matching_autocast(model):
        for indices in batches([len(tokens_of(row)) for row in rows]):
            collated = job.data.collate([rows[i] for i in indices])
            batch = {key: value.to(device) for key, value in collated.items()}
            outputs = model(**batch)
            totals, terms = job.task.example_losses(outputs, batch)
            losses[indices] = (totals / terms.clamp(min=1)).cpu().numpy()
            if kind == NUMBER:
                values[indices] = outputs.logits[:, 0].float().cpu().numpy()
            if kind in (CLASSES, TAGS):
                shares = outputs.logits.double().softmax(-1).cpu().numpy()
                labels = batch["labels"].cpu().numpy()
                for i, mine, right in zip(indices, shares, labels, strict=True):
                    kept = np.atleast_1d(right) != NO_LABEL
                    items[i] = np.atleast_2d(mine)[kept], np.atleast_1d(right)[kept]
    if kind == NUMBER:
        return Said(losses, values)
    if kind not in (CLASSES, TAGS):
        return Said(losses)
    found = [items[i] for i in range(len(rows))]
    return Said(
        losses,
        None,
        np.concatenate([shares for shares, _ in found]),
        np.concatenate([right for _, right in found]),
        np.repeat(np.arange(len(rows)), [len(right) for _, right in found]),
    )


def joined(parts: Sequence[tuple[Sequence[int], Said]], count: int) -> Said:
    """What several models say of disjoint parts of ``count`` examples, as if it were one."""
    losses = np.zeros(count)
    values = np.zeros(count) if parts[0][1].values is not None else None
    items: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for indices, said in parts:
        losses[list(indices)] = said.losses
        if values is not None and said.values is not None:
            values[list(indices)] = said.values
        if said.probabilities is not None:
            assert said.given is not None
            for place, i in enumerate(indices):
                mine = said.owner == place
                items[i] = said.probabilities[mine], said.given[mine]
    if not items:
        return Said(losses, values)
    found = [items[i] for i in range(count)]
    return Said(
        losses,
        values,
        np.concatenate([shares for shares, _ in found]),
        np.concatenate([right for _, right in found]),
        np.repeat(np.arange(count), [len(right) for _, right in found]),
    )


def slopes(
    model: PeftModel,
    job: FineTuningJob,
    rows: Sequence[dict[str, Any]],
    trusted: Sequence[dict[str, Any]],
) -> np.ndarray:
    """<dl_i/dV, G / |G|> of each row, G the gradient of the mean trusted loss; (n,).

    It is minus the hypergradient of one step of gradient descent with respect to the row's weight,
    but for the rate and the mean over a batch (Ren et al., ICML 2018). Taken as a central
    difference of the rows' losses along G, which is two passes over them.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    gradient = _gradient(model, job, trusted, weights)
    length = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradient]))
    if not length > 0:
        return np.zeros(len(rows))
    size = torch.linalg.vector_norm(torch.stack([w.detach().norm() for w in weights]))
    before = [w.detach().clone() for w in weights]
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            for w, start, g in zip(weights, before, gradient, strict=True):
                w.copy_(start + sign * STEP * size / length * g)
        found.append(look(model, job, rows).losses)
    with torch.no_grad():
        for w, start in zip(weights, before, strict=True):
            w.copy_(start)
    return np.asarray((found[0] - found[1]) / (2 * STEP * float(size)))


def _gradient(
    model: PeftModel,
    job: FineTuningJob,
    rows: Sequence[dict[str, Any]],
    weights: Sequence[torch.nn.Parameter],
) -> list[Tensor]:
    """Of the mean loss of some rows, in evaluation mode."""
    device = device_of(model)
    total = [torch.zeros_like(w) for w in weights]
    with evaluating(model), without_cache(model), matching_autocast(model):
        for indices in batches([len(tokens_of(row)) for row in rows]):
            collated = job.data.collate([rows[i] for i in indices])
            batch = {key: value.to(device) for key, value in collated.items()}
            totals, terms = job.task.example_losses(model(**batch), batch)
            loss = (totals / terms.clamp(min=1)).sum() / len(rows)
            grads = torch.autograd.grad(loss, weights, allow_unused=True)
            total = [t if g is None else t + g for t, g in zip(total, grads, strict=True)]
    return total
