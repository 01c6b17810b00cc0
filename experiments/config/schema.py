"""Say what every configuration has besides its method, task, model and hypergradient."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen

from bilevel.errors import UserError
from bilevel.settings import Count, Natural, NonNegative, Settings, defaults
from problems.common.records import TrainSettings

__all__ = [
    "CHOSEN",
    "GROUPS",
    "SECTIONS",
    "EngineOptions",
    "Root",
    "RunOptions",
    "TrainOptions",
    "root_defaults",
    "section_defaults",
]

Name = Annotated[str, MinLen(1)]

# Groups whose option names a class (``_target_``), of ours or of the user's.
GROUPS = ("method", "task", "model", "hypergradient")


@dataclass(frozen=True)
class EngineOptions(Settings):
    """How the machine does the work; none of it is part of a method."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of forward and backward passes; auto is bf16 where the hardware has it."""
    strategy: Literal["default", "cpu", "gpu"] = "default"
    """Which device: default takes the GPU if there is one, each process its own under torchrun."""
    shard: Literal["base"] | None = None
    """Under torchrun: base shares the frozen weights out over the processes, for a model that does
    not fit one of them; null keeps them whole in each."""
    offload: bool = False
    """With shard, keep each process's part in the CPU's memory, and on the GPU only what is in use.
    """
    evaluate_every: NonNegative = 1.0
    """Epochs between two evaluations during training; 0 for the end of a stage only."""
    evaluate_test: bool = False
    """Show the loss and the scores of the test set during training too, for a curve; validation
    data is shown in any case, and nothing is ever chosen by the test set."""
    evaluate_examples: Count | None = 512
    """Of each split, while training; null for all. Final scores always use all."""
    metrics_every: Count = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: Natural = 100
    """Steps between two checkpoints; 0 for none."""
    keep_checkpoints: Count = 2
    """How many of the newest checkpoints stay."""
    check_hypergradient_every: Natural = 0
    """Steps between two checks of the estimator against the exact value; 0 for none."""
    early_stopping: Natural = 0
    """Evaluations without a better score on validation data before a stage ends; 0 for never."""
    choose_by: str = "loss"
    """What early stopping and the best weights go by, on the validation data: loss, or one of the
    task's metrics."""
    cache_from: Natural | None = 50_000
    """Of data with more examples than this, examples and tokens lie on the disk and are mapped into
    memory; null keeps all in memory."""
    cache_dir: Name | None = None
    """Where tokens are kept, made once for all runs and processes; null for bilevel-finetuning in
    the user's cache folder."""
    keep: Literal["best", "last"] | None = None
    """The weights that a stage ends with: those of its best evaluation on validation data that none
    of its levels trains on, or the last ones; null for the best where there is such data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offload and self.shard is None:
            raise UserError(
                "engine.offload=true keeps the parts of a shared base in the CPU's memory: it "
                "needs engine.shard=base"
            )
        if self.shard is not None and self.check_hypergradient_every:
            raise UserError(
                "engine.check_hypergradient_every needs exact second derivatives, which "
                "engine.shard=base does not allow: take 0, and check a model that fits"
            )
        if self.evaluate_every:
            return
        if self.early_stopping:
            raise UserError(
                f"engine.early_stopping={self.early_stopping} counts evaluations, and "
                "engine.evaluate_every=0 makes none during training: give it a number of epochs"
            )
        if self.keep == "best":
            raise UserError(
                "engine.keep=best chooses among evaluations, and engine.evaluate_every=0 makes "
                "none during training: give it a number of epochs"
            )


@dataclass(frozen=True)
class TrainOptions(TrainSettings):
    """How long and in what portions to train, and where adapters go."""

    target_modules: Name | Annotated[list[Name], MinLen(1)] | None = None
    """Where adapters go: qv, all or a list of module names; null: the method's own, mostly qv."""

    def settings(self, precision: Any, model_lr: float | None) -> TrainSettings:
        """What a method is given.

        Args:
            precision: of the engine.
            model_lr: a learning rate that suits the model, where train.lr is not set.
        """
        values = {field.name: getattr(self, field.name) for field in fields(TrainSettings)}
        lr = model_lr if self.lr is None else self.lr
        return TrainSettings(**{**values, "precision": precision, "lr": lr})


@dataclass(frozen=True)
class RunOptions(Settings):
    """Of this run, not of its result."""

    resume: str | int | None = None
    """DIR of an interrupted run, or auto: the newest unfinished run of this configuration."""
    figures: bool = True
    """Draw the run's figures."""
    probe: bool = False
    """Fit method=linear_probe on the same data at the end and hold the scores against it: one pass
    over the data without training."""
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] | None = None
    """Trackers that follow the run, [tensorboard,wandb]; each needs its own package."""


@dataclass(frozen=True)
class Root(Settings):
    """What stands at the top of the configuration by itself."""

    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    """Of the split, the order of the data, new weights and dropout."""


SECTIONS: dict[str, type[Settings]] = {
    "train": TrainOptions,
    "engine": EngineOptions,
    "run": RunOptions,
}
# Options of a section that another place of the configuration says: engine.precision.
ELSEWHERE = {"train": ("precision",)}
CHOSEN = (*GROUPS, *SECTIONS)


def section_defaults(name: str) -> dict[str, Any]:
    """The defaults of ``train``, ``engine`` or ``run``, as plain values."""
    hidden = ELSEWHERE.get(name, ())
    return {key: value for key, value in defaults(SECTIONS[name]).items() if key not in hidden}


def root_defaults() -> dict[str, Any]:
    """What Hydra starts from: every option that does not depend on a group's choice."""
    sections = {name: section_defaults(name) for name in SECTIONS}
    return {**defaults(Root), **dict.fromkeys(GROUPS), **sections}
