"""Say what both forms of SaLoRA are told, and build what both are made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Gt, Le, Lt

from bilevel import lowrank
from bilevel.errors import UserError
from bilevel.settings import Count, NonNegative, Positive, UnitInterval
from problems import common
from problems.common import Job, LowRankMethod, OptimizerSettings, Outcome

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn

    from bilevel.cutting.decided import RankChoice
    from bilevel.lowrank.attach import Factors
    from problems.salora.levels import Ascent
    from problems.salora.window import GateWindow

__all__ = ["GATE_BETAS", "SaLoRASettings", "gate_lr", "multiplier_lr", "window_steps"]

log = logging.getLogger(__name__)

# How far log theta and lambda can come in a window with all of their steps at full length; lambda
# has to outgrow the task's pull on the gates, whose size is not known beforehand. Chosen so that
# windows of 90 to 450 steps reach densities of 0.5 to 0.125.
GATE_TRAVEL = 20.0
MULTIPLIER_TRAVEL = 60.0
# In a window of one step no gate moves apart from the others, in one of two all jump together: the
# density went from 0.92 to 0.003, whatever its target. From 20 on it was within 0.02 of it.
LEAST_STEPS = 3
ENOUGH_STEPS = 20
# Adam's for log theta, shorter memories than usual: the density's pull falls by orders of magnitude
# as it nears its target, and what Adam remembers of it would carry the gates far beyond.
GATE_BETAS = (0.8, 0.95)


ROUNDING = 1e-9  # of a product, which may come out a little below a whole number


def window_steps(start: float, end: float, steps: int) -> tuple[int, int]:
    """Steps T_start and T_end of ``steps`` for shares of them; at least one lies between."""
    first = min(int(start * steps + ROUNDING), steps - 1)
    return first, max(round(end * steps), first + 1)


def gate_lr(window: GateWindow, each: int = 1) -> float:
    """Learning rate of log theta: the paper's 0.01, or what a short window needs.

    Adam moves a number by at most about its learning rate a step, which falls linearly to 0 in the
    window of W steps, ``each`` (T2) of the optimiser's in one of these: all in all by W T2 / 2
    times what this returns.
    """
    return max(0.01, 2 * GATE_TRAVEL / ((window.last - window.first) * each))


def multiplier_lr(window: GateWindow, each: int = 1) -> float:
    """Learning rate of lambda: the paper's 0.01, or what a short window needs; as above."""
    return max(0.01, MULTIPLIER_TRAVEL / ((window.last - window.first) * each))


