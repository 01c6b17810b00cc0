"""Configure problems and the engine: Betty's dataclasses with what Betty lacks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

from betty.configs import Config, EngineConfig

from bilevel.errors import UserError, listed
from bilevel.hypergradient.base import Hypergradient

__all__ = ["BilevelEngineConfig", "ProblemConfig"]

LOGGERS = ("none", "tensorboard", "wandb")


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
        initial_dynamic_scale: what fp16's losses are multiplied by at first, and ``scale_factor``
            how it grows. The default is PyTorch's 65536, not Betty's 4096, which a ``Config`` of
            Betty's brings along.
    """

    type: str = "unrolled"
    hypergradient: Hypergradient | None = None
    steps: int = 1
    maximize: bool = False
    initial_dynamic_scale: float = 2.0**16

    def __post_init__(self) -> None:
        _check_estimator(self.hypergradient, self.type)
        if self.hypergradient is not None:
            self.type = self.hypergradient.name
        for name, value in (
            ("unroll_steps", self.unroll_steps),
            ("steps", self.steps),
            ("gradient_accumulation", self.gradient_accumulation),
        ):
            _check_whole(name, value, 1)
        _check_whole("warmup_steps", self.warmup_steps, 0)
        if self.gradient_clipping < 0:
            raise UserError(
                f"gradient_clipping must be 0 (off) or a positive norm, got "
                f"{self.gradient_clipping}"
            )
        if not (self.initial_dynamic_scale > 0 and self.scale_factor > 1):
            raise UserError(
                "initial_dynamic_scale must be more than 0 and scale_factor more than 1, got "
                f"{self.initial_dynamic_scale} and {self.scale_factor}"
            )

    @classmethod
    def of(cls, config: Config) -> ProblemConfig:
        """``config`` itself, or Betty's own with our defaults for what Betty's has not."""
        if isinstance(config, ProblemConfig):
            return config
        if not isinstance(config, Config):
            raise UserError(f"config must be a ProblemConfig, got {config!r}")
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
        _check_whole("train_iters", self.train_iters, 0)
        _check_whole("valid_step", self.valid_step, 0)
        if self.logger_type not in LOGGERS:
            raise UserError(
                f"logger_type must be one of {listed(LOGGERS)}, got {self.logger_type!r}"
            )
        if self.shard not in (None, "base"):
            raise UserError(f"shard must be null or base, got {self.shard!r}")
        if self.offload and self.shard is None:
            raise UserError("offload=true keeps the parts of a sharded base: it needs shard=base")

    @classmethod
    def of(cls, config: EngineConfig) -> BilevelEngineConfig:
        """``config`` itself, or Betty's own with our defaults for what Betty's has not."""
        if isinstance(config, BilevelEngineConfig):
            return config
        if not isinstance(config, EngineConfig):
            raise UserError(f"config must be a BilevelEngineConfig, got {config!r}")
        return cls(**{field.name: vars(config)[field.name] for field in fields(EngineConfig)})


def _check_whole(name: str, value: Any, least: int) -> None:
    """Betty would count on with half a step, or fail far from where it was said."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise UserError(f"{name} must be a whole number, {least} or more, got {value!r}")


def _check_estimator(estimator: Any, name: Any) -> None:
    """An estimator is an object, and ``type`` is a name."""
    if not isinstance(name, str):
        raise UserError(f"type must be the name of a hypergradient, got {name!r}")
    if estimator is None or isinstance(estimator, Hypergradient):
        return
    if isinstance(estimator, str):
        hint = f"give the name as type={estimator!r}"
    elif isinstance(estimator, type):
        hint = f"give an instance, {estimator.__name__}()"
    else:
        hint = "give an instance of one of bilevel.hypergradient"
    raise UserError(f"hypergradient must be an estimator, got {estimator!r}: {hint}")
