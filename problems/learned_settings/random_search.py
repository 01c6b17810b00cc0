r"""Search LoRA's settings at random: the competitor of learning them, in a processor time given.

Every trial draws all settings anew,

    decay, learning_rate, weight_decay, scale, temperature  log-uniform
    dropout, label_smoothing                                uniform

trains LoRA with them on D_train, and stops as soon as ``patience`` evaluations on D_val have not
been better. A trial whose loss is no number any more is lost (of several processes it ends the
search). The settings of the trial that was best on D_val, by its loss or what engine.choose_by
names, for as many passes as it took to get there, then train LoRA from scratch on all of the
training data. (Bergstra, Bengio: Random search for hyper-parameter optimization, JMLR
2012; that trials stop early gives a budget more of them.) Trial 0 is LoRA with its usual settings,
stopped early.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from bilevel.data import split as split_indices
from bilevel.errors import UserError
from bilevel.settings import Count, Positive, from_values, plain
from problems import common
from problems.common import (
    DVal,
    Job,
    LowRankMethod,
    OptimizerSettings,
    Stage,
    Training,
    TrainSettings,
)
from problems.common.records import LOWEST
from problems.common.two_levels import Fraction
from problems.learned_settings.groups import Granularity, groups_of
from problems.learned_settings.method import Names, check_names, retrained
from problems.learned_settings.table import table
from problems.lora import LoRA, check_smoothed_once
from problems.lora_settings.record import GLOBAL, HEAD, OF_STEPS, ModuleSettings, SettingName

__all__ = ["RANGES", "RandomSettings"]

log = logging.getLogger(__name__)

# (least, most, whether the logarithm is uniform)
RANGES: dict[SettingName, tuple[float, float, bool]] = {
    "decay": (1e-5, 1e-1, True),
    "learning_rate": (1 / 8, 8, True),
    "weight_decay": (1e-3, 1.0, True),
    "scale": (1 / 4, 4, True),
    "dropout": (0.0, 0.5, False),
    "label_smoothing": (0.0, 0.3, False),
    "temperature": (1 / 4, 4, True),
}


@dataclass(frozen=True)
class RandomSettings(LowRankMethod):
    """Trials of LoRA at random settings, each stopped early; then LoRA with the best."""

    name: ClassVar[str] = "random_settings"
    splits_fused: ClassVar[bool] = True
    streams: ClassVar[bool] = False
    draw: Names = ("decay", "learning_rate")
    """Which settings, as method.learn of learned_settings."""
    granularity: Granularity = "all"
    """Modules that share a draw: as of learned_settings, but one for all by default, since in many
    dimensions random search finds little."""
    trials: Count = 16
    """How many at the most; the first has the usual settings."""
    processor_seconds: Positive | None = None
    """Of all trials together: none begins after them; null for no bound. For a comparison at equal
    time give those that a learned_settings run took before its last stage (its result.json)."""
    patience: Count = 3
    """Evaluations on D_val without a smaller loss before a trial ends."""
    split: Fraction = 0.8
    """Share of the training data that is D_train, the rest is D_val."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=None, weight_decay=0.1)
    )
    """Of the factors and the head; as of method=lora."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.draw, self.lora_dropout, "draw")

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """Labels are smoothed by one number.

        Raises:
            UserError: ``train.label_smoothing`` is given too; or as of every method.
        """
        check_smoothed_once("label_smoothing" in self.draw, settings)
        super().check_steps(examples, settings)

    def held_out(self, own: bool) -> DVal:
        """The trials' D_val is kept apart from their training."""
        return "apart"

    def stages(self) -> Sequence[Stage]:
        """The trials, each handed the best so far; then train with the best on all of the data."""
        trials = [Stage(f"trial{i}", partial(self.trial, i)) for i in range(self.trials)]
        return (*trials, Stage("train", self.train))

    def trial(
        self, number: int, job: Job, found: dict[str, Any] | None
    ) -> Training | dict[str, Any]:
        """LoRA with the settings of a draw on D_train; nothing once the time is used up."""
        from problems.lora_settings import check_answers

        spent = 0.0 if found is None else found["spent"]
        if found is not None and self.processor_seconds and spent >= self.processor_seconds:
            return found
        check_answers(job, self.draw)
        settings = self.drawn(number, job)
        lora = replace(self._lora(settings), hold_out=1 - self.split)
        training = lora.prepare(job, None)
        started = time.process_time()

        by_loss, best = False, math.inf
        if found is not None and found["settings"]:
            by_loss = LOWEST not in found  # as searches of older versions went, to their end
            best = found["validation_loss"] if by_loss else found[LOWEST]

        def lost() -> dict[str, Any]:
            before = found or {"settings": None, "tried": 0}
            now = spent + time.process_time() - started
            return {**before, "spent": now, "tried": before["tried"] + 1}

        def finish(stats: dict[str, float]) -> dict[str, Any]:
            loss, counted = stats["validation_loss"], lost()
            log.info(
                *("trial %d: validation loss %.4f, %.0f processor seconds so far", number, loss),
                counted["spent"],
            )
            chosen = loss if by_loss else stats.get(LOWEST, loss)
            if not chosen < best:  # of a trial that diverged it is no number
                return counted
            outcome = training.finish(stats)
            return {
                **counted,
                "settings": plain(settings),
                "stage": f"trial{number}",
                "validation_loss": loss,
                **({} if by_loss else {LOWEST: chosen}),
                "steps": int(stats.get("kept_step", training.steps)),
                "trainable_parameters": outcome.trainable_parameters,
                "split": outcome.split,
            }

        return replace(training, finish=finish, patience=self.patience, diverged=lost)

    def train(self, job: Job, found: dict[str, Any]) -> Training:
        """LoRA from scratch on all of the training data, for as many passes as the best trial."""
        if not found["settings"]:
            raise UserError(
                f"method={self.name}: the loss of all {found['tried']} trials became infinite or "
                "no number: give a lower train.lr, or engine.precision=fp32"
            )
        settings = from_values(ModuleSettings, found["settings"], "settings")
        log.info("best of %d trials\n%s", found["tried"], table(settings))
        # A pass over all of the data has more steps than one over D_train.
        passes = found["steps"] / common.steps_per_epoch(job, self._trial_batches(job))
        return retrained(job, self._lora(settings), found, passes)

    def drawn(self, number: int, job: Job) -> ModuleSettings:
        """The settings of a trial: decided by the job's seed and the trial's number."""
        if number == 0:
            return ModuleSettings()
        generator = np.random.default_rng((job.seed, number))
        groups = groups_of(job.target_modules, self.granularity)
        found: dict[str, Any] = {}
        for name in self.draw:
            low, high, logarithmic = RANGES[name]

            def one(low: float = low, high: float = high, logarithmic: bool = logarithmic) -> float:
                if not logarithmic:
                    return float(generator.uniform(low, high))
                return float(np.exp(generator.uniform(np.log(low), np.log(high))))

            if name in GLOBAL:
                found[name] = one()
                continue
            by_group = {group: one() for group in dict.fromkeys(groups.values())}
            found[name] = {module: by_group[group] for module, group in groups.items()}
            if name in OF_STEPS and job.head_modules:
                found[name][HEAD] = one()
        return ModuleSettings(**found)

    def _lora(self, settings: ModuleSettings) -> LoRA:
        return LoRA(
            rank=self.rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            optimizer=self.optimizer,
            settings=settings,
        )

    def _trial_batches(self, job: Job) -> Any:
        train, _ = split_indices(len(job.data.examples), self.split, job.seed, job.data.labels)
        return common.loader(job, train)
