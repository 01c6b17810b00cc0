r"""Train AdaLoRA's triplets: the task's loss with the penalty, and PEFT's allocator of ranks.

L(P, Lambda, Q; D) + gamma R(P, Q)
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.adalora import AdaLoraLayer, AdaLoraModel
from torch import Tensor, nn

from bilevel.lowrank import orthogonality, plain_lora
from problems import common

__all__ = ["SingularTriplets", "SingularValues", "adalora_layers", "freeze_rank_counts"]

STATE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # the allocator's, parameter name -> tensor


class SingularTriplets(common.FineTuning):
    """The task's loss with the penalty; PEFT's allocator runs after every optimiser step."""

    def __init__(self, *args: Any, gamma: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma = gamma
        self.layers = adalora_layers(self.module)

    @property
    def tuner(self) -> AdaLoraModel:
        """PEFT's model, with its ``rankallocator``."""
        return cast(AdaLoraModel, self.module.base_model)

    @property
    def steps_taken(self) -> int:
        """Optimiser steps."""
        return self.count // self.gas

    def vectors(self) -> list[tuple[Tensor, Tensor]]:
        """(P, Q) of every layer."""
        return [lora_vectors(layer) for layer in self.layers.values()]

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """L + gamma R, the penalty in full precision."""
        loss = self.module.get_base_model()(**batch).loss
        if not self.gamma:
            return loss
        with common.full_precision(self):
            return loss + self.gamma * orthogonality(self.vectors(), squared=False)

    def param_callback(self) -> None:
        """Runs after every optimiser step, before the gradients go: update scores, mask Lambda."""
        if self.scaler is not None:
            # fp16: a step that was skipped has infinite gradients, which no score would forget.
            for p in self.trainable_parameters():
                if p.grad is not None:
                    p.grad.nan_to_num_(0.0, 0.0, 0.0)
        self.tuner.update_and_allocate(self.steps_taken)

    def budget(self) -> int:
        """b(t), components of all matrices together."""
        return int(self.tuner.rankallocator.budget_schedule(self.steps_taken)[0])

    def ranks(self) -> dict[str, int]:
        """Components of every layer whose lambda is not 0."""
        return {
            name: int((layer.lora_E["default"] != 0).sum()) for name, layer in self.layers.items()
        }

    def extra_state(self) -> dict[str, Any]:
        """Smoothed scores, and the mask of the final phase."""
        allocator = self.tuner.rankallocator
        return {
            "scores": {part: dict(getattr(allocator, part)) for part in STATE},
            "mask": allocator.peft_config.rank_pattern,
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take them back."""
        allocator = self.tuner.rankallocator
        for part in STATE:
            saved = {name: value.to(self.device) for name, value in state["scores"][part].items()}
            setattr(allocator, part, saved)
        allocator.peft_config.rank_pattern = state["mask"]

    @torch.no_grad()
    def rebuild(self) -> PeftModel:
        """Plain LoRA of the components whose lambda is not 0. Uses up this problem's model."""
        factors, scales = {}, {}
        for name, layer in self.layers.items():
            P, Q = lora_vectors(layer)
            Lambda = cast(Tensor, layer.lora_E["default"])
            alive = Lambda[:, 0] != 0
            factors[name] = ((Lambda * Q)[alive].clone(), P[:, alive].clone())
            scales[name] = layer.scaling["default"] / (float(layer.ranknum["default"]) + 1e-5)
        # Else PEFT cuts the tensors by its own pattern when it is asked for the head's.
        self.tuner.rankallocator.peft_config.rank_pattern = None
        return plain_lora(self.module, factors, scales)


class SingularValues:
    """Lambda of every layer, for drawing over the steps.

    Attributes:
        names: the layers.
    """

    def __init__(self, layers: dict[str, AdaLoraLayer]) -> None:
        self.names = list(layers)
        self._layers = list(layers.values())

    def values(self) -> Tensor:
        """The values now, (n, r_0)."""
        return torch.stack([layer.lora_E["default"][:, 0] for layer in self._layers])


def adalora_layers(model: PeftModel) -> dict[str, AdaLoraLayer]:
    """AdaLoRA layers by their name in the base model."""
    modules = model.get_base_model().named_modules()
    return {name: module for name, module in modules if isinstance(module, AdaLoraLayer)}


def freeze_rank_counts(model: PeftModel) -> None:
    """Train no ``ranknum``, the r_0 of a layer's scale alpha / r_0, which is a constant.

    PEFT makes it without gradient, but wraps it anew, with one, where it has to follow a base in
    another number format or on another device.
    """
    for layer in adalora_layers(model).values():
        cast(nn.ParameterDict, layer.ranknum).requires_grad_(False)


def lora_vectors(layer: AdaLoraLayer) -> tuple[Tensor, Tensor]:
    """P (out, r_0) and Q (r_0, in) of a layer."""
    return cast(Tensor, layer.lora_B["default"]), cast(Tensor, layer.lora_A["default"])
