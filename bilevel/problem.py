"""Train one level of a multilevel problem: Betty's problem with recorded steps and exact states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from betty.hypergradient import jvp_fn_mapping
from betty.problems import ImplicitProblem
from torch import Tensor, nn

from bilevel import gradients, graph, precision
from bilevel.checkpoint import level_state
from bilevel.config import ProblemConfig
from bilevel.data import KnowsEpochs, ResumableLoader
from bilevel.distributed import World, broadcast
from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient
from bilevel.hypergradient.derivatives import ReplayedLoss
from bilevel.hypergradient.registry import enter_in, estimator_of
from bilevel.hypergradient.shared import check_reentrant
from bilevel.micro_batches import EpochEnd, MicroBatch, StepBatches, loss_terms
from bilevel.nests import to_device
from bilevel.plain_level import PlainLevel
from bilevel.protocols import LowerLevel, UpperLevel
from bilevel.replay.parameter_slots import ParameterSlots
from bilevel.replay.recorder import StepRecorder
from bilevel.replay.recording import RecordedSteps, StepRecord
from bilevel.replay.roll_back import RollBack
from bilevel.second_derivatives import differentiable_twice
from bilevel.sharding import place
from bilevel.step_gradient import StepGradient, loss_of
from bilevel.step_settings import StepSettings, check_scaler, take_step

__all__ = ["BilevelProblem", "LowerProblem", "UpperProblem"]


class BilevelProblem(ImplicitProblem):
    """One level of a multilevel problem: Betty's ``ImplicitProblem``, cured.

    The problem owns a fixed list of parameters, settled at construction: those of the optimiser
    that require a gradient, else those of the module that do. Everything else is frozen for it.

    Args:
        name: name by which the other problems reach this one (``self.NAME``).
        config: a :class:`ProblemConfig`; Betty's own ``Config`` becomes one.
        module, optimizer, scheduler, train_data_loader: as in Betty, or by the ``configure_*``
            hooks. Optimiser, parameter groups and scheduler are used as given, never rebuilt.
    """

    _count: int
    _inner_loop_start: bool

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
        config = ProblemConfig() if config is None else ProblemConfig.of(config)
        super().__init__(
            name, config, module, optimizer, scheduler, train_data_loader, extra_config
        )
        self._parameters: list[nn.Parameter] | None = None
        self._slots: ParameterSlots | None = None
        self.recorder = StepRecorder()
        self.roll_back = RollBack()
        self.step_batches = StepBatches()
        self.estimator_state: dict[str, Any] = {}
        self.gradient_hooks: list[Callable[[Any, Any], None]] = []
        self.step_gradient = StepGradient()
        self.last_loss: Tensor | None = None
        self.last_stats: dict[str, Any] = {}
        self.world = World()

    # ------------------------------------------------------------------ setting up

    def initialize(self) -> None:
        """Set up as Betty does, with a gradient scaler and autocast for any device."""
        requested: str = self.config.precision
        self.precision = "fp32"  # else Betty insists on CUDA's own
        super().initialize()
        device, config = torch.device(self.device), self.config
        self.precision = precision.resolve(requested, device)
        self.scaler = precision.make_scaler(
            self.precision, device, config.initial_dynamic_scale, config.scale_factor
        )
        check_scaler(self)
        self.warmup_steps = self.config.warmup_steps * self.gas  # Betty counts micro-batches
        check_reentrant(self.module)
        graph.check_estimators(self._paths, jvp_fn_mapping)
        estimator = estimator_of(self.config) if self._parents else None
        if estimator is not None:
            self.roll_back.check(self._roll_back, estimator)
            estimator.prepare(self)
            self.recorder.serve(self, estimator)

    def patch_module(self) -> None:
        """Move the module to the device; ranks start from equal trainable parameters."""
        place(self.module, self.device, self.world)
        self._parameters = graph.owned_parameters(self.name, self.module, self.optimizer)
        broadcast([p.data for p in self._parameters], self.world)

    def patch_optimizer(self) -> None:
        """Keep the optimiser as given. Betty would rebuild it and lose its groups."""
        if self.optimizer is None and not self.is_implemented("custom_optimizer_step"):
            raise UserError(f"problem {self.name!r} has no optimizer")

    def patch_scheduler(self) -> None:
        """Keep the scheduler as given: it already drives the optimiser that is in use."""

    def patch_data_loader(self, loader: Any) -> Any:
        """Every rank gets its part: of each batch, or (Betty) of the batches."""
        if self.world.world_size == 1:
            return loader
        if isinstance(loader, ResumableLoader):
            if loader.world_size == 1:
                loader.shard(self.world.rank, self.world.world_size)
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
            self._parameters = graph.owned_parameters(self.name, self.module, self.optimizer)
        return self._parameters

    @property
    def ancestors(self) -> list[Any]:
        """All upper problems, nearest first."""
        return graph.ancestors(self._parents)

    def parameters(self) -> list[nn.Parameter]:
        """Same as :meth:`trainable_parameters`: a frozen backbone belongs to no level."""
        return self.trainable_parameters()

    @property
    def slots(self) -> ParameterSlots:
        """Where the trainable parameters sit in the module tree."""
        if self._slots is None:
            self._slots = ParameterSlots(self.module, self.trainable_parameters())
        return self._slots

    # ------------------------------------------------------------------ losses and gradients

    def kernels(self) -> AbstractContextManager[Any]:
        """What this problem's passes, forward and backward, have to compute with."""
        twice = self.recorder.needs.double_backward
        return differentiable_twice() if twice else nullcontext()

    def training_step_exec(self, batch: Any) -> Any:
        """``training_step`` under this problem's autocast and attention kernels."""
        if type(batch) is dict:
            batch = dict(batch)  # a training step may take it apart, and it is needed again
        with self.kernels(), precision.autocast(self.precision, torch.device(self.device).type):
            return self.training_step(batch)

    def loss(self, batch: Any) -> Tensor:
        """The loss of ``batch`` as a scalar tensor, whatever ``training_step`` returns."""
        return loss_of(self.training_step_exec(batch), self.name)

    def objective(self, batch: Any) -> Tensor:
        """What this level descends: its loss, negated where it maximises."""
        loss = self.loss(batch)
        return -loss if self.config.maximize else loss

    def replayed_loss(self, upper: UpperLevel, step: StepRecord | None = None) -> ReplayedLoss:
        """L1 of a recorded step, by default the latest, as a function of V and E of ``upper``."""
        batches = (step or self.recorded.last).batches
        return ReplayedLoss(self, upper, batches, self.recorded.upper_values.get(upper.name))

    def get_batch_single_loader(self, idx: int) -> Any:
        """Next batch of loader ``idx``, on the device; a spent loader starts its next epoch."""
        try:
            batch = next(self.train_data_iterator[idx])
        except StopIteration:
            if idx == 0:
                if self.step_batches.within_step:
                    raise EpochEnd from None
                self.epoch_callback_exec()
            self.epoch_counter[idx] += 1
            loader = self.train_data_loader[idx]
            if isinstance(loader, KnowsEpochs):
                loader.set_epoch(self.epoch_counter[idx])
            self.train_data_iterator[idx] = iter(loader)
            batch = next(self.train_data_iterator[idx], None)
            if batch is None:
                raise UserError(f"the data loader of problem {self.name!r} is empty") from None
        self.step_batches.loaded.append(batch)
        return to_device(batch, torch.device(self.device))

    @property
    def last_indices(self) -> list[int] | None:
        """Data-set indices of the batch in use, where the loader tells them."""
        if self.step_batches.current is not None:
            return self.step_batches.current.indices
        loader = self.train_data_loader[0] if self.train_data_loader else None
        return loader.last_indices if isinstance(loader, ResumableLoader) else None

    def loss_terms(self, batch: Any) -> float:
        """How many terms the mean has that is the loss of ``batch``; for subclasses.

        It weights a step's micro-batches (:mod:`bilevel.micro_batches`); they are as loaded.
        """
        return loss_terms([level.module for level in (self, *self.children)], batch)

    def of_step(self, batches: list[Any], loaded: list[Any]) -> list[Any]:
        """A step's micro-batches (``loaded``: on the host), where a loss has to know of all."""
        return batches

    def get_loss(self, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """Loss to descend, scaled (fp16), and statistics; never waits for a device."""
        result = self.training_step_exec(batch)
        loss = loss_of(result, self.name)
        stats = dict(result) if isinstance(result, Mapping) else {}
        stats["loss"] = self.last_loss = loss.detach()
        self.last_stats = stats
        if self.config.maximize:
            loss = -loss
        return self.scaled(loss), stats

    def scaled(self, value: Tensor) -> Tensor:
        """``value`` times the gradient scaler's factor (fp16), else ``value`` itself."""
        return value if self.scaler is None else self.scaler.scale(value)

    @property
    def inverse_scale(self) -> Tensor | None:
        """1 / the gradient scaler's factor (fp16), else None."""
        if self.scaler is None:
            return None
        return 1.0 / self.scaler.scale(torch.ones((), device=self.device))

    def gradient(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        """d loss / d inputs, averaged over ranks, zeros where the loss does not depend on one."""
        return gradients.mean_over_ranks(self.own_gradient(loss, inputs), inputs, self.world)

    def own_gradient(
        self, loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False
    ) -> list[Tensor]:
        """The same of this rank alone."""
        grads = torch.autograd.grad(
            self.scaled(loss), inputs, create_graph=create_graph, allow_unused=True
        )
        return gradients.unscaled(grads, inputs, self.inverse_scale)

    def new_gradient(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """d objective / d inputs over the batches of a new optimiser step, of all ranks."""
        total: list[Tensor] = []
        for micro in self.step_batches.draw(self):
            if micro.counts or self.world.shards_base:
                loss = micro.weighted(self.objective(micro.batch))
                grads = self.own_gradient(loss, inputs)
                total = gradients.added(total or None, grads) if micro.counts else total
        return gradients.mean_over_ranks(total, inputs, self.world)

    def backward(
        self,
        loss: Tensor,
        params: Sequence[nn.Parameter],
        paths: Sequence[Sequence[ImplicitProblem]],
        **options: Any,
    ) -> None:
        """Add a micro-batch's part to its step's gradient; options as of :class:`StepGradient`."""
        self.step_gradient.add(self, loss, params, paths, **{"allow_unused": True, **options})

    def set_grads(self, params: Sequence[nn.Parameter], grads: Sequence[Tensor | None]) -> None:
        """Add ``grads`` to the parameters' own."""
        gradients.accumulate(params, grads)

    def clip_grad(self) -> None:
        """Clip the global gradient norm of this level's parameters."""
        nn.utils.clip_grad_norm_(self.trainable_parameters(), self.gradient_clipping)

    # ------------------------------------------------------------------ steps

    def one_step_descent(self, batch: Any = None) -> dict[str, Any]:
        """Take one micro-batch; at the accumulation boundary, one optimiser step.

        Args:
            batch: a :class:`MicroBatch` to take again, unrecorded; the next one of the data, where
                the epoch has one for this step, without.
        """
        micro: MicroBatch | None = self.step_batches.take(self) if batch is None else batch
        stats = self.last_stats if micro is None else self._descend(micro, fresh=batch is None)
        if self.gradient_accumulation_boundary():
            record = self.recorder.close(self)
            if self.scaler is None or record is None:
                self.optimizer_step()
            else:
                before = self.scaler.get_scale()
                self.optimizer_step()
                # The scale falls when the step was skipped.
                record.applied = self.scaler.get_scale() >= before
            if self.is_implemented("param_callback"):
                self.param_callback()
            self.zero_grad()
        return stats

    def _descend(self, micro: MicroBatch, fresh: bool) -> dict[str, Any]:
        """Add a micro-batch's part of the step's gradient."""
        record = None
        self.step_batches.current, self.cur_batch = micro, micro.batch
        if fresh:
            self.roll_back.note(micro)
            if self._parents and self.records_steps:
                record = self.recorder.open(self, micro)
        if record is not None and record.graph is not None:
            with self.slots.holding(record.graph[0], replay=False):
                loss, stats = self.get_loss(micro.batch)
                self.slots.verify(loss, self.name)
        else:
            loss, stats = self.get_loss(micro.batch)
        if micro.counts or self.world.shards_base:  # then the other ranks wait for this pass
            self.backward(
                loss=micro.weighted(loss),
                params=self.trainable_parameters(),
                paths=self._paths,
                create_graph=not self._first_order,
                retain_graph=self._retain_graph,
                allow_unused=self._allow_unused,
                counts=micro.counts,
            )
        elif record is not None:
            record.graph = None
        if micro.last:
            self.step_gradient.complete(self)
        for hook in self.gradient_hooks if micro.counts else ():
            hook(self, self.last_loss)
        if self.is_implemented("grad_callback"):
            self.grad_callback()
        return stats

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Clip, then step the optimiser as it was given (Betty's adds entries to its state)."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.gradient_clipping > 0.0:
            self.clip_grad()
        take_step(self, *args, **kwargs)

    def step_settings(self) -> Sequence[StepSettings]:
        """Rates and decays that upper variables decide, one a param group; for subclasses."""
        return ()

    def step_normal(self, global_step: int | None = None) -> None:
        """One micro-step of a leaf; T2 optimiser steps of a problem whose children are done."""
        if not self.check_ready():
            return
        repeats = 1 if self._leaf else self.config.steps * self.gas
        for _ in range(repeats):
            self.ready = [True] * len(self._children)
            self._micro_step(global_step)
        self.ready = [False] * len(self._children)

    def _micro_step(self, global_step: int | None) -> None:
        if self._inner_loop_start:
            if self.is_implemented("on_inner_loop_start"):
                self.on_inner_loop_start()
            self._inner_loop_start = False
            end = self._count + self._unroll_steps * self.gas
            upper_step_follows = self._training and end > self.warmup_steps
            self.roll_back.active = self._roll_back and upper_step_follows
            if self.roll_back.active:
                self.roll_back.save(self)
            if self._parents:
                estimator = estimator_of(self.config)
                if estimator is not None and estimator.needs_vary:
                    self.recorder.serve(self, estimator)
                self.recorder.start(self, accompanied=upper_step_follows)
        if self._training:
            self._count += 1
        stats = self.one_step_descent()
        at_boundary = self.gradient_accumulation_boundary()
        if self.scheduler is not None and not self.roll_back.active and at_boundary:
            self.scheduler.step()
        if self.log_step > 0 and self._count % self.log_step == 0 and self.is_rank_zero():
            self.log(stats, global_step)
        if self._count % (self._unroll_steps * self.gas) == 0:
            if self._training and self._count > self.warmup_steps:
                for parent in self._parents:
                    parent.ready[parent.children.index(self)] = True
                    parent.step_normal(global_step=global_step)
                self.recorded.drop_graphs()
            self._inner_loop_start = True

    def step_after_roll_back(self) -> None:
        """Back to the start of the T1 steps; the last again, now with the new upper variables."""
        if not (self.check_ready() and self._training):
            return
        if self.roll_back.active and self._inner_loop_start:  # all T1 steps are taken
            self.roll_back.active = False
            self.roll_back.restore(self)
            end, batches = self._count, self.roll_back.batches
            for place, batch in enumerate(batches, start=1):
                self._count = end - len(batches) + place
                self.one_step_descent(batch)
            if self.scheduler is not None:
                self.scheduler.step()
            for parent in self._parents:
                if parent._roll_back:
                    parent.ready[parent.children.index(self)] = True
                    parent.step_after_roll_back()
        self.ready = [False] * len(self._children)

    def take_lower_steps(self) -> None:
        """T1 steps, recorded, with no upper step after them."""
        self._inner_loop_start = True
        self.recorder.start(self)
        for _ in range(self.config.unroll_steps * self.gas):
            self._count += 1
            self.one_step_descent()
            if self.scheduler is not None and self.gradient_accumulation_boundary():
                self.scheduler.step()

    @property
    def recorded(self) -> RecordedSteps:
        """The steps since the last upper step, as far as the estimator needs them."""
        return self.recorder.recorded

    @property
    def records_steps(self) -> bool:
        """Whether the coming step is worth recording; for subclasses."""
        return True

    @property
    def differentiated(self) -> bool:
        """Whether upper levels differentiate through the coming steps; for subclasses."""
        return True

    def extra_state(self) -> dict[str, Any]:
        """What else decides this problem's future; for subclasses. Plain values and tensors."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`extra_state` returned."""

    def state_dict(self) -> dict[str, Any]:
        """Everything of this problem that decides its future; no frozen weights.

        Raises:
            UserError: a data loader without a position, or T1 steps under way (of a middle level,
                whose T1 steps take several global ones): what it remembers is not saved.
        """
        remembers = self.roll_back.active or self.recorder.needs.several_steps
        if self._parents and remembers and not self._inner_loop_start:
            raise UserError(
                f"problem {self.name!r} is in the midst of its unroll_steps={self._unroll_steps}, "
                "which cannot be saved: make checkpoints at every multiple of unroll_steps"
            )
        return level_state.take(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        level_state.put_back(self, state)
        self._count = state["count"]
        self.recorder.forget()
        self._inner_loop_start = True


class LowerProblem(BilevelProblem):
    """A level whose solution others differentiate through (LoRA factors on D_train, say).

    ``config.hypergradient`` says how; see :mod:`bilevel.hypergradient`.
    """

    @property
    def hypergradient(self) -> Hypergradient | None:
        """The estimator in use, None when ``config.type`` names one of Betty's own."""
        return estimator_of(self.config)


class UpperProblem(BilevelProblem):
    """A level that is trained through the solution of lower ones (gates on D_val, say).

    ``config.steps`` is T2; ``config.maximize`` ascends. In the middle of three it may be either.
    """


def as_level(problem: Any, estimator: Hypergradient) -> LowerLevel:
    """A problem as ``estimator`` may see it; Betty's own ones become :class:`PlainLevel`."""
    return problem if isinstance(problem, BilevelProblem) else PlainLevel(problem, estimator)


enter_in(jvp_fn_mapping, as_level)
