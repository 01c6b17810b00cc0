"""Types and choices of the configuration that every run has.

Hydra holds each value against these classes before anything else happens. The open groups (method,
task, model, hypergradient) are held against the signature of the class they name, see
:mod:`experiments.config.instantiate`.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from bilevel.errors import UserError
from bilevel.settings import Count, Natural, NonNegative, Settings

__all__ = [
    "Config",
    "Engine",
    "EngineOptions",
    "Precision",
    "Run",
    "Strategy",
    "Train",
    "check_ranges",
    "register",
]


class Precision(enum.Enum):
    """Of the forward and backward passes; trained parameters are always fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Strategy(enum.Enum):
    """Which device. Several processes: the engine in Python, :mod:`bilevel.distributed`."""

    default = "default"
    cpu = "cpu"
    gpu = "gpu"


@dataclass(frozen=True)
class EngineOptions(Settings):
    """How the machine does the work; none of it is part of a method."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward and backward passes; auto is bf16 where the hardware has it."""
    strategy: Literal["default", "cpu", "gpu"] = "default"
    """Which device: the GPU if there is one, or as it says."""
    evaluate_every: NonNegative = 1.0
    """Epochs between two evaluations during training; 0 for the end of a stage only."""
    evaluate_examples: Count | None = 512
    """Examples of each split in an evaluation during training; null for all of them."""
    metrics_every: Count = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: Natural = 100
    """Steps between two checkpoints; 0 for none."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that are kept."""
    check_hypergradient_every: Natural = 0
    """Steps between two checks of the estimator against the exact value; 0 for none."""
    early_stopping: Natural = 0
    """Evaluations without a better validation loss before a stage ends; 0 for never."""


@dataclass
class Engine:
    """How the machine does the work; comments are in conf/engine/default.yaml."""

    precision: Precision = MISSING
    strategy: Strategy = MISSING
    evaluate_every: float = MISSING
    evaluate_examples: int | None = MISSING
    metrics_every: int = MISSING
    checkpoint_every: int = MISSING
    keep_checkpoints: int = MISSING
    check_hypergradient_every: int = MISSING
    early_stopping: int = MISSING


@dataclass
class Train:
    """How long and in what portions to train; comments are in conf/config.yaml."""

    epochs: float = MISSING
    max_steps: int | None = MISSING
    batch_size: int = MISSING
    gradient_accumulation: int = MISSING
    gradient_clipping: float = MISSING
    group_by_length: bool = MISSING
    lr: float | None = MISSING
    warmup_steps: int | None = MISSING
    label_smoothing: float = MISSING
    target_modules: Any = MISSING  # str, list of str or None


@dataclass
class Run:
    """Of this run, not of its result."""

    resume: str | None = MISSING
    figures: bool = MISSING


@dataclass
class Config:
    """The root of the configuration."""

    seed: int = MISSING
    method: Any = MISSING
    task: Any = MISSING
    model: Any = MISSING
    hypergradient: Any = MISSING
    train: Train = field(default_factory=Train)
    engine: Engine = field(default_factory=Engine)
    run: Run = field(default_factory=Run)


def register() -> None:
    """Enter the schema where conf/config.yaml looks for it."""
    ConfigStore.instance().store(name="schema", node=Config)


LEAST = {
    "train.batch_size": 1,
    "train.gradient_accumulation": 1,
    "train.max_steps": 1,
    "train.warmup_steps": 0,
    "train.gradient_clipping": 0,
    "engine.evaluate_every": 0,
    "engine.evaluate_examples": 1,
    "engine.metrics_every": 1,
    "engine.checkpoint_every": 0,
    "engine.keep_checkpoints": 1,
    "engine.check_hypergradient_every": 0,
    "engine.early_stopping": 0,
}
POSITIVE = ("train.epochs", "train.lr")


def check_ranges(config: Any) -> None:
    """Raise UserError for a number that is too small, or targets that are no names."""

    def value(key: str) -> Any:
        group, name = key.split(".")
        return config[group][name]

    for key, least in LEAST.items():
        if value(key) is not None and not least <= value(key) < math.inf:
            raise UserError(f"{key}={value(key)}: this must be {least} or more")
    for key in POSITIVE:
        if value(key) is not None and not 0 < value(key) < math.inf:
            raise UserError(f"{key}={value(key)}: this must be more than 0, and finite")
    if not 0 <= config.train.label_smoothing < 1:
        raise UserError(
            f"train.label_smoothing={config.train.label_smoothing}: this must be in [0, 1)"
        )
    if config.seed < 0:
        raise UserError(f"seed={config.seed}: this must be 0 or more")
    targets = config.train.target_modules
    if targets is None:
        return
    names = [targets] if isinstance(targets, (str, int, float)) else list(targets)
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"train.target_modules={targets}: this must be qv, all or a list of module names"
        )
