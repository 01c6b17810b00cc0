r"""BiDoRA (Qin, Zhang, Xie, arXiv 2410.09758): DoRA's direction below, its magnitude above.

A weight of DoRA is a magnitude for each of its vectors times their unit directions,

    W' = m * D,      D = (W0 + s B A) / ||W0 + s B A||,      s = alpha / r.

Learned together, both over-fit the same data; here each sees a part of its own:

    lower   V*(m) = argmin over A, B, head of  L(V, m; D1) + gamma mean over modules ||G - I||_F
    upper   min over m of  L(V*(m), m; D2),

with G the Gram matrix of a module's unit vectors. Optionally (``retrain``) a new direction is then
trained on D1 + D2 at the magnitudes found.

The layers are PEFT's (``use_dora``) and so is what is saved. PEFT follows DoRA's section 4.3 and
keeps the norm ||W0 + s B A|| out of the gradient: the lower level's steps, and v = dL2/dV, follow a
gradient that takes the norm for a constant. What that makes of the hypergradient:

- ``unrolled`` differentiates these very steps. In one step (T1 = 1) the norm depends on no m, so
  the derivative of the step is exact. Over more steps the norm's part of d2L1/dV2 is missing.
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
from typing import Any, ClassVar, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import transpose
from torch import Tensor, nn

from bilevel import LowerProblem
from bilevel.errors import UserError
from bilevel.hypergradient import Alignment, Hypergradient
from problems.common.method import (
    FineTuning,
    Job,
    Outcome,
    StageRunner,
    check_lora,
    count,
    loader,
    problem_config,
    total_steps,
    trainable,
    with_lora,
)
from problems.common.optimizer_settings import (
    OptimizerSettings,
    check_range,
    optimizer_and_scheduler,
)
from problems.common.two_levels import HeldOut, Level, TwoLevelMethod, full_precision

__all__ = ["BiDoRA", "Directions", "direction_residual", "dora_layers", "magnitudes"]

ADAPTER = "default"


def dora_layers(model: PeftModel) -> dict[str, LoraLayer]:
    """The DoRA layers by their name in the base model."""
    return {
        name: module
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_magnitude_vector
    }


def magnitudes(model: PeftModel) -> nn.ModuleList:
    """The modules that own the magnitudes m, and nothing else, in the order of ``dora_layers``."""
    return nn.ModuleList(
        cast(nn.Module, layer.lora_magnitude_vector[ADAPTER])
        for layer in dora_layers(model).values()
    )


def direction_residual(layers: Sequence[LoraLayer]) -> Tensor:
    """Mean over modules of ||G - I||_F, G = D D^T the Gram matrix of the (out) unit vectors.

    ||G - I||_F^2 = ||G||_F^2 - 2 out + out, and ||D D^T||_F = ||D^T D||_F, so the Gram matrix of
    the smaller side is enough.
    """
    norms = []
    for layer in layers:
        base = layer.get_base_layer()
        W0 = transpose(dequantize_module_weight(base), cast(Any, layer).fan_in_fan_out)
        A, B = (cast(nn.Linear, part[ADAPTER]).weight for part in (layer.lora_A, layer.lora_B))
        D = nn.functional.normalize(W0.to(A) + layer.scaling[ADAPTER] * (B @ A), dim=1)
        gram = D @ D.T if D.shape[0] <= D.shape[1] else D.T @ D
        # At 0 (an orthogonal W0) the root has no gradient.
        norms.append((gram.square().sum() - len(D)).clamp_min(1e-12).sqrt())
    return torch.stack(norms).mean()


class Directions(FineTuning):
    """Lower level: L(V, m; D1) + gamma times the directions' penalty.

    Args:
        gamma: weight of the penalty.
    """

    def __init__(self, *args: Any, gamma: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma
        self._layers = list(dora_layers(self.module).values())

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss with its penalty, the latter in full precision."""
        loss = super().training_step(batch)
        if not self.gamma:
            return loss
        with full_precision(self):
            return loss + self.gamma * direction_residual(self._layers)


def _optimizer(weight_decay: float) -> partial[OptimizerSettings]:
    return partial(
        OptimizerSettings,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=weight_decay,
        warmup_ratio=0.1,
    )


