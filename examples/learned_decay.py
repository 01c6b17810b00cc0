"""Learned decay: every LoRA layer's own weight decay, chosen on D_val.

lower   V*(w) = argmin over V of  L(V; D_train) + sum_l exp(w_l) ||s B_l A_l||_F^2
upper   min over w of  L(V*(w); D_val)
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

import problems
from bilevel.lowrank import lora_layers
from problems import Level, LowRankMethod, OptimizerSettings, Outcome, Stage, TwoLevelMethod


class Decayed(problems.FineTuning):
    """Lower level: the task's loss, and what the size of every layer's update costs."""

    def training_step(self, batch):
        updates = (m.get_delta_weight("default") for m in lora_layers(self.module).values())
        norms = torch.stack([update.square().sum() for update in updates])
        return super().training_step(batch) + (self.upper.module["log"].exp() * norms).sum()


@dataclass(frozen=True)
class LearnedDecay(LowRankMethod, TwoLevelMethod):
    """LoRA on D_train, a weight decay for each of its layers on D_val."""

    name: ClassVar[str] = "learned_decay"
    start: float = -6.0
    """w before the first step, the logarithm of every layer's decay."""
    upper: OptimizerSettings = field(default_factory=lambda: OptimizerSettings("adam", lr=0.05))
    """Of w."""

    def stages(self):
        return [Stage("train", self.prepare)]

    def prepare(self, job, found):
        model = problems.with_lora(job, self.rank, self.lora_alpha, self.lora_dropout)
        layers, weights = lora_layers(model), problems.trainable(model)
        decays = nn.ParameterDict({"log": torch.full((len(layers),), self.start)})
        lower = Level(Decayed, model, weights, OptimizerSettings(), job.settings.lr or 5e-4)
        upper = Level(problems.HeldOut, decays, [decays["log"]], self.upper, 0.05)
        parts = self.parts(job)

        def finish(evaluation):
            trained = problems.count([*weights, decays["log"]])
            return Outcome(model, dict.fromkeys(layers, self.rank), trained, split=parts.sizes)

        def watch():
            return {f"decay_{i}": w for i, w in enumerate(decays["log"].exp())}

        return self.training(job, parts, lower, upper, self.steps(job), model, finish, watch=watch)
