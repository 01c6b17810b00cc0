"""Describe the steps that a lower level has taken, for the hypergradient taken after them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bilevel.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.hypergradient.optimizer_state import OptimizerSnapshot
    from bilevel.micro_batches import MicroBatch
    from bilevel.replay.random_state import RandomState

__all__ = ["Needs", "RecordedSteps", "StepRecord"]


@dataclass(frozen=True)
class Needs:
    """What an estimator wants recorded of the lower steps between two upper steps.

    Attributes:
        depth: how many of the latest steps to keep; ``None`` keeps all T1.
        optimizer: keep the optimiser's state and hyperparameters before each step.
        upper_gradient: take dL1/dE together with dL1/dV, in the same backward pass.
        graph: keep the graph of dL1/dV (possible when T1 is one step on one batch).
        double_backward: run the lower loss with kernels that can be differentiated twice.
        carries: what is carried along with the steps (``carried``) counts from the first of them.
    """

    depth: int | None = 1
    optimizer: bool = False
    upper_gradient: bool = False
    graph: bool = False
    double_backward: bool = False
    carries: bool = False

    @property
    def several_steps(self) -> bool:
        """Whether what is remembered is of more than the latest step."""
        return self.depth not in (0, 1) or self.carries

    def __or__(self, other: Needs) -> Needs:
        """The least that satisfies both."""
        unbounded = self.depth is None or other.depth is None
        return Needs(
            None if unbounded else max(self.depth or 0, other.depth or 0),
            self.optimizer or other.optimizer,
            self.upper_gradient or other.upper_gradient,
            self.graph or other.graph,
            self.double_backward or other.double_backward,
            self.carries or other.carries,
        )


@dataclass
class StepRecord:
    """One optimiser step of a lower problem, enough to take it again.

    Tensors are lists in the order of the problem's trainable parameters.

    Attributes:
        weights: V before the step.
        batches: the step's micro-batches, each with the random state its loss was drawn from.
        gradient: dL1/dV of the whole step, before clipping; None where unused.
        snapshot: the optimiser before the step, with the settings in force.
        rates: learning rate of each param group, before any factor that upper variables decide.
        upper_gradient: dL1/dE at ``weights``, by upper problem.
        graph: (V, dL1/dV): the leaves and the gradient, connected by a live graph.
        max_norm: clipping threshold of the step, 0 for none.
        applied: False when a gradient scaler skipped the step (fp16 overflow).
    """

    weights: list[Tensor]
    batches: list[tuple[MicroBatch, RandomState]] = field(default_factory=list)
    gradient: list[Tensor | None] = field(default_factory=list)
    snapshot: OptimizerSnapshot | None = None
    rates: list[float | Tensor] = field(default_factory=list)
    upper_gradient: dict[str, list[Tensor]] = field(default_factory=dict)
    graph: tuple[list[Tensor], list[Tensor]] | None = None
    max_norm: float = 0.0
    applied: bool = True

    def add_upper_gradient(self, upper: str, found: list[Tensor]) -> None:
        """Add a micro-batch's dL1/dE of the problem named ``upper``."""
        before = self.upper_gradient.get(upper)
        self.upper_gradient[upper] = (
            found if before is None else [a + b for a, b in zip(before, found, strict=True)]
        )


class RecordedSteps:
    """The T1 lower steps since the last upper step, with the upper variables that they saw.

    Attributes:
        steps: the records that are kept, oldest first.
        upper_values: E of each upper problem at the steps.
        carried: what the estimator carries from step to step.
    """

    def __init__(self) -> None:
        self.steps: deque[StepRecord] = deque()
        self.upper_values: dict[str, list[Tensor]] = {}
        self.carried: dict[Any, Any] = {}

    @property
    def last(self) -> StepRecord:
        """The latest step.

        Raises:
            UserError: none is recorded.
        """
        if not self.steps:
            raise UserError(
                "no lower step is recorded to differentiate: take one first, under a hypergradient "
                "that needs records"
            )
        return self.steps[-1]

    def open(self, depth: int | None, upper_values: dict[str, list[Tensor]]) -> None:
        """Forget the previous T1 steps and keep the latest ``depth`` of those that come."""
        self.steps = deque(maxlen=depth)
        self.upper_values = upper_values
        self.carried = {}

    def drop_graphs(self) -> None:
        """Free the kept graphs, once the upper steps are done."""
        for step in self.steps:
            step.graph = None
