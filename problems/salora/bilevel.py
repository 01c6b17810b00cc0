r"""SaLoRA on two levels: its gates learn on data that its factors do not see. Not in the paper.

SaLoRA (:mod:`problems.salora.one_level`) trains gates and factors on the same examples, so a
component that only memorises them keeps its gate. Here, as in AutoLoRA and BiLoRA, they are apart:

    lower   V*(theta) = argmin over B, A, head of  L(V, g(theta); D_train) + beta R_orth(V)
    upper   min over theta   max over lambda >= 0
            L(V*(theta), g(theta); D_val) + lambda (C(theta) - b)^2

in a chain of three problems: factors; gates, which are their upper level; and the multiplier, which
is the gates' upper level. The gates'
gradient goes through the factors' steps by any of the engine's estimators but ``alignment``; the
gates' draw of every lower step is replayed with the step. The multiplier has the gates as its lower
level and nothing to differentiate through: its term C depends on theta alone.

Outside the window the upper levels do not step and nothing is recorded for them. Gates, window,
density and pruning are as in SaLoRA; beyond that:

| choice | here (default) |
|---|---|
| D1 : D2 | 8:2, BiLoRA's (``split``) |
| theta | Adam with the rate of SaLoRA's gates, falling linearly to 0 in the window (``upper``) |
| steps | as many lower ones as LoRA takes on all of the data |
| L2 | of the model as it trains, with the backbone's dropout, as in AutoLoRA and BiLoRA |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from bilevel.errors import UserError
from problems import common
from problems.common import (
    Job,
    Layout,
    OptimizerSettings,
    Outcome,
    Stage,
    Training,
    TwoLevelMethod,
)
from problems.salora.settings import GATE_BETAS, SaLoRASettings, gate_lr

if TYPE_CHECKING:
    from bilevel import Hypergradient

__all__ = ["SaLoRABilevel"]


@dataclass(frozen=True)
class SaLoRABilevel(SaLoRASettings, TwoLevelMethod):
    """Factors on one part of the training data, gates and their density on the other.

    ``warmup_steps`` and ``roll_back`` have no place here and must stay at 0 and False.
    """

    name: ClassVar[str] = "salora_bilevel"
    targets: ClassVar[str | None] = "all"
    splits_fused: ClassVar[bool] = True
    upper: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(name="adam", betas=GATE_BETAS, warmup_ratio=0.0)
    )
    """Of log theta, its schedule over the steps in the window; lr null for 0.01, or more in a short
    window."""

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
        from bilevel.hypergradient import Alignment

        if isinstance(estimator, Alignment):
            raise UserError(
                "hypergradient=alignment divides by the gate values, which hard-concrete gates "
                "draw at random and may be 0: use hypergradient=finite_difference with "
                f"method={self.name}"
            )

    def upper_variables(self, layout: Layout) -> int:
        """A gate for each component of each module."""
        return self.rank * len(layout.modules)

    def stages(self) -> Sequence[Stage]:
        """One stage, three problems; two without the constraint."""
        return (Stage("train", self.prepare),)

    def prepare(self, job: Job, found: None) -> Training:
        """Factors and head on D_train, gates on D_val, the multiplier on their density."""
        from bilevel.hypergradient import NoHypergradient
        from bilevel.lowrank.attach import Factors
        from problems.salora.levels import LowerFactors, UpperGates
        from problems.salora.window import RecordedGates

        parts = self.parts(job)
        steps = self.steps(job)
        self.check_window(steps)
        model, window = self.adapted(job, steps, parts.rows)
        gates, factors = window.gates, Factors(model)
        weights = common.trainable(model)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        lower_optimizer, lower_schedule = common.optimizer_and_scheduler(
            self.optimizer, weights, self._standing_steps(steps), lr, job.settings.warmup_steps
        )
        lower = LowerFactors(
            "lower",
            self.lower_config(job),
            module=model,
            optimizer=lower_optimizer,
            scheduler=lower_schedule,
            train_data_loader=parts.lower,
            gate_window=window,
            factors=factors,
            beta=self.beta,
            penalty=self.penalty(),
        )
        upper_optimizer, upper_schedule = common.optimizer_and_scheduler(
            self.upper,
            [gates.logits],
            (window.last - window.first) * self.upper_steps,
            gate_lr(window, self.upper_steps),
            job.settings.warmup_steps,
        )
        upper = UpperGates(
            "upper",
            common.problem_config(job, hypergradient=NoHypergradient(), steps=self.upper_steps),
            module=gates,
            optimizer=upper_optimizer,
            scheduler=upper_schedule,
            train_data_loader=parts.upper,
            gate_window=window,
        )
        problems: list[Any] = [lower, upper]
        graph: dict[str, dict[Any, list[Any]]] = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
        ascent = self.ascent(job, window, self.upper_steps) if self.constraint else None
        if ascent is not None:
            problems.append(ascent)
            graph["u2l"][ascent] = [upper]
            graph["l2u"][upper] = [ascent]

        def finish(stats: dict[str, float]) -> Outcome:
            loss = stats.get("validation_loss")
            return self.outcome(
                model, weights, window, ascent, validation_loss=loss, split=parts.sizes
            )

        return Training(
            problems,
            graph,
            steps,
            model,
            finish,
            validation=parts.validation,
            gates=RecordedGates(gates),
            upper_window=(window.first, window.last),
            watch=self.watch(window, factors, ascent),
            roll_back=self.roll_back,
            settled=min(window.last + 1, steps),
        )
