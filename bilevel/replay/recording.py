"""What a lower problem remembers of its steps, for the hypergradient that is taken after them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bilevel.replay.random_state import RandomState

if TYPE_CHECKING:
    from bilevel.hypergradient.optimizers import OptimizerSnapshot

__all__ = ["Needs", "StepRecord", "Window", "clone_nested"]


@dataclass(frozen=True)
class Needs:
    """What an estimator wants recorded of the lower steps between two upper steps.

    Attributes:
        depth: how many of the latest steps to keep; ``None`` keeps the whole window.
        optimizer: keep the optimiser's state and hyperparameters before each step.
        upper_gradient: take dL1/dE together with dL1/dV, in the same backward pass.
        graph: keep the graph of dL1/dV (possible when the window is one step on one batch).
        double_backward: run the lower loss with kernels that can be differentiated twice.
    """

    depth: int | None = 1
    optimizer: bool = False
    upper_gradient: bool = False
    graph: bool = False
    double_backward: bool = False

    def __or__(self, other: Needs) -> Needs:
        """The least that satisfies both."""
        unbounded = self.depth is None or other.depth is None
        return Needs(
            None if unbounded else max(self.depth or 0, other.depth or 0),
            self.optimizer or other.optimizer,
            self.upper_gradient or other.upper_gradient,
            self.graph or other.graph,
            self.double_backward or other.double_backward,
        )


@dataclass
class StepRecord:
    """One optimiser step of a lower problem, enough to take it again.

    Tensors are lists in the order of the problem's trainable parameters.

    Attributes:
        weights: V before the step.
        batches: the step's micro-batches, each with the random state its loss was drawn from.
        gradient: dL1/dV, averaged over the micro-batches, before clipping; None where unused.
        snapshot: the optimiser before the step.
        upper_gradient: dL1/dE at ``weights``, by upper problem.
        graph: (V, dL1/dV): the leaves and the gradient, connected by a live graph.
        max_norm: clipping threshold of the step, 0 for none.
        applied: False when a gradient scaler skipped the step (fp16 overflow).
    """

    weights: list[Tensor]
    batches: list[tuple[Any, RandomState]] = field(default_factory=list)
    gradient: list[Tensor | None] = field(default_factory=list)
    snapshot: OptimizerSnapshot | None = None
    upper_gradient: dict[str, list[Tensor]] = field(default_factory=dict)
    graph: tuple[list[Tensor], list[Tensor]] | None = None
    max_norm: float = 0.0
    applied: bool = True


class Window:
    """The lower steps since the last upper step, with the upper variables that they saw."""

    def __init__(self) -> None:
        self.steps: deque[StepRecord] = deque()
        self.upper_values: dict[str, list[Tensor]] = {}

    def open(self, depth: int | None, upper_values: dict[str, list[Tensor]]) -> None:
        """Forget the previous window and start one that keeps its latest ``depth`` steps."""
        self.steps = deque(maxlen=depth)
        self.upper_values = upper_values

    def drop_graphs(self) -> None:
        """Free the kept graphs, once the upper steps are done."""
        for step in self.steps:
            step.graph = None


def clone_nested(item: Any) -> Any:
    """A copy of a nest of dicts and lists whose tensors are cloned."""
    if isinstance(item, Tensor):
        return item.detach().clone()
    if isinstance(item, dict):
        return {key: clone_nested(value) for key, value in item.items()}
    if isinstance(item, list):
        return [clone_nested(value) for value in item]
    return item
