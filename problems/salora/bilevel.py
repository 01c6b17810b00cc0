r"""SaLoRA on two levels: its gates learn on data that its factors do not see. Not in the paper.

SaLoRA (:mod:`problems.salora.one_level`) trains gates and factors on the same examples, so a
component that only memorises them keeps its gate. Here, as in AutoLoRA and BiLoRA, they are apart:

    lower   V*(theta) = argmin over B, A, head of  L(V, g(theta); D1) + beta R_orth(V)
    upper   min over theta   max over lambda >= 0
            L(V*(theta), g(theta); D2) + lambda (C(theta) - b)^2

in a chain of three problems: factors, gates above them, the multiplier above the gates. The gates'
gradient goes through the factors' steps by any of the engine's estimators but ``alignment``; the
gates' draw of every lower step is replayed with the step. The multiplier has the gates below it and
nothing to differentiate through: its term C depends on theta alone.

Outside the window the upper levels do not step and nothing is recorded for them. Gates, window,
density and pruning are as in SaLoRA; beyond that:

| choice | here (default) |
|---|---|
| D1 : D2 | 8:2, BiLoRA's (``split``) |
| theta | Adam with the rate of SaLoRA's gates, falling linearly to 0 in the window (``upper``) |
| steps | as many lower ones as LoRA takes on all of the data |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from bilevel.errors import UserError
from bilevel.hypergradient import Alignment, Hypergradient, NoHypergradient
from bilevel.lowrank.attach import Factors
from problems.common.method import Job, Outcome, StageRunner, count, problem_config, trainable
from problems.common.optimizer_settings import OptimizerSettings, optimizer_and_scheduler
from problems.common.two_levels import HeldOut, TwoLevelMethod, full_precision
from problems.salora.shared import GATE_BETAS, GatedFineTuning, SaLoRASettings, gate_lr
from problems.salora.window import GateWindow

__all__ = ["GatesAbove", "SaLoRABilevel"]


class FactorsBelow(GatedFineTuning):
    """Lower level: L(V, g; D1) + beta R_orth(V), at the gates' present draw."""

    def phase_step(self) -> int:
        """Windows of T1 steps before the one under way: the gates' steps are counted in these."""
        return super().phase_step() // self.config.unroll_steps

    @property
    def differentiated(self) -> bool:
        """In the gates' window only."""
        coming = self._count // self.gas // self.config.unroll_steps
        return self.gate_window.first <= coming < self.gate_window.last

    @property
    def records_steps(self) -> bool:
        """Not outside the window, where no hypergradient is taken."""
        return self.gate_window.learning


class GatesAbove(HeldOut):
    """Upper level: L(V, g; D2) + lambda (C - b)^2; steps in the window only.

    Args:
        gate_window: of the gates.
    """

    def __init__(self, *args: Any, gate_window: GateWindow, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate_window = gate_window

    def check_ready(self) -> bool:
        """Not outside the window."""
        return bool(super().check_ready()) and self.gate_window.learning

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss, and what the density costs."""
        loss = super().training_step(batch)
        if not self.parents:
            return loss
        with full_precision(self):
            return loss + self.multiplier.module(self.gate_window.density())


@dataclass(frozen=True)
class SaLoRABilevel(SaLoRASettings, TwoLevelMethod):
    """Factors on one part of the training data, gates and their density on the other.

    Args:
        upper: optimiser of log theta; lr None for 0.01, or more in a short window, see
            :func:`problems.salora.shared.gate_lr`. Its schedule is over the steps in the window.
        split, unroll_steps, upper_steps: as in :class:`problems.common.two_levels.TwoLevelMethod`.
        warmup_steps, roll_back: have no place here and must stay at 0 and False.

    Raises:
        UserError: a setting out of range.
    """

    name: ClassVar[str] = "salora_bilevel"
    targets: ClassVar[str | None] = "all"
    splits_fused: ClassVar[bool] = True
    upper: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(name="adam", betas=GATE_BETAS, warmup_ratio=0.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps:
            raise UserError(
                f"warmup_steps={self.warmup_steps}: the gates of salora_bilevel begin to learn at "
                "method.start; leave warmup_steps at 0"
            )
        if self.roll_back:
            raise UserError(
                "salora_bilevel cannot roll back: its gates are a lower level too, of the "
                "multiplier; leave roll_back=false"
            )

    def check_hypergradient(self, estimator: Hypergradient) -> None:
        """Any but the closed form, which divides by the gates."""
        if isinstance(estimator, Alignment):
            raise UserError(
                "hypergradient=alignment divides by the gate values, which hard-concrete gates "
                "draw at random and may be 0: use hypergradient=finite_difference with "
                f"method={self.name}"
            )

    def run(self, job: Job) -> Outcome:
        """One stage, three problems."""
        return job.stage("train", lambda stage: self._train(job, stage), last=True)

    def _train(self, job: Job, stage: StageRunner) -> Outcome:
        sides = self.sides(job)
        steps = self.steps(job)
        self.check_window(steps)
        model, window = self.adapted(job, steps)
        gates, factors = window.gates, Factors(model)
        below = trainable(model)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        lower_optimizer, lower_schedule = optimizer_and_scheduler(
            self.optimizer, below, self._standing_steps(steps), lr, job.settings.warmup_steps
        )
        lower = FactorsBelow(
            "lower",
            problem_config(
                job,
                hypergradient=job.hypergradient,
                unroll_steps=self.unroll_steps,
                warmup_steps=self.warmup_steps,
            ),
            module=model,
            optimizer=lower_optimizer,
            scheduler=lower_schedule,
            train_data_loader=sides.lower,
            gate_window=window,
            factors=factors,
            beta=self.beta,
            penalty=self.penalty(),
        )
        upper_optimizer, upper_schedule = optimizer_and_scheduler(
            self.upper,
            [gates.logits],
            (window.last - window.first) * self.upper_steps,
            gate_lr(window),
            job.settings.warmup_steps,
        )
        upper = GatesAbove(
            "upper",
            problem_config(job, hypergradient=NoHypergradient(), steps=self.upper_steps),
            module=gates,
            optimizer=upper_optimizer,
            scheduler=upper_schedule,
            train_data_loader=sides.upper,
            gate_window=window,
        )
        problems: list[Any] = [lower, upper]
        graph: dict[str, dict[Any, list[Any]]] = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
        ascent = self.ascent(job, window) if self.constraint else None
        if ascent is not None:
            problems.append(ascent)
            graph["u2l"][ascent] = [upper]
            graph["l2u"][upper] = [ascent]
        stats = stage.run(
            problems,
            graph,
            steps,
            model,
            validation=sides.validation,
            gates=gates,
            watch=self.watch(window, factors, ascent),
            roll_back=self.roll_back,
        )
        window.close()
        keep = window.kept()
        return Outcome(
            model=model,
            ranks={name: int(mask.sum()) for name, mask in keep.items()},
            trainable_parameters=count(below) + gates.logits.numel() + (ascent is not None),
            validation_loss=stats.get("validation_loss"),
            split=sides.sizes,
            keep=keep,
        )
