"""Learned decay: every LoRA layer's own weight decay, chosen on D_val.

lower   V*(w) = argmin over V of  L(V; D_train) + sum_l exp(w_l) ||s B_l A_l||_F^2
upper   min over w of  L(V*(w); D_val)
"""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from bilevel.lowrank import lora_layers
from problems.common.method import FineTuning, Outcome, add_lora, count, trainable
from problems.common.optimizer_settings import OptimizerSettings
from problems.common.two_levels import HeldOut, Level, TwoLevelMethod


class Decays(nn.Module):
    def __init__(self, layers, start):
        super().__init__()
        self.log = nn.Parameter(torch.full((layers,), start))


class Decayed(FineTuning):
    def training_step(self, batch):
        updates = (m.get_delta_weight("default") for m in lora_layers(self.module).values())
        norms = torch.stack([update.square().sum() for update in updates])
        return super().training_step(batch) + (self.upper.module.log.exp() * norms).sum()


@dataclass(frozen=True)
class LearnedDecay(TwoLevelMethod):
    name: ClassVar[str] = "learned_decay"
    rank: int = 8
    start: float = -6.0
    upper: OptimizerSettings = field(default_factory=partial(OptimizerSettings, "adam", lr=0.05))

    def run(self, job):
        return job.stage("train", partial(self.fit, job), last=True)

    def fit(self, job, stage):
        model = add_lora(job, job.build_model(), r=self.rank, lora_alpha=16)
        weights, decays = trainable(model), Decays(len(lora_layers(model)), self.start)
        below = Level(Decayed, model, weights, OptimizerSettings(), job.settings.lr or 5e-4)
        above = Level(HeldOut, decays, [decays.log], self.upper, 0.05)
        watch = lambda: {f"decay_{i}": w for i, w in enumerate(decays.log.exp())}  # noqa: E731
        sides = self.sides(job)
        self.train(job, stage, sides, below, above, self.steps(job), model, watch=watch)
        ranks = dict.fromkeys(lora_layers(model), self.rank)
        return Outcome(model, ranks, count(weights) + len(decays.log), split=sides.sizes)
