"""Let estimators that need no records differentiate through Betty's own problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from betty.problems import ImplicitProblem
from torch import Tensor, nn

from bilevel.config import ProblemConfig
from bilevel.distributed import World
from bilevel.errors import UserError
from bilevel.gradients import filled
from bilevel.hypergradient.base import Hypergradient
from bilevel.hypergradient.derivatives import ReplayedLoss
from bilevel.micro_batches import MicroBatch, StepBatches
from bilevel.protocols import UpperLevel
from bilevel.replay.parameter_slots import ParameterSlots
from bilevel.replay.random_state import RandomState
from bilevel.replay.recording import RecordedSteps, StepRecord
from bilevel.step_settings import StepSettings

__all__ = ["PlainLevel"]


class PlainLevel:
    """A problem of Betty's own, for as long as one estimator looks at it.

    It has recorded nothing: its latest batch stands for a step, at the weights of now, and its
    dropout masks are new ones, the same in all passes.

    Raises:
        UserError: the estimator needs records or a memory, or the problem is none of Betty's.
    """

    def __init__(self, problem: Any, estimator: Hypergradient) -> None:
        if estimator.needs_records or not isinstance(problem, ImplicitProblem):
            raise UserError(
                f"hypergradient {estimator.name!r} needs the recorded steps or the memory of a "
                f"bilevel.LowerProblem, but problem {problem.name!r} is a "
                f"{type(problem).__name__}; use LowerProblem, or finite_difference, neumann or cg"
            )
        self._problem = problem
        self.name: str = problem.name
        self.config = ProblemConfig.of(problem.config)
        self.count: int = problem.count
        self.gas: int = problem.gas
        self.module: nn.Module = problem.module
        self.optimizer = problem.optimizer
        self.scaler = problem.scaler
        self.inverse_scale = None
        self.leaf: bool = problem.leaf
        self.device: torch.device | str = problem.device
        self.world = World()
        self.precision: str = problem.precision
        self.gradient_clipping: float = problem.gradient_clipping
        self.estimator_state: dict[str, Any] = {}
        self.last_indices = None
        self.step_batches = StepBatches()
        self.parents: Sequence[UpperLevel] = ()
        self.ancestors: Sequence[UpperLevel] = ()
        self.slots = ParameterSlots(problem.module, problem.trainable_parameters())
        self.recorded = RecordedSteps()
        if problem.cur_batch is not None:
            weights = [p.detach() for p in problem.trainable_parameters()]
            batch = (MicroBatch(problem.cur_batch), RandomState.capture(problem.device))
            self.recorded.steps.append(StepRecord(weights, [batch]))

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that Betty trains."""
        return list(self._problem.trainable_parameters())

    def set_grads(self, params: Sequence[nn.Parameter], grads: Sequence[Tensor | None]) -> None:
        """Add ``grads`` to the parameters' own."""
        self._problem.set_grads(params, grads)

    def is_implemented(self, hook: str) -> bool:
        """Whether the problem has a hook of Betty's."""
        return bool(self._problem.is_implemented(hook))

    def step_settings(self) -> Sequence[StepSettings]:
        """None: Betty's problems have no such thing."""
        return ()

    def kernels(self) -> AbstractContextManager[Any]:
        """Whatever attention takes: Betty chooses none."""
        return nullcontext()

    def objective(self, batch: Any) -> Tensor:
        """The loss; Betty's problems only descend."""
        result = self._problem.training_step_exec(batch)
        return result["loss"] if isinstance(result, Mapping) else result

    def gradient(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        """d loss / d inputs, zeros where the loss does not depend on one."""
        return self.own_gradient(loss, inputs)

    def own_gradient(
        self, loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False
    ) -> list[Tensor]:
        """The same: Betty's problems are averaged by nobody here."""
        grads = torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
        return filled(grads, inputs)

    def replayed_loss(self, upper: UpperLevel, step: StepRecord | None = None) -> ReplayedLoss:
        """The loss of the latest batch as a function of V and E of ``upper``."""
        return ReplayedLoss(self, upper, (step or self.recorded.last).batches)
