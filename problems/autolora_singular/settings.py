"""Say what AutoLoRA in the singular basis can be told, and refuse what cannot be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bilevel.cutting.budget import Budget, Part, parameters_of
from bilevel.cutting.options import CutOptions
from bilevel.errors import UserError
from bilevel.settings import Count, Share
from problems.common import (
    DVal,
    LowRankMethod,
    OptimizerSettings,
    RankSearch,
    TrainSettings,
    TwoLevelMethod,
    check_window,
)
from problems.common.two_levels import Fraction

if TYPE_CHECKING:
    from bilevel import Hypergradient

__all__ = ["SingularSettings"]

# b of hard-concrete gates where the total is left to the frontier.
UNTOLD = 0.25


@dataclass(frozen=True)
class SingularSettings(CutOptions, LowRankMethod, TwoLevelMethod, RankSearch):
    """What the method is told."""

    rank: Count = 8
    """k, components of every layer before the cut."""
    selection: Literal["softmax", "hard_concrete"] = "softmax"
    """How the gates of all layers together are one selection: n softmax(theta), or hard-concrete
    gates whose density a multiplier holds."""
    parameter_budget: Part | None = None
    """Parameters of all kept components together, or a share of those of all; null leaves it to the
    frontier."""
    hold_out: Share = 0.1
    """Share of the training data kept apart from both levels, to draw the frontier by; 0 takes the
    task's own validation split, or draws none where parameter_budget is told."""
    split: Fraction | None = 0.8
    """Share of the rest of the training data that is D_train, the rest is D_val; null takes the
    task's own validation split as D_val. The last steps are on all of the training data."""
    unroll_steps: Count = 4
    """T1, lower steps before every upper one."""
    start: Fraction = 0.4
    """Share of all steps after which the basis is turned and the gates begin to learn."""
    end: Fraction = 0.7
    """Share of all steps after which the adapter is cut, and what is kept goes on training."""
    rotate_every: Count | None = None
    """Global steps after which the basis is turned again and the gates start anew; null for a
    quarter of the search with softmax, and once only with hard_concrete."""
    lower: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.1))
    """Of the factors and the head, until the cut."""
    upper: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(name="adam", betas=(0.8, 0.95), warmup_ratio=0.0)
    )
    """Of the gates' logits; lr null for what lets them reach any value within a round."""
    multiplier: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(schedule="constant")
    )
    """Of lambda, with hard_concrete; lr null for 0.01, or more in a short search."""
    finish: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(weight_decay=0.1))
    """Of the kept factors and the head, after the cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_window(self.start, self.end)
        if self.warmup_steps:
            raise UserError(
                f"warmup_steps={self.warmup_steps}: the gates of {self.name} begin to learn at "
                "method.start; leave warmup_steps at 0"
            )
        if self.roll_back and self.selection == "hard_concrete":
            raise UserError(
                "selection=hard_concrete cannot roll back: its gates are a lower level too, of the "
                "multiplier; leave roll_back=false"
            )

    def check_hypergradient(self, estimator: Hypergradient) -> None:
        """Not the closed form with gates that are drawn, by whose values it divides."""
        from bilevel.hypergradient import Alignment

        if self.selection == "hard_concrete" and isinstance(estimator, Alignment):
            raise UserError(
                "hypergradient=alignment divides by the gate values, which hard-concrete gates "
                "draw at random and may be 0: use hypergradient=unrolled with "
                "method.selection=hard_concrete"
            )

    def check_size(self, examples: int, batch_size: int) -> None:
        """All three parts of the data need some.

        Raises:
            UserError: D_train or D_val is smaller than a batch, or fewer than two are held out.
        """
        held = examples - round((1 - self.hold_out) * examples)
        if self.hold_out and held < self._least():
            raise UserError(
                f"method.hold_out={self.hold_out:g} keeps {held} of {examples} training examples "
                f"apart, and the cut needs {self._least()} or more: give a larger share"
                + ", or 0 with method.parameter_budget, which needs no frontier"
                * (not self.named().needs_data)
            )
        super().check_size(examples - held, batch_size)

    def check_validation(self, examples: int, batch_size: int) -> None:
        """The frontier needs examples that neither level trains on.

        Raises:
            UserError: there are none; or ``split`` is None and there is no D_val.
        """
        super().check_validation(examples, batch_size)
        own, least = examples if self.split is not None else 0, self._least()
        by_data = self.named().needs_data
        if self.hold_out or own >= least or (self.budget.told and not by_data):
            return
        raise UserError(
            f"method.hold_out=0 leaves {own or 'no'} examples that neither level trains on, and "
            + (f"method.criterion={self.criterion} orders" if by_data else "the cut is chosen")
            + f" by {least} or more: give method.hold_out=0.1, which keeps a share apart, or the "
            "task a validation file beside its test file with method.split a share"
            + ("" if by_data else ", or say how much is to stay, method.parameter_budget=N")
        )

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """There must be steps in all three phases.

        Raises:
            UserError: there are not.
        """
        super().check_steps(examples, settings)
        self.phases(math.ceil(self.asked_steps(examples, settings) / self.unroll_steps))

    def held_out(self, own: bool) -> DVal:
        """The task's own validation split, unless the gates learn on it (split=null)."""
        return "apart" if own and self.split is not None else "trained_on"

    def _least(self) -> int:
        """Examples that the cut needs."""
        from bilevel.cutting import least_examples

        return least_examples(self.named())

    def phases(self, steps: int) -> tuple[int, int]:
        """Global steps of ``steps`` in which the gates begin to learn, and end."""
        first, last = round(self.start * steps), round(self.end * steps)
        if not 0 < first < last < steps:
            raise UserError(
                f"{steps} global steps of method.unroll_steps={self.unroll_steps} have no room for "
                f"training to method.start={self.start}, selecting to method.end={self.end} and "
                "training what is kept: raise train.epochs or train.max_steps"
            )
        return first, last

    @property
    def budget(self) -> Budget:
        """What was told of the size."""
        return Budget.of_part(self.parameter_budget)

    def density(self, costs: dict[str, int]) -> float:
        """b, which the multiplier holds the gates to."""
        whole = self.rank * sum(costs.values())
        told = UNTOLD if self.parameter_budget is None else self.parameter_budget
        return parameters_of(told, whole) / whole