@dataclass(frozen=True)
class BiDoRA(TwoLevelMethod):
    """DoRA whose direction and magnitude learn on different parts of the training data.

    Args:
        rank, lora_alpha, lora_dropout: of the direction's B A, as in LoRA.
        gamma: weight of the directions' penalty; its Gram matrices take some 6 d^3 operations a
            step in each d x d module (RoBERTa-base, 16 x 64 tokens, CPU: a sixth of the step);
            0 leaves them out.
        retrain: train a new direction and head on all of the data, at the magnitudes found.
        retrain_lr: its learning rate; None for the lower level's.
        split, unroll_steps, upper_steps, warmup_steps, roll_back: as in
            :class:`problems.common.two_levels.TwoLevelMethod`.
        lower, upper: optimisers of the direction and head, and of the magnitudes (lr None: the
            lower level's).
    """

    name: ClassVar[str] = "bidora"
    reads_weights: ClassVar[bool] = True
    rank: int = 4
    lora_alpha: float = 8.0
    lora_dropout: float = 0.0
    gamma: float = 1e-5
    retrain: bool = False
    retrain_lr: float | None = None
    lower: OptimizerSettings = field(default_factory=_optimizer(0.1))
    upper: OptimizerSettings = field(default_factory=_optimizer(0.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lora(self.rank, self.lora_dropout)
        check_range("gamma", self.gamma, self.gamma >= 0, "0 or more")
        lr = self.retrain_lr
        check_range("retrain_lr", lr, lr is None or lr > 0, "more than 0")

    def check_hypergradient(self, estimator: Hypergradient) -> None:
        """Any but the closed form, which is one of gated layers."""
        if isinstance(estimator, Alignment):
            raise UserError(
                "hypergradient=alignment needs gated LoRA layers, which method=bidora has not: "
                "use hypergradient=finite_difference"
            )

    def run(self, job: Job) -> Outcome:
        """One stage, or with ``retrain`` two."""
        if not self.retrain:
            return job.stage("train", lambda stage: self.search(job, stage), last=True)

        def plain(stage: StageRunner) -> dict[str, Any]:
            outcome = self.search(job, stage)
            return {
                "magnitudes": [m.tolist() for m in magnitudes(outcome.model).parameters()],
                "trainable_parameters": outcome.trainable_parameters,
                "validation_loss": outcome.validation_loss,
                "split": outcome.split,
            }

        found = job.stage("search", plain)
        outcome = job.stage(
            "retrain", lambda stage: self._retrain(job, stage, found["magnitudes"]), last=True
        )
        outcome.trainable_parameters = found["trainable_parameters"]
        outcome.validation_loss = found["validation_loss"]
        outcome.split = dict(found["split"])
        return outcome

    def search(self, job: Job, stage: StageRunner) -> Outcome:
        """Direction and head on D1, magnitudes on D2."""
        sides = self.sides(job)
        model = self._dora(job)
        above = magnitudes(model)
        upper = list(above.parameters())
        lower = [p for p in trainable(model) if not any(p is m for m in upper)]
        layers = list(dora_layers(model).values())
        start = [m.detach().clone() for m in upper]
        lr = self._lr(job)
        stats = self.train(
            job,
            stage,
            sides,
            Level(partial(Directions, gamma=self.gamma), model, lower, self.lower, lr),
            Level(HeldOut, above, upper, self.upper, self.lower.lr or lr),
            self.steps(job),
            model,
            watch=lambda: {
                "direction_residual": direction_residual(layers),
                "magnitude_change": _relative_change(upper, start),
            },
        )
        return Outcome(
            model=model,
            ranks=dict.fromkeys(dora_layers(model), self.rank),
            trainable_parameters=count(lower) + count(upper),
            validation_loss=stats.get("validation_loss"),
            split=sides.sizes,
        )

    def _retrain(self, job: Job, stage: StageRunner, found: list[list[float]]) -> Outcome:
        """A new direction and head on D1 + D2 at the magnitudes ``found``."""
        model = self._dora(job)
        with torch.no_grad():
            for m, values in zip(magnitudes(model).parameters(), found, strict=True):
                m.copy_(torch.tensor(values, dtype=m.dtype)).requires_grad_(False)
        parameters = trainable(model)
        batches = loader(job)
        steps = total_steps(job, batches, job.settings.epochs)
        settings = replace(self.lower, lr=self.retrain_lr or self.lower.lr)
        optimizer, schedule = optimizer_and_scheduler(
            settings, parameters, steps, self._lr(job), job.settings.warmup_steps
        )
        problem: LowerProblem = Directions(
            "lower",
            problem_config(job),
            module=model,
            optimizer=optimizer,
            scheduler=schedule,
            train_data_loader=batches,
            gamma=self.gamma,
        )
        stage.run([problem], {"u2l": {}, "l2u": {}}, steps, model)
        return Outcome(model, dict.fromkeys(dora_layers(model), self.rank), count(parameters))

    def _lr(self, job: Job) -> float:
        return job.settings.lr if job.settings.lr is not None else 5e-4

    def _dora(self, job: Job) -> PeftModel:
        return with_lora(job, self.rank, self.lora_alpha, self.lora_dropout, use_dora=True)


def _relative_change(now: list[nn.Parameter], start: list[Tensor]) -> Tensor:
    """Mean over modules of ||m - m0|| / ||m0||."""
    changes = [(m - m0.to(m)).norm() / m0.norm().to(m) for m, m0 in zip(now, start, strict=True)]
    return torch.stack(changes).mean()
