"""Configure problems and the engine: Betty's dataclasses with what Betty lacks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from betty.configs import Config, EngineConfig

from bilevel.errors import UserError

if TYPE_CHECKING:
    from bilevel.hypergradient.base import Hypergradient

__all__ = ["BilevelEngineConfig", "ProblemConfig"]


@dataclass
class ProblemConfig(Config):
    """Betty's ``Config`` plus what a problem of ours can do.

    Betty's fields keep their meaning; ``unroll_steps`` is T1, counted in optimiser steps, and
    ``warmup_steps`` counts optimiser steps before the first upper step.

    Attributes:
        hypergradient: how upper levels differentiate through *this* problem; sets ``type``.
        type: the estimator by name, with default options. Betty's ``darts`` draws new dropout masks
            in each of its passes and knows no learning rate, hence another default.
        steps: T2, optimiser steps that this problem takes each time the lower levels are done.
        maximize: ascend the loss instead of descending it (a Lagrange multiplier, say).
        precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``; trainable parameters stay as given.
    """

    type: str = "unrolled"
    hypergradient: Hypergradient | None = None
    steps: int = 1
    maximize: bool = False

    def __post_init__(self) -> None:
        if self.hypergradient is not None:
            self.type = self.hypergradient.name
        for name, value in (
            ("unroll_steps", self.unroll_steps),
            ("steps", self.steps),
            ("gradient_accumulation", self.gradient_accumulation),
        ):
            if int(value) < 1:
                raise UserError(f"{name} must be 1 or more, got {value}")
        if self.warmup_steps < 0:
            raise UserError(f"warmup_steps must be 0 or more, got {self.warmup_steps}")
        if self.gradient_clipping < 0:
            raise UserError(
                f"gradient_clipping must be 0 (off) or a positive norm, got "
                f"{self.gradient_clipping}"
            )

    @classmethod
    def of(cls, config: Config) -> ProblemConfig:
        """``config`` itself, or Betty's own with our defaults for what Betty's has not."""
        if isinstance(config, ProblemConfig):
            return config
        return cls(**{field.name: vars(config)[field.name] for field in fields(Config)})


@dataclass
class BilevelEngineConfig(EngineConfig):
    """Betty's ``EngineConfig``; ``train_iters`` and ``valid_step`` count global steps.

    A global step is T1 lower steps followed by T2 upper steps.

    Attributes:
        backend: process-group backend; ``auto`` takes nccl on GPUs and gloo on CPUs.
        shard: ``base`` shares the frozen weights out over the processes; None keeps them whole.
        offload: with ``shard``, keep each process's part in the CPU's memory.
        verbose: let Betty's own logger print its notes about the problem graph.
        early_stopping_start: global steps before the first validation that counts for it.
    """

    train_iters: int = 1000
    valid_step: int = 0
    backend: str = "auto"
    shard: str | None = None
    offload: bool = False
    verbose: bool = False
    early_stopping_start: int = 0

    def __post_init__(self) -> None:
        if self.shard not in (None, "base"):
            raise UserError(f"shard must be null or base, got {self.shard!r}")
        if self.offload and self.shard is None:
            raise UserError("offload=true keeps the parts of a sharded base: it needs shard=base")

    @classmethod
    def of(cls, config: EngineConfig) -> BilevelEngineConfig:
        """``config`` itself, or Betty's own with our defaults for what Betty's has not."""
        if isinstance(config, BilevelEngineConfig):
            return config
        return cls(**{field.name: vars(config)[field.name] for field in fields(EngineConfig)})
