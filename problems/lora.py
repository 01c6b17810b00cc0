r"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685): one level, one rank for every layer.

    W = W0 + (alpha / r) B A,       min over A, B and the head of  L(A, B; D_train + D_val)

The same engine, data order, schedule and evaluation as the bilevel methods, so that a comparison
compares the methods alone. Published settings for RoBERTa-base: r 8, alpha 16, AdamW, weight decay
0.1, linear schedule with 6 % warm-up, learning rate 4e-4 or 5e-4 by task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from bilevel.data import split as split_indices
from bilevel.lowrank.layers import lora_layers
from problems.common.method import (
    FineTuning,
    Job,
    Method,
    Outcome,
    StageRunner,
    add_lora,
    check_lora,
    count,
    loader,
    total_steps,
    trainable,
)
from problems.common.one_level import ALONE, only_problem
from problems.common.optimizer_settings import OptimizerSettings, check_range

__all__ = ["LoRA", "train_lora"]


@dataclass(frozen=True)
class LoRA(Method):
    """Plain LoRA on all of the training data.

    Args:
        rank: r of every layer.
        lora_alpha: alpha; the update is scaled by alpha / r.
        lora_dropout: dropout on the input of the low-rank branch.
        targets: where adapters go ("qv", "all") unless train.target_modules says otherwise.
        hold_out: share of the training data kept out of the training and reported as
            ``validation_loss``, for choosing a rank without the test set.
        optimizer: of the factors and the head.
    """

    name: ClassVar[str] = "lora"
    splits_fused: ClassVar[bool] = True
    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    targets: str | None = None  # type: ignore[misc]
    hold_out: float = 0.0
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=None, weight_decay=0.1)
    )

    def __post_init__(self) -> None:
        check_lora(self.rank, self.lora_dropout)
        check_range("hold_out", self.hold_out, 0 <= self.hold_out < 1, "in [0, 1)")

    def run(self, job: Job) -> Outcome:
        """One stage, one problem."""
        options = {
            "r": self.rank,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
        }
        return job.stage(
            "train",
            lambda stage: train_lora(
                job, stage, options, self.optimizer, job.settings.epochs, hold_out=self.hold_out
            ),
            last=True,
        )


def train_lora(
    job: Job,
    stage: StageRunner,
    lora_options: dict[str, Any],
    optimizer: OptimizerSettings,
    epochs: float,
    default_lr: float = 5e-4,
    hold_out: float = 0.0,
) -> Outcome:
    """Train LoRA with the given ``LoraConfig`` options on the training data but ``hold_out``."""
    data = job.data
    train: list[int] = list(range(len(data.examples)))
    held_out: list[int] = []
    if hold_out:
        train, held_out = split_indices(len(train), 1 - hold_out, job.seed, data.labels)
    model = add_lora(job, job.build_model(), **lora_options)
    batches = loader(job, train)
    steps = total_steps(job, batches, epochs)
    parameters = trainable(model)
    lr = job.settings.lr if job.settings.lr is not None else default_lr
    problem = only_problem(FineTuning, job, model, batches, optimizer, steps, lr)
    stats = stage.run(
        [problem],
        ALONE,
        steps,
        model,
        validation=[data.examples[i] for i in held_out],
    )
    ranks = {name: int(layer.r["default"]) for name, layer in lora_layers(model).items()}
    return Outcome(
        model=model,
        ranks=ranks,
        trainable_parameters=count(parameters),
        validation_loss=stats.get("validation_loss"),
        split={"train": len(train), **({"validation": len(held_out)} if held_out else {})},
    )
