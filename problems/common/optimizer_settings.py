"""Name an optimiser and its schedule; :mod:`problems.common.build_optimizer` makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bilevel.settings import NonNegative, Rate, Settings, Share, UnitInterval

__all__ = ["OptimizerSettings"]


@dataclass(frozen=True)
class OptimizerSettings(Settings):
    """An optimiser with its schedule."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """The optimiser, one of torch.optim's."""
    lr: Rate | None = None
    """Learning rate; null takes the job's."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Smoothing of the gradient and of its square, in Adam and AdamW."""
    eps: NonNegative = 1e-8
    """What Adam and AdamW add to the root of the smoothed square."""
    momentum: Share = 0.0
    """Momentum of SGD."""
    weight_decay: NonNegative = 0.0
    """Decoupled for adamw, L2 otherwise."""
    schedule: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
        "constant",
        "constant_with_warmup",
    ] = "linear"
    """How the learning rate goes on after the warm-up, one of transformers' schedules."""
    warmup_ratio: UnitInterval = 0.06
    """Share of the steps in which the learning rate rises from 0; where it is more than 0,
    train.warmup_steps takes precedence over it."""
