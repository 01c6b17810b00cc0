r"""Learn a weight for every training example from a few trusted ones, and drop what they speak
against.

    lower   V*(w) = argmin over V of  sum_i w_i l_i(V) / sum_i w_i   over D_train, partly wrong
    upper   min over w of  L(V*(w); D_val),                          D_val trusted

w_i is the sigmoid of a number of its own (not a function of the loss, as in Meta-Weight-Net: a
learned net from loss to weight did nothing on SST-2 at 20 % noise and collapsed at 40 %). The upper
loss has no w in it: its whole gradient is the implicit term, which in one lower step at rate eta is

    dL/dw_i = - eta <dL(D_val)/dV, d(l_i - L1)/dV> / sum_j w_j     (Ren et al., ICML 2018, eq. 12)

so an example gains weight where a step along its own gradient lowers the trusted loss more than the
batch's mean does. It is as far as the estimator sees more steps that more steps count.

Then plain LoRA is trained from scratch on what ``apply`` leaves, and on the trusted examples:

| apply | trained on |
|---|---|
| drop | the examples without the ``drop`` of them with the smallest weights |
| weight | all, under the learned weights |
| nothing | all: the competitor "pooled" |

D_val is used twice, for the weights and in that training: there is nothing left to stop by.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Gt, Lt

from bilevel.data import ResumableLoader
from bilevel.errors import UserError
from bilevel.settings import Count
from problems import common
from problems.common import (
    DVal,
    Job,
    Layout,
    Level,
    OptimizerSettings,
    Outcome,
    Parts,
    Stage,
    TrainData,
    Training,
    TrainSettings,
)
from problems.common.records import longest
from problems.common.trusted import LearnedWeights, check_several
from problems.common.two_levels import Fraction
from problems.lora import train_lora

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ExampleWeights"]

log = logging.getLogger(__name__)

MOST_TRUSTED = 64  # in a batch, where nobody says how many
NEEDED = (
    "give the task trusted examples: a file validation beside its test file, or what "
    "--help task=NAME lists (task.trusted_file=FILE, task.trusted=N)"
)


@dataclass(frozen=True)
class ExampleWeights(LearnedWeights):
    """LoRA on D_train, a weight for each example on trusted D_val; then LoRA on the rest."""

    name: ClassVar[str] = "example_weights"
    weighted: ClassVar[str] = "examples"
    split: Fraction | None = None
    """null alone: D_val is the task's own validation split, whose labels are trusted."""
    apply: Literal["drop", "weight", "nothing"] = "drop"
    """What becomes of the examples before LoRA is trained on them: those of the smallest weights
    are dropped, all count as much as their weights, or nothing."""
    drop: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Share of the training examples that apply=drop leaves out. Not learned: give what you think
    is wrong; experiments.suspects estimates it."""
    trusted_batch: Count | None = None
    """Trusted examples in a batch of the upper level; null for all, but for 64 at the most."""
    trusted_too: bool = True
    """Train on the trusted examples too in the end."""
    lower: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.1))
    """Of the factors and the head while the weights are learned."""
    upper: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            name="sgd", lr=0.3, schedule="constant", warmup_ratio=0.0
        )
    )
    """Of the weights' logits, whose gradient is scaled to about 1 first."""
    retrain: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.1))
    """Of the last training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is not None:
            raise UserError(
                f"method.split={self.split:g}: a share of the training data is as wrong as the "
                f"rest, so method.split=null is the only choice here; {NEEDED}"
            )

    def check_validation(self, examples: int, batch_size: int) -> None:
        """Weights are learned on the task's own validation split; a few examples will do.

        Raises:
            UserError: there are fewer than two.
        """
        if examples < 2:
            raise UserError(
                f"method.split=null: method={self.name} learns on trusted examples, and here are "
                f"{examples or 'none'}; {NEEDED}"
            )

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """A weight tells an example from the others of its step.

        Raises:
            UserError: there are none, or as other methods on two levels.
        """
        check_several(settings)
        super().check_steps(examples, settings)

    def held_out(self, own: bool) -> DVal:
        """The upper level trains on all that is trusted."""
        return "trained_on"

    def upper_variables(self, layout: Layout) -> int:
        """A weight for each training example."""
        return layout.examples

    def stages(self) -> Sequence[Stage]:
        """Learn the weights; then train on what they leave."""
        return (Stage("weights", self.weighting), Stage("retrain", self.retraining))

    def weighting(self, job: Job, found: None) -> Training:
        """Stage 1: factors and head on D_train under the weights, the weights on D_val."""
        import torch

        from problems.example_weights.levels import ExampleLogits, ExampleWeighted, TrustedLoss

        parts = self.parts(job)
        self._check_left(len(job.data.examples), len(parts.validation), job.settings.batch_size)
        model = common.with_lora(
            job, self.rank, self.lora_alpha, self.lora_dropout, self.peft, parts.rows
        )
        factors = common.trainable(model)
        weights = ExampleLogits(len(job.data.examples))
        lr = job.settings.lr if job.settings.lr is not None else 5e-4

        def finish(stats: dict[str, float]) -> dict[str, Any]:
            return {
                "weights": weights.weights().detach().cpu(),
                "trainable_parameters": common.count(factors) + weights.logits.numel(),
                "validation_loss": stats.get("validation_loss"),
            }

        def watch() -> dict[str, Tensor]:
            shares = torch.tensor([0.1, 0.5, 0.9], device=weights.logits.device)
            found = weights.weights().detach().quantile(shares)
            return {
                f"weight_{name}": x for name, x in zip(("10%", "median", "90%"), found, strict=True)
            }

        return self.training(
            job,
            parts,
            Level(
                partial(ExampleWeighted, losses=job.example_losses), model, factors, self.lower, lr
            ),
            Level(TrustedLoss, weights, [weights.logits], self.upper, 0.3),
            self.steps(job),
            model,
            finish,
            watch=watch,
        )

    def parts(self, job: Job) -> Parts:
        """All of the training data, numbered, and the trusted examples."""
        trusted = list(job.data.validation or ())
        size = min(self.trusted_batch or MOST_TRUSTED, len(trusted))
        upper = ResumableLoader(trusted, size, job.data.collate, seed=job.seed + 1000)
        sizes = {"train": len(job.data.examples), "validation": len(trusted)}
        return Parts(common.loader(job, numbered=True), upper, trusted, sizes)

    def _check_left(self, examples: int, trusted: int, batch_size: int) -> None:
        """Say before the weights are learned that too little is left for a batch."""
        left = examples - round(self.drop * examples) * (self.apply == "drop")
        left += trusted * self.trusted_too
        if left < batch_size:
            raise UserError(
                f"method.drop={self.drop:g} leaves {left} of {examples} training examples, the "
                f"{'trusted ones among them' if self.trusted_too else 'trusted ones left out'}, "
                f"fewer than train.batch_size={batch_size}: drop less, or give a smaller batch"
            )

    def retraining(self, job: Job, found: dict[str, Any]) -> Training:
        """Stage 2: plain LoRA from scratch on what ``apply`` leaves and the trusted examples."""
        learned: Tensor = found["weights"]
        kept = list(range(len(learned)))
        if self.apply == "drop":
            out = set(learned.argsort(stable=True)[: round(self.drop * len(learned))].tolist())
            kept = [i for i in kept if i not in out]
            log.info("dropped: %d of %d examples", len(out), len(learned))
        weights = learned.tolist() if self.apply == "weight" else None
        data = _left(job.data, kept, weights, self.trusted_too)
        model = common.with_lora(
            job, self.rank, self.lora_alpha, self.lora_dropout, self.peft, data.examples
        )
        training = train_lora(job, model, self.retrain, job.settings.epochs, data=data)

        def finish(stats: dict[str, float]) -> Outcome:
            outcome: Outcome = training.finish(stats)
            return outcome.after(
                found,
                split={"train": len(kept), "validation": len(job.data.validation or ())},
                example_weights=learned,
            )

        return replace(training, finish=finish)


def _left(
    data: TrainData, kept: Sequence[int], weights: Sequence[float] | None, trusted_too: bool
) -> TrainData:
    """The kept examples, and behind them the trusted ones, which count in full."""
    trusted = list(data.validation or ()) if trusted_too else []
    rows = [*(data.examples[i] for i in kept), *trusted]
    if weights is not None:
        weights = [*(weights[i] for i in kept), *[1.0] * len(trusted)]
    draw = data.draw_weights
    if draw is not None:  # trusted ones as often as the mean of the others
        draw = [*(draw[i] for i in kept), *[sum(draw) / len(draw)] * len(trusted)]
    return replace(
        data,
        examples=rows,
        labels=None,
        lengths=[longest(row) for row in rows],
        sources=None,
        weights=weights,
        draw_weights=draw,
    )
