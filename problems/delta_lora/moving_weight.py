"""Let Delta-LoRA's weight follow the product, in two ways; see :mod:`problems.delta_lora.method`.

W_t = W_0 + lambda s (B_t A_t - B_K A_K)        after every step t > K
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bilevel.errors import UserError
from bilevel.lowrank import plain_lora
from bilevel.lowrank.layers import down_and_up, lora_factors, lora_layers, lora_scales
from bilevel.replay.random_state import RandomState
from problems import common

__all__ = ["MODES", "Factored", "InPlace", "MovingWeight"]

Factors = dict[str, tuple[Tensor, Tensor]]  # layer name -> A (r, in), B (out, r)

MOVED = "delta"  # the adapter that stands for W - W_0 in factored mode


class MovingWeight(common.FineTuning):
    """LoRA's loss; after optimiser step ``start_step`` the weights follow the product.

    Args:
        ratio: lambda. start_step: K, optimiser steps of plain LoRA.

    Attributes:
        start: layer -> (A_K, B_K); None before step K.
    """

    def __init__(self, *args: Any, ratio: float, start_step: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ratio = ratio
        self.start_step = start_step
        self.layers = lora_layers(self.module)
        self.start: Factors | None = None

    def initialize(self) -> None:
        """Set up; with K = 0 the weights move from the first step."""
        super().initialize()
        if self.start_step == 0:
            self.begin(self.factors())

    def factors(self) -> Factors:
        """Copies of A and B of every layer."""
        return {name: lora_factors(layer) for name, layer in self.layers.items()}

    @torch.no_grad()
    def param_callback(self) -> None:
        """Runs after every optimiser step: remember the factors at step K, move W after it."""
        if self.start is not None:
            self.move()
        elif self.count // self.gas == self.start_step:
            self.begin(self.factors())

    def begin(self, start: Factors) -> None:
        """Take A_K and B_K."""
        self.start = start

    def move(self) -> None:
        """Let W follow the step that A and B have just taken."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        """A_K and B_K."""
        return {"start": self.start}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.start = None
        if state["start"] is not None:
            now = self.factors()
            saved = {n: (A.to(now[n][0]), B.to(now[n][1])) for n, (A, B) in state["start"].items()}
            self.begin(saved)

    def rebuild(self) -> PeftModel:
        """Plain LoRA on W_0: A'' = [A_T; A_K], B'' = [(1 + lambda) B_T, -lambda B_K].

        Uses up this problem's model.
        """
        found = self.factors()
        if self.start is not None and self.count // self.gas > self.start_step:
            for name, (A, B) in found.items():
                A_K, B_K = self.start[name]
                B = (1 + self.ratio) * B
                if B_K.any():  # zero with K = 0
                    A, B = torch.cat([A, A_K]), torch.cat([B, -self.ratio * B_K], dim=1)
                found[name] = (A, B)
        return plain_lora(self.module, found, lora_scales(self.module))


class Factored(MovingWeight):
    """W_0 stays; a frozen adapter of rank 2r is lambda s (B A - B_K A_K)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # PEFT draws first values for the new factors; they are overwritten, and nothing after
        # them should be drawn otherwise than in LoRA.
        with RandomState.capture().replayed():
            for layer in self.layers.values():
                A, _ = down_and_up(layer)
                rank = 2 * layer.r["default"]
                layer.update_layer(MOVED, rank, lora_alpha=rank, config=LoraConfig(r=rank))
                layer.scaling[MOVED] = layer.scaling["default"]
                for part in down_and_up(layer, MOVED):
                    part.to(A.weight).requires_grad_(False)

    def begin(self, start: Factors) -> None:
        """From now on the second adapter takes part in the forward pass."""
        super().begin(start)
        for layer in self.layers.values():
            # Layer by layer: PEFT's own switch refuses two adapters beside a trained head.
            layer.set_adapter(["default", MOVED])
            for part in down_and_up(layer, MOVED):
                part.requires_grad_(False)
        self.move()

    @torch.no_grad()
    def move(self) -> None:
        """A' = [A; A_K], B' = [lambda B, -lambda B_K]."""
        assert self.start is not None
        for name, layer in self.layers.items():
            A, B = (part.weight for part in down_and_up(layer))
            A_K, B_K = self.start[name]
            down, up = down_and_up(layer, MOVED)
            down.weight.copy_(torch.cat([A, A_K]))
            up.weight.copy_(torch.cat([self.ratio * B, -self.ratio * B_K], dim=1))

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take it back, also that of a step before the weights moved."""
        for layer in self.layers.values():
            layer.set_adapter("default")
        super().load_extra_state(state)


class InPlace(MovingWeight):
    """W itself moves, as published."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, layer in self.layers.items():
            _check_plain(name, layer.get_base_layer())
        self.weights: dict[str, Tensor] = {}
        self.masters: dict[str, Tensor] = {}
        self.untouched: dict[str, Tensor] = {}
        self.before: Factors = {}

    def initialize(self) -> None:
        """Set up; only then is the model on its device."""
        super().initialize()
        for name, layer in self.layers.items():
            weight = cast(Tensor, layer.get_base_layer().weight).detach()
            self.weights[name] = weight
            self.masters[name] = _at_least_fp32(weight)
            self.untouched[name] = weight.clone()

    def begin(self, start: Factors) -> None:
        """Take A_K and B_K, from which the first difference is made."""
        super().begin(start)
        self.before = self.factors()

    @torch.no_grad()
    def move(self) -> None:
        """W <- W + lambda s (B_t A_t - B_{t-1} A_{t-1})."""
        for name, layer in self.layers.items():
            A, B = lora_factors(layer)
            A_before, B_before = self.before[name]
            self.before[name] = (A, B)
            difference = B @ A - B_before @ A_before
            if isinstance(layer.get_base_layer(), Conv1D):  # which keeps W transposed
                difference = difference.T
            master = self.masters[name]
            master.add_(difference.to(master), alpha=self.ratio * layer.scaling["default"])
            self._write(name)

    def _write(self, name: str) -> None:
        weight, master = self.weights[name], self.masters[name]
        if weight.dtype != master.dtype:
            weight.copy_(master)

    def extra_state(self) -> dict[str, Any]:
        """The moved weights too."""
        return super().extra_state() | {"masters": dict(self.masters)}

    @torch.no_grad()
    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take them back."""
        super().load_extra_state(state)
        for name, master in state["masters"].items():
            self.masters[name].copy_(master)
            self._write(name)

    @torch.no_grad()
    def rebuild(self) -> PeftModel:
        """Put W_0 back first."""
        for name, weight in self.weights.items():
            weight.copy_(self.untouched[name])
        return super().rebuild()


MODES: Mapping[str, type[MovingWeight]] = {"factored": Factored, "in_place": InPlace}


def _check_plain(name: str, base: nn.Module) -> None:
    """Raise UserError unless a layer's weight is a matrix of floating-point numbers."""
    weight = base.weight
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise UserError(
            f"method.mode=in_place cannot move the weight of {name}, which is quantised: take "
            "method.mode=factored"
        )


def _at_least_fp32(weight: Tensor) -> Tensor:
    return weight.float() if weight.element_size() < 4 else weight