@dataclass(frozen=True)
class SaLoRASettings(LowRankMethod):
    """What both forms of SaLoRA have."""

    refuses: ClassVar[dict[str, str]] = {
        "moved": "whose gates would take a part of the pretrained weights away"
    }
    rank: Count = 8
    """r, components of every layer before pruning."""
    density: Annotated[float, Gt(0), Le(1)] = 0.5
    """b, share of the adapter's parameters that is meant to stay."""
    constraint: bool = True
    """Hold C to b by the multiplier; false for lambda = 0."""
    prune: Literal["budget", "threshold"] = "budget"
    """What stays: the largest gates that fit into the share b, or those with
    log theta > log(-gamma / zeta), however many."""
    start: UnitInterval = 0.1
    """T_start, as a share of the steps."""
    end: UnitInterval = 0.4
    """T_end, as a share of the steps."""
    tau: Positive = 1.0
    """Temperature of the hard-concrete gates."""
    gamma: Annotated[float, Lt(0)] = -0.1
    """Lower end of the interval that the gates are stretched to."""
    zeta: Annotated[float, Gt(1)] = 1.1
    """Upper end of the interval that the gates are stretched to."""
    beta: NonNegative = 0.1
    """Weight of the orthogonality penalty."""
    orth_squared: bool = True
    """Squared Frobenius norms in the penalty, or the norms themselves."""
    orth_reduce: Literal["mean", "sum"] = "mean"
    """The penalty's mean over the matrices (two a layer), or their sum (the paper)."""
    multiplier: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(schedule="constant")
    )
    """Of lambda (name=sgd: plain ascent); lr null for 0.01, or more in a short window."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(weight_decay=0.1)
    )
    """Of the factors and the head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        common.check_window(self.start, self.end)

    def rank_choice(self) -> RankChoice:
        """Of the gates at the end of their window."""
        import torch

        from bilevel.cutting.decided import RankChoice
        from bilevel.lowrank.gate_kinds import HardConcrete

        kind = HardConcrete(self.tau, self.gamma, self.zeta)
        bound = kind.mean(torch.tensor([kind.keep_logit()])).item()
        rule = "budget" if self.prune == "budget" else "fixed"
        return RankChoice(rule, bound=bound, start=self.start, until=self.end)

    def check_window(self, steps: int) -> None:
        """Hold the window in ``steps`` steps against what gates need to learn.

        Raises:
            UserError: it is so short that chance decides what is kept.
        """
        first, last = window_steps(self.start, self.end, steps)
        said = (
            f"the gates learn for {last - first} of {steps} steps, from method.start={self.start} "
            f"to method.end={self.end}"
        )
        help_ = "raise train.epochs or train.max_steps, or widen this window"
        if last - first < LEAST_STEPS:
            raise UserError(f"{said}: chance would decide what is kept; {help_}")
        if last - first < ENOUGH_STEPS:
            log.warning(
                "%s: in fewer than %d the density may end far from method.density=%g; %s",
                *(said, ENOUGH_STEPS, self.density, help_),
            )

    def adapted(
        self, job: Job, steps: int, rows: Sequence[dict[str, Any]] | None = None
    ) -> tuple[PeftModel, GateWindow]:
        """A fresh model with gates, and their window in ``steps`` steps.

        Args:
            job: with the model.
            steps: of the training.
            rows: the examples that the factors are trained on; None for all.
        """
        from problems.salora.window import GateWindow

        model = common.with_lora(
            job, self.rank, self.lora_alpha, self.lora_dropout, self.peft, rows
        )
        gates = lowrank.Gates(
            list(lowrank.lora_layers(model)),
            self.rank,
            "hard_concrete",
            tau=self.tau,
            gamma=self.gamma,
            zeta=self.zeta,
        )
        lowrank.attach_gates(model, gates)
        first, last = window_steps(self.start, self.end, steps)
        costs = lowrank.component_costs(model)
        window = GateWindow(
            gates, costs, first, last, self.density, self.prune, held=self.constraint
        )
        return model, window

    def penalty(self) -> Callable[..., Tensor]:
        """R_orth in the form that is set."""
        return partial(lowrank.orthogonality, squared=self.orth_squared, reduce=self.orth_reduce)

    def ascent(self, job: Job, window: GateWindow, each: int = 1) -> Ascent:
        """The multiplier's problem, which takes ``each`` steps in one of the window's."""
        from problems.salora.levels import multiplier_problem

        steps = (window.last - window.first) * each
        lr = multiplier_lr(window, each)
        return multiplier_problem(job, self.multiplier, self.density, steps, lr, window)

    def outcome(
        self,
        model: PeftModel,
        weights: Sequence[nn.Parameter],
        window: GateWindow,
        ascent: Ascent | None,
        **more: Any,
    ) -> Outcome:
        """What is kept at the end of the window, and after it.

        Args:
            model: trained.
            weights: of it that were.
            window: of its gates; it is closed.
            ascent: the multiplier's problem; None without one.
            **more: attributes of the outcome.
        """
        window.close()
        keep = window.kept()
        gates = window.gates.logits.numel()
        return Outcome(
            model=model,
            ranks={name: int(mask.sum()) for name, mask in keep.items()},
            trainable_parameters=common.count(weights) + gates + (ascent is not None),
            keep=keep,
            **more,
        )

    def watch(
        self, window: GateWindow, factors: Factors, ascent: Ascent | None
    ) -> Callable[[], dict[str, float | Tensor]]:
        """What is drawn over the steps."""

        def numbers() -> dict[str, float | Tensor]:
            found: dict[str, float | Tensor] = {
                "density": window.density(),
                "orthogonality": lowrank.orthogonality(factors.pairs()),
            }
            if ascent is not None:
                found["target_density"] = self.density
                found["multiplier"] = ascent.module.value
            return found

        return numbers
