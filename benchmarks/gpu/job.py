"""Hand methods what the application would: a model, random token sequences, settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bilevel import BilevelEngine, BilevelEngineConfig
from bilevel.cutting import Losses
from bilevel.hypergradient import Hypergradient, Unrolled
from problems import Method, TrainData, Training, TrainSettings
from problems.common.method import AnswerKind

__all__ = ["RandomJob", "engine_of", "first_training"]

SOURCES = ("one", "two")


class RandomJob:
    """A :class:`problems.Job` in memory, of which nothing but a stage's steps is asked.

    Args:
        make: makes the model, on the device.
        device: where it is trained.
        shape: the model's, of :mod:`benchmarks.gpu.models`.
        length, batch_size: of the batches; all texts are of one length, without padding.
        settings: further ones of the training.
    """

    seed = 0
    task_type: str | None = "CAUSAL_LM"

    def __init__(
        self,
        make: Callable[[], Any],
        device: torch.device,
        shape: Mapping[str, int],
        length: int,
        batch_size: int,
        hypergradient: Hypergradient | None = None,
        examples: int = 64,
        **settings: Any,
    ) -> None:
        self._make = make
        self.device = device
        self.head_modules: list[str] = []
        self.hypergradient = hypergradient or Unrolled()
        self.settings = TrainSettings(
            **{"epochs": 1000, "batch_size": batch_size, "lr": 1e-4, "warmup_steps": 0, **settings}
        )
        draw = random.Random(0)
        rows = [
            [draw.randrange(shape["vocab_size"]) for _ in range(length)] for _ in range(examples)
        ]
        self.data = TrainData(
            examples=[{"input_ids": row, "labels": row} for row in rows],
            collate=_collate,
            labels=None,
            lengths=[length] * examples,
            validation=[{"input_ids": row, "labels": row} for row in rows[: 2 * batch_size]],
            sources=[SOURCES[i % len(SOURCES)] for i in range(examples)],
        )
        layers = range(shape["num_hidden_layers"])
        self.target_modules = [
            f"model.layers.{i}.self_attn.{part}" for i in layers for part in ("q_proj", "v_proj")
        ]

    @property
    def kind(self) -> AnswerKind:
        """Tokens."""
        return "text"

    def build_model(self) -> Any:
        """A fresh one."""
        return self._make()

    def outputs(
        self, model: nn.Module, rows: Sequence[dict[str, Any]]
    ) -> Iterator[tuple[list[int], Any, dict[str, Tensor]]]:
        """For a method that starts from what the model says."""
        for i, row in enumerate(rows):
            batch = {name: value.to(self.device) for name, value in _collate([row]).items()}
            yield [i], model(**batch), batch

    def scores(self, model: nn.Module, rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
        """Nothing is scored here."""
        raise NotImplementedError

    def losses(self, model: nn.Module, rows: Sequence[dict[str, Any]]) -> Losses:
        """Nothing is scored here."""
        raise NotImplementedError

    def example_losses(self, outputs: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sums over the tokens of each example, and how many they are."""
        logits, labels = outputs.logits[:, :-1], batch["labels"][:, 1:]
        losses = nn.functional.cross_entropy(
            logits.transpose(1, 2).float(), labels, reduction="none"
        )
        return losses.sum(1), torch.full_like(labels[:, 0], labels.shape[1])


def first_training(method: Method, job: RandomJob) -> Training:
    """What a method's first stage trains."""
    torch.manual_seed(job.seed)
    prepared = method.stages()[0].prepare(job, None)
    assert isinstance(prepared, Training)
    return prepared


def engine_of(training: Training, device: torch.device, steps: int = 10**6) -> BilevelEngine:
    """The engine that runs a stage, ready to take steps."""
    config = BilevelEngineConfig(
        train_iters=steps,
        strategy="gpu" if device.type == "cuda" else "cpu",
        roll_back=training.roll_back,
    )
    engine = BilevelEngine(training.problems, config, training.dependencies)
    engine.train()
    return engine


def _collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}
