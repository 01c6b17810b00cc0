r"""Learned settings: LoRA's decays, rates, scales, dropout, smoothing, temperature chosen on D_val.

    lower   V*(E) = V after T1 steps of Phi(.; h(E)) on  L1(V, E; D_train)
    upper   min over E of  L2(V*(E), E; D_val), the plain loss in evaluation mode

    L1 = L_eps(V; D_train) + sum_m decay_m || c_m s B_m A_m ||_F^2        (problems/lora_settings)

E holds one number for each setting and group of modules. Decays, dropout and smoothing stand in L1,
learning-rate factors and weight decays in the update map Phi alone: all of them reach L2 through V
only. Scales c and the temperature are part of the model, so they stand in L1 and in L2 (a direct
partial).
Lorraine, Vicol, Duvenaud (AISTATS 2020) and Clarke, Oldewage, Hernandez-Lobato (ICLR 2022) learn
such settings by approximate implicit gradients, the latter rates too; here the gradient through the
T1 steps is exact (``hypergradient=unrolled``), and knows nothing of the steps after them: not, for
one, when to stop.

Three stages: search on D_train and D_val, whose end says the values; LoRA from scratch on D_train
with them, stopped early on D_val, which says for how many passes; then LoRA from scratch on all of
the data with both, by ``method=lora`` with ``settings``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import MinLen

from bilevel.errors import UserError
from bilevel.settings import Count, Natural, from_values, plain
from problems import common
from problems.common import (
    DVal,
    Job,
    Layout,
    Level,
    LowRankMethod,
    OptimizerSettings,
    Outcome,
    Stage,
    Training,
    TrainSettings,
    TwoLevelMethod,
)
from problems.common.two_levels import check_acts_through_weights
from problems.learned_settings.groups import Granularity, groups_of, labels_of
from problems.learned_settings.starts import Starts
from problems.learned_settings.table import table
from problems.lora import DEFAULT_LR, LoRA, check_smoothed_once
from problems.lora_settings.record import OF_STEPS, ModuleSettings, SettingName

if TYPE_CHECKING:
    from bilevel import Hypergradient

__all__ = ["LearnedSettings", "Names", "check_names", "retrained"]

log = logging.getLogger(__name__)

Names = Annotated[tuple[SettingName, ...], MinLen(1)]


@dataclass(frozen=True)
class LearnedSettings(LowRankMethod, TwoLevelMethod):
    """LoRA's settings on two levels, then LoRA with them on all of the training data."""

    name: ClassVar[str] = "learned_settings"
    splits_fused: ClassVar[bool] = True
    learn: Names = ("decay", "learning_rate")
    """Which settings: decay, learning_rate, weight_decay, scale, dropout (Gaussian in the
    search), label_smoothing, temperature."""
    granularity: Granularity = "module"
    """One number for each adapted module, for each kind of module (query, value), for each layer,
    or for all; label_smoothing and temperature are one for all."""
    starts: Starts = field(default_factory=Starts)
    """Of the settings."""
    unroll_steps: Count = 4
    """T1, lower steps before every upper one."""
    patience: Natural = 3
    """Evaluations on D_val without a smaller loss that end the training that finds for how many
    passes the settings are good; 0 for train.epochs, without that training."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=None, weight_decay=0.1)
    )
    """Of the factors and the head, in both stages; as of method=lora."""
    upper: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(name="adam", lr=0.05, schedule="constant")
    )
    """Of E: logarithms and logits, so a step of Adam's changes a value by about lr of itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.learn, self.lora_dropout, "learn")

    def check_hypergradient(self, estimator: Hypergradient) -> None:
        """Most settings have no direct partial; those of steps need an estimator that knows Phi.

        Raises:
            UserError: E would stay where it is, or a part of it would.
        """
        check_acts_through_weights(estimator, self.name, "the settings")
        of_steps = [name for name in self.learn if name in OF_STEPS]
        if of_steps and not estimator.knows_step_settings:
            raise UserError(
                f"hypergradient={estimator.name} cannot learn the setting {of_steps[0]}, which "
                "acts through the optimiser's steps: take hypergradient=unrolled, or leave it out "
                "of method.learn"
            )

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """Labels are smoothed by one number.

        Raises:
            UserError: ``train.label_smoothing`` is given too; or as of every two-level method.
        """
        check_smoothed_once("label_smoothing" in self.learn, settings)
        super().check_steps(examples, settings)

    def upper_variables(self, layout: Layout) -> int:
        """One for each setting and group."""
        groups = groups_of(list(layout.modules), self.granularity)
        labels = labels_of(self.learn, groups, layout.head)
        return sum(map(len, labels.values()))

    def held_out(self, own: bool) -> DVal:
        """The retraining is on the training data alone."""
        return "apart" if own else "trained_on"

    def stages(self) -> Sequence[Stage]:
        """Search the settings, then the passes; then train with both on all of the data."""
        time = (Stage("stop", self.stop),) if self.patience else ()
        return (Stage("search", self.search), *time, Stage("train", self.train))

    def search(self, job: Job, found: None) -> Training:
        """Stage 1: factors and head on D_train, settings on D_val."""
        from bilevel import lowrank
        from problems.learned_settings.variables import Variables
        from problems.lora_settings import SetFineTuning, by_group, check_answers, follow

        check_answers(job, self.learn)
        parts = self.parts(job)
        model = common.with_lora(job, self.rank, self.lora_alpha, self.lora_dropout)
        modules = list(lowrank.lora_layers(model))
        groups = groups_of(modules, self.granularity)
        variables = Variables(self.learn, groups, bool(job.head_modules), self.starts)
        follow(model, variables, job)
        weights = common.trainable(model)
        parameters: Any = weights
        first_of: list[str] = []
        if set(self.learn) & set(OF_STEPS):
            members = by_group(model, groups)
            parameters = [{"params": each} for each in members.values()]
            first_of = [next((m for m in modules if groups[m] == g), g) for g in members]
        lower = partial(SetFineTuning, values=variables, groups=first_of)
        lr = job.settings.lr if job.settings.lr is not None else DEFAULT_LR

        def finish(stats: dict[str, float]) -> dict[str, Any]:
            learned = variables.learned()
            log.info("learned settings\n%s", table(learned))
            return {
                "settings": plain(learned),
                "trainable_parameters": common.count([*weights, *variables.parameters()]),
                "validation_loss": stats.get("validation_loss"),
                "split": parts.sizes,
            }

        def watch() -> dict[str, Any]:
            return {
                f"{name}_{label}": value
                for name in self.learn
                for label, value in zip(variables.labels(name), variables.values(name), strict=True)
            }

        return self.training(
            job,
            parts,
            Level(lower, model, parameters, self.optimizer, lr),
            Level(
                common.EvaluatedHeldOut, variables, list(variables.parameters()), self.upper, 0.05
            ),
            self.steps(job),
            model,
            finish,
            watch=watch,
        )

    def stop(self, job: Job, found: dict[str, Any]) -> Training:
        """Stage 2: LoRA from scratch on D_train with the settings found, stopped early on D_val."""
        lora = replace(self._lora(found), hold_out=0.0 if self.split is None else 1 - self.split)
        training = lora.prepare(job, None)

        def finish(stats: dict[str, float]) -> dict[str, Any]:
            steps = int(stats.get("kept_step", training.steps))
            passes = steps / common.steps_per_epoch(job, self.parts(job).lower)
            log.info("these settings are taken; passes over D_train: %.3g", passes)
            return {**found, "passes": passes, "validation_loss": stats["validation_loss"]}

        return replace(training, finish=finish, patience=self.patience)

    def train(self, job: Job, found: dict[str, Any]) -> Training:
        """Stage 3: LoRA from scratch on all of the training data, with the settings found."""
        return retrained(job, self._lora(found), found, found.get("passes"))

    def _lora(self, found: dict[str, Any]) -> LoRA:
        return LoRA(
            rank=self.rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            optimizer=self.optimizer,
            settings=from_values(ModuleSettings, found["settings"], "settings"),
        )


def check_names(names: Sequence[str], lora_dropout: float, option: str) -> None:
    """Refuse names that are given twice, and two dropouts.

    Raises:
        UserError: which.
    """
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise UserError(f"method.{option} names {twice[0]} twice")
    if "dropout" in names and lora_dropout:
        raise UserError(
            f"method.lora_dropout={lora_dropout:g} and dropout in method.{option} are one setting: "
            "leave one of them out"
        )


def retrained(job: Job, lora: LoRA, found: dict[str, Any], epochs: float | None = None) -> Training:
    """LoRA as it was found, on all of the training data; the outcome tells its options.

    Args:
        job: whose data.
        lora: with the settings found.
        found: by the search.
        epochs: passes; None for the job's.
    """
    training = lora.trained(job, job.settings.epochs if epochs is None else epochs)

    def finish(stats: dict[str, float]) -> Outcome:
        outcome: Outcome = training.finish(stats)
        split = dict(found["split"])
        changes = {"split": split, "validation_trained_on": True, "lora": lora.given()}
        return outcome.after(found, validation_stage=found.get("stage"), **changes)

    return replace(training, finish=finish)
