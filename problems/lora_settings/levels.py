r"""Train LoRA with settings for each module: the penalty in the loss, the rates in the optimiser.

    L1(V) = L(V; D_train) + sum_m decay_m || c_m s_m B_m A_m ||_F^2

where s = alpha / r, and c multiplies alpha. ||B A||^2 = <B^T B, A A^T>, without forming B A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from bilevel.lowrank import lora_layers
from bilevel.lowrank.layers import down_and_up
from bilevel.step_settings import StepSettings
from problems import common
from problems.lora_settings.record import HEAD, Values

__all__ = ["SetFineTuning", "by_group"]


class SetFineTuning(common.FineTuning):
    """The task's loss, and what the size of every module's update costs.

    Args:
        values: decays, scales and learning rates to follow.
        groups: for each param group whose steps an upper level decides, a module of it (or
            ``head``); none where the groups have their rates and decays already.
    """

    def __init__(
        self, *args: Any, values: Values, groups: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.values = values
        self.groups = list(groups)
        self.decayed = {
            name: (float(layer.scaling["default"]), *down_and_up(layer))
            for name, layer in lora_layers(self.module).items()
            if values.of("decay", name) is not None
        }

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss with its penalty, the latter in full precision."""
        loss = super().training_step(batch)
        if not self.decayed:
            return loss
        with common.full_precision(self):
            return loss + self.penalty()

    def penalty(self) -> Tensor:
        """sum_m decay_m || c_m s_m B_m A_m ||_F^2."""
        terms = []
        for name, (scaling, down, up) in self.decayed.items():
            A, B = down.weight, up.weight
            factor, decay = self.values.of("scale", name), self.values.of("decay", name)
            assert decay is not None
            scale = scaling if factor is None else scaling * factor
            square = ((B.T @ B) * (A @ A.T)).sum()
            terms.append(decay * scale**2 * square)
        return torch.stack(terms).sum()

    def step_settings(self) -> Sequence[StepSettings]:
        """The factor of each group's learning rate, and its weight decay."""
        found = []
        for name in self.groups:
            factor = self.values.of("learning_rate", name)
            decay = self.values.of("weight_decay", name)
            assert factor is None or isinstance(factor, Tensor)
            assert decay is None or isinstance(decay, Tensor)
            found.append(StepSettings(lr=factor, weight_decay=decay))
        return found


def by_group(model: PeftModel, groups: Mapping[str, str]) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters by the group of their module.

    Args:
        model: with LoRA.
        groups: module -> its group.

    Returns:
        Group -> parameters, in the model's order; what belongs to no module is in ``head``.
    """
    of_module = {
        id(parameter): groups[name]
        for name, layer in lora_layers(model).items()
        for part in down_and_up(layer)
        for parameter in part.parameters()
    }
    found: dict[str, list[nn.Parameter]] = {}
    for parameter in common.trainable(model):
        found.setdefault(of_module.get(id(parameter), HEAD), []).append(parameter)
    return found
