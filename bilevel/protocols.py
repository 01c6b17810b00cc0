"""State what estimators and callbacks may ask of a level, and callbacks of the engine.

Our levels (:mod:`bilevel.problem`) offer all of it; of Betty's own problems
:class:`bilevel.plain_level.PlainLevel` makes levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bilevel.config import ProblemConfig
    from bilevel.distributed import World
    from bilevel.hypergradient.derivatives import ReplayedLoss
    from bilevel.micro_batches import StepBatches
    from bilevel.replay.parameter_slots import ParameterSlots
    from bilevel.replay.recording import RecordedSteps, StepRecord
    from bilevel.step_settings import StepSettings

__all__ = ["EngineView", "LowerLevel", "UpperLevel"]


class UpperLevel(Protocol):
    """A level as one sees it that is trained through others, or watched."""

    @property
    def name(self) -> str:
        """By which the other levels reach it."""

    @property
    def config(self) -> ProblemConfig:
        """Its settings."""

    @property
    def inverse_scale(self) -> Tensor | None:
        """1 / the gradient scaler's factor (fp16), else None."""

    @property
    def count(self) -> int:
        """Micro-batches so far."""

    @property
    def gas(self) -> int:
        """Micro-batches in an optimiser step."""

    @property
    def module(self) -> nn.Module:
        """What it trains a part of."""

    @property
    def optimizer(self) -> Any:
        """torch's optimiser of it; None where ``custom_optimizer_step`` does the work."""

    @property
    def scaler(self) -> Any:
        """The gradient scaler of fp16, else None."""

    @property
    def leaf(self) -> bool:
        """Whether no level is lower."""

    @property
    def last_indices(self) -> list[int] | None:
        """Data-set indices of the batch in use, where the loader tells them."""

    @property
    def step_batches(self) -> StepBatches:
        """The batches of its optimiser step, and which is in use."""

    @property
    def slots(self) -> ParameterSlots:
        """Where the trainable parameters sit in the module tree."""

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters it owns, always in the same order."""

    def set_grads(self, params: Sequence[nn.Parameter], grads: Sequence[Tensor | None]) -> None:
        """Add ``grads`` to the parameters' own."""


class LowerLevel(UpperLevel, Protocol):
    """A level that upper ones differentiate through."""

    estimator_state: dict[str, Any]

    @property
    def device(self) -> torch.device | str:
        """Where its batches go."""

    @property
    def world(self) -> World:
        """The processes that train it."""

    @property
    def precision(self) -> str:
        """``fp32``, ``bf16`` or ``fp16``."""

    @property
    def gradient_clipping(self) -> float:
        """Largest norm of a gradient; 0 for any."""

    @property
    def parents(self) -> Sequence[UpperLevel]:
        """The levels directly upper."""

    @property
    def ancestors(self) -> Sequence[UpperLevel]:
        """All levels upper, nearest first."""

    @property
    def recorded(self) -> RecordedSteps:
        """Its steps since the last upper step, as far as its estimator needs them."""

    def is_implemented(self, hook: str) -> bool:
        """Whether it has a hook of Betty's, such as ``grad_callback``."""

    def step_settings(self) -> Sequence[StepSettings]:
        """Rates and decays of its optimiser that upper variables decide, one a param group.

        In the groups' order, computed anew from the upper levels' parameters at every call; none
        where the optimiser is as it was given.
        """

    def kernels(self) -> AbstractContextManager[Any]:
        """Attention kernels that its passes, forward and backward, have to use."""

    def objective(self, batch: Any) -> Tensor:
        """What it descends on ``batch``, a scalar tensor."""

    def gradient(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        """d loss / d inputs, averaged over ranks, zeros where the loss does not depend on one."""

    def own_gradient(
        self, loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False
    ) -> list[Tensor]:
        """The same of this rank alone."""

    def replayed_loss(self, upper: UpperLevel, step: StepRecord | None = None) -> ReplayedLoss:
        """L1 of a recorded step, by default the latest, as a function of V and E of ``upper``."""


class EngineView(Protocol):
    """The engine as a callback sees it."""

    stop_reason: str | None

    @property
    def global_step(self) -> int:
        """Global steps done, or under way."""

    @property
    def train_iters(self) -> int:
        """Global steps there will be."""

    @property
    def device(self) -> torch.device | str:
        """Where the levels compute."""

    @property
    def problems(self) -> Sequence[UpperLevel]:
        """The levels."""

    @property
    def callbacks(self) -> Sequence[object]:
        """In the order in which they are called."""

    @property
    def world(self) -> World:
        """The processes that train together."""

    def is_rank_zero(self) -> bool:
        """Whether this process is the one that writes files and prints."""

    def request_stop(self, reason: str) -> None:
        """Stop after the global step under way."""

    def agree_to_stop(self) -> None:
        """Stop on all processes where one has been asked to; each has to come here."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the future; tensors are live."""
