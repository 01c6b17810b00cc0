"""Setting a Betty problem up: parameters owned once, optimiser and scheduler kept as given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from betty.hypergradient import jvp_fn_mapping
from betty.problems import ImplicitProblem
from torch import Tensor, nn

from bilevel import precision as precisions
from bilevel.config import ProblemConfig
from bilevel.data import ResumableLoader
from bilevel.distributed import World, broadcast
from bilevel.errors import UserError
from bilevel.hypergradient.base import estimator_of
from bilevel.hypergradient.derivatives import check_reentrant
from bilevel.replay.parameter_slots import ParameterSlots
from bilevel.replay.recording import Needs, StepRecord, Window

__all__ = ["ProblemSetup"]


class ProblemSetup(ImplicitProblem):
    """The part of :class:`bilevel.problem.BilevelProblem` that runs before training."""

    _count: int
    _inner_loop_start: bool
    module_state_dict_cache: dict[str, list[Tensor]] | None

    def __init__(
        self,
        name: str,
        config: Any = None,
        module: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        train_data_loader: Any = None,
        extra_config: Any = None,
    ) -> None:
        config = ProblemConfig() if config is None else config
        super().__init__(
            name, config, module, optimizer, scheduler, train_data_loader, extra_config
        )
        self._parameters: list[nn.Parameter] | None = None
        self._slots: ParameterSlots | None = None
        self._needs = Needs(depth=0)
        self._micro_record: StepRecord | None = None
        self._rolling = False  # whether the window under way will be rolled back
        self._micro_batches: list[Any] = []
        self.window = Window()
        self.estimator_state: dict[str, Any] = {}
        self.gradient_hooks: list[Callable[[Any, Any], None]] = []
        self.last_loss: Tensor | None = None
        self.last_stats: dict[str, Any] = {}
        self.world = World()

    def initialize(self) -> None:
        """Set up as Betty does, with a gradient scaler and autocast for any device."""
        requested: str = self.config.precision
        self.precision = "fp32"  # else Betty insists on CUDA's own
        super().initialize()
        self.precision = precisions.resolve(requested, torch.device(self.device))
        self.scaler = precisions.make_scaler(self.precision, torch.device(self.device))
        self.warmup_steps = self.config.warmup_steps * self.gas  # Betty counts micro-batches
        check_reentrant(self.module)
        self._check_estimators()
        if self._parents:
            estimator = estimator_of(self.config)
            if estimator is not None:
                estimator.prepare(self)
                self._needs = estimator.needs(self)

    def _check_estimators(self) -> None:
        for problem in {p for path in self._paths for p in path[1:-1]}:
            if problem.config.type not in jvp_fn_mapping:
                raise UserError(
                    f"problem {problem.name!r} names the hypergradient {problem.config.type!r}; "
                    f"allowed: {', '.join(sorted(jvp_fn_mapping))}"
                )

    def _settle_parameters(self) -> list[nn.Parameter]:
        if self.optimizer is not None:
            candidates = [p for group in self.optimizer.param_groups for p in group["params"]]
        else:
            candidates = list(self.module.parameters())
        parameters = [p for p in candidates if p.requires_grad]
        if not parameters:
            raise UserError(f"problem {self.name!r} has no parameter that requires a gradient")
        return parameters

    def patch_module(self) -> None:
        """Move the module to the device; ranks start from equal trainable parameters."""
        self.module.to(self.device)
        self._parameters = self._settle_parameters()
        broadcast([p.data for p in self._parameters], self.world)

    def patch_optimizer(self) -> None:
        """Keep the optimiser as given. Betty would rebuild it and lose its groups."""
        if self.optimizer is None and not self.is_implemented("custom_optimizer_step"):
            raise UserError(f"problem {self.name!r} has no optimizer")

    def patch_scheduler(self) -> None:
        """Keep the scheduler as given: it already drives the optimiser that is in use."""

    def patch_data_loader(self, loader: Any) -> Any:
        """Every rank gets its part: of each batch, or (Betty) of the batches."""
        if self.world.size == 1:
            return loader
        if isinstance(loader, ResumableLoader):
            if loader.world_size == 1:
                loader.shard(self.world.rank, self.world.size)
            return loader
        return super().patch_data_loader(loader)

    def configure_distributed_training(self, dictionary: dict[str, Any]) -> None:
        """Take the ranks' layout from the engine."""
        super().configure_distributed_training(dictionary)
        self.world = dictionary.get("world", World())

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters this level owns, a list that is settled once.

        While a loss is replayed at other values, these are the values it is replayed at.
        """
        if self._slots is not None and self._slots.held is not None:
            return list(self._slots.held)  # type: ignore[arg-type]
        if self._parameters is None:
            self._parameters = self._settle_parameters()
        return self._parameters

    @property
    def ancestors(self) -> list[Any]:
        """All problems above this one, nearest first."""
        found: list[Any] = []
        waiting = list(self._parents)
        while waiting:
            problem = waiting.pop(0)
            if problem not in found:
                found.append(problem)
                waiting += problem.parents
        return found

    def parameters(self) -> list[nn.Parameter]:
        """Same as :meth:`trainable_parameters`: a frozen backbone belongs to no level."""
        return self.trainable_parameters()

    @property
    def slots(self) -> ParameterSlots:
        """Where the trainable parameters sit in the module tree."""
        if self._slots is None:
            self._slots = ParameterSlots(self.module, self.trainable_parameters())
        return self._slots
