r"""Train BiDoRA's directions under a penalty; its magnitudes learn by the loss on D_val alone.

lower   L(V, m; D_train) + gamma mean over modules ||G - I||_F
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import transpose
from torch import Tensor, nn

from problems import common

__all__ = [
    "Directions",
    "direction_residual",
    "dora_layers",
    "fix_magnitudes",
    "magnitudes",
    "relative_change",
]

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


@torch.no_grad()
def fix_magnitudes(model: PeftModel, values: Sequence[Sequence[float]]) -> None:
    """Set the magnitudes, a list of each module's, and train them no more."""
    for m, given in zip(magnitudes(model).parameters(), values, strict=True):
        m.copy_(torch.tensor(given, dtype=m.dtype)).requires_grad_(False)


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


class Directions(common.FineTuning):
    """Lower level: L(V, m; D_train) + gamma times the directions' penalty.

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
        with common.full_precision(self):
            return loss + self.gamma * direction_residual(self._layers)


def relative_change(now: list[nn.Parameter], start: list[Tensor]) -> Tensor:
    """Mean over modules of ||m - m0|| / ||m0||."""
    changes = [(m - m0.to(m)).norm() / m0.norm().to(m) for m, m0 in zip(now, start, strict=True)]
    return torch.stack(changes).mean()
