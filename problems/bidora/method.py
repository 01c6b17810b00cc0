r"""BiDoRA (Qin, Zhang, Xie, arXiv 2410.09758): direction on D_train, magnitude on D_val.

A weight of DoRA is a magnitude for each of its vectors times their unit directions,

    W' = m * D,      D = (W0 + s B A) / ||W0 + s B A||,      s = alpha / r.

Learned together, both over-fit the same data; here each sees a part of its own:

    lower   V*(m) = argmin over A, B, head of  L(V, m; D_train) + gamma mean_k ||G_k - I||_F
    upper   min over m of  L(V*(m), m; D_val),

with G_k the Gram matrix of module k's unit vectors. Optionally (``retrain``) a new direction is
then trained on D_train + D_val at the magnitudes found.

The layers are PEFT's (``use_dora``) and so is what is saved. PEFT follows DoRA's section 4.3 and
keeps the norm ||W0 + s B A|| out of the gradient: the lower level's steps, and v = dL2/dV, follow a
gradient that takes the norm for a constant. What that makes of the hypergradient:

- ``unrolled`` differentiates these very steps. In one step (T1 = 1) the norm depends on no m, so
  the derivative of the step is exact; but the v that it is applied to lacks the norm's part, so
  the whole gradient is not (tests/problems/test_bidora.py has the difference to whole runs). Over
  more steps the norm's part of d2L1/dV2 is missing too. ``check_hypergradient`` says so.
- ``finite_difference`` sees the norm of the perturbed factors, so at T1 = 1 it has a part of the
  mixed derivative that the steps taken do not have.
- Direct partials are exact in all of them. ``alignment`` is for plain LoRA and refuses.

| choice | paper | released code | here (default) |
|---|---|---|---|
| D1 : D2 | not said | 0.8 : 0.2 | 0.8 (``split``) |
| vectors of a weight | columns | columns, one an input | rows, one an output, as PEFT |
| gradient of the norm | DoRA's | followed | left out, as PEFT and DoRA |
| scale of B A | alpha / r | 1 in the training forward | alpha / r; r 4, alpha 8 |
| penalty | mean of norms, full Gram | the same, 1e-5 | the same, 1e-5, through the norm too |
| start of A | not said | N(0, 1) | PEFT's Kaiming |
| optimisers | AdamW | betas (0.9, 0.98), eps 1e-6 | the same |
| weight decay below, above | not said | 0.1 below in 7 of 8 base scripts, 0 to 0.1 above | 0.1, 0 |
| lr below, above | not said | 1e-5 to 5e-5, the same in both | train.lr or 5e-4, above as below |
| schedules | not said | linear, 10 % warm-up | linear, 10 % warm-up |
| retraining | optional | some scripts; A, B, head anew, m fixed | off (``retrain``), as the code |
| T1, T2, hypergradient | Betty | 1, 1, darts | 1, 1, the job's |

The code's learning rates suit its training, which seems to leave the backbone trainable; 5e-4 is
LoRA's. Its decay of m is towards 0, not towards the pretrained magnitudes, so it is off here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from bilevel.errors import UserError
from bilevel.settings import Count, NonNegative, Positive, Rate
from problems import common
from problems.common import (
    ALONE,
    DVal,
    Job,
    Layout,
    Level,
    LowRankMethod,
    OptimizerSettings,
    Outcome,
    Stage,
    Training,
    TwoLevelMethod,
)

if TYPE_CHECKING:
    from peft import PeftModel

    from bilevel import Hypergradient

__all__ = ["BiDoRA"]


def _optimizer(weight_decay: float) -> partial[OptimizerSettings]:
    return partial(
        OptimizerSettings,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=weight_decay,
        warmup_ratio=0.1,
    )


@dataclass(frozen=True)
class BiDoRA(LowRankMethod, TwoLevelMethod):
    """DoRA whose direction and magnitude learn on different parts of the training data."""

    name: ClassVar[str] = "bidora"
    reads_weights: ClassVar[bool] = True
    inexact: ClassVar[str] = (
        "PEFT leaves the norm of the directions out of the gradient, so dL2/dV lacks a part"
    )
    rank: Count = 4
    """r, components of the direction's B A."""
    lora_alpha: Positive = 8.0
    """alpha; B A is scaled by alpha / r."""
    gamma: NonNegative = 1e-5
    """Weight of the directions' penalty. Its Gram matrices take some 6 d^3 operations a step in
    each d x d module (RoBERTa-base, 16 x 64 tokens, CPU: a sixth of the step); 0 leaves them out.
    """
    retrain: bool = False
    """Train a new direction and head on all of the data, at the magnitudes found."""
    retrain_lr: Rate | None = None
    """Learning rate of the retraining; null for the lower level's."""
    lower: OptimizerSettings = field(default_factory=_optimizer(0.1))
    """Of the direction and the head."""
    upper: OptimizerSettings = field(default_factory=_optimizer(0.0))
    """Of the magnitudes; lr null for the lower level's."""

    @property
    def needs_whole_base(self) -> str:
        """See :class:`Method`."""
        if self.gamma:
            return "reads the pretrained weights for its penalty; take method.gamma=0"
        return super().needs_whole_base

    def check_hypergradient(self, estimator: Hypergradient) -> None:
        """Any but the closed form, which is one of gated layers."""
        from bilevel.hypergradient import Alignment

        if isinstance(estimator, Alignment):
            raise UserError(
                "hypergradient=alignment needs gated LoRA layers, which method=bidora has not: "
                "use hypergradient=finite_difference"
            )

    def held_out(self, own: bool) -> DVal:
        """A retraining is on the training data alone."""
        return "apart" if own and self.retrain else super().held_out(own)

    def upper_variables(self, layout: Layout) -> int:
        """A magnitude for each output of each module."""
        return sum(layout.modules.values())

    def stages(self) -> Sequence[Stage]:
        """One stage, or with ``retrain`` two."""
        if not self.retrain:
            return (Stage("train", self.search),)
        return (Stage("search", self.search), Stage("retrain", self.retraining))

    def search(self, job: Job, found: None) -> Training:
        """Direction and head on D_train, magnitudes on D_val."""
        from problems.bidora import levels

        parts = self.parts(job)
        model = self._dora(job)
        vectors = levels.magnitudes(model)
        upper = list(vectors.parameters())
        lower = [p for p in common.trainable(model) if not any(p is m for m in upper)]
        layers = list(levels.dora_layers(model).values())
        start = [m.detach().clone() for m in upper]
        lr = self._lr(job)

        def finish(stats: dict[str, float]) -> Outcome | dict[str, Any]:
            outcome = Outcome(
                model=model,
                ranks=dict.fromkeys(levels.dora_layers(model), self.rank),
                trainable_parameters=common.count(lower) + common.count(upper),
                validation_loss=stats.get("validation_loss"),
                split=parts.sizes,
            )
            if not self.retrain:
                return outcome
            return {
                "magnitudes": [m.tolist() for m in levels.magnitudes(model).parameters()],
                "trainable_parameters": outcome.trainable_parameters,
                "validation_loss": outcome.validation_loss,
                "split": outcome.split,
            }

        return self.training(
            job,
            parts,
            Level(partial(levels.Directions, gamma=self.gamma), model, lower, self.lower, lr),
            Level(common.HeldOut, vectors, upper, self.upper, self.lower.lr or lr),
            self.steps(job),
            model,
            finish,
            watch=lambda: {
                "direction_residual": levels.direction_residual(layers),
                "magnitude_change": levels.relative_change(upper, start),
            },
        )

    def retraining(self, job: Job, found: dict[str, Any]) -> Training:
        """A new direction and head on all of the data, at the magnitudes found."""
        from problems.bidora import levels

        model = self._dora(job)
        levels.fix_magnitudes(model, found["magnitudes"])
        batches = common.loader(job)
        steps = common.total_steps(job, batches, job.settings.epochs)
        settings = replace(self.lower, lr=self.retrain_lr or self.lower.lr)
        problem = common.only_problem(
            levels.Directions,
            *(job, model, batches, settings, steps, self._lr(job)),
            gamma=self.gamma,
        )

        def finish(stats: dict[str, float]) -> Outcome:
            return Outcome(
                model=model,
                ranks=dict.fromkeys(levels.dora_layers(model), self.rank),
                trainable_parameters=found["trainable_parameters"],
                validation_loss=found["validation_loss"],
                split=dict(found["split"]),
            )

        return Training([problem], ALONE, steps, model, finish)

    def _lr(self, job: Job) -> float:
        return job.settings.lr if job.settings.lr is not None else 5e-4

    def _dora(self, job: Job) -> PeftModel:
        return common.with_lora(job, self.rank, self.lora_alpha, self.lora_dropout, use_dora=True)
