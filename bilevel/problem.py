"""Betty problems with the optimiser kept as given, recorded steps, and autocast on any device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from betty.hypergradient import jvp_fn_mapping
from betty.problems import ImplicitProblem
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bilevel import precision as precisions
from bilevel.config import ProblemConfig
from bilevel.distributed import World, averaged, broadcast
from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient, estimator_of
from bilevel.hypergradient.optimizers import snapshot
from bilevel.random_state import RandomState
from bilevel.recording import Needs, StepRecord, Window, clone_nested
from bilevel.swap import ParameterSlots

__all__ = ["BilevelProblem", "LowerProblem", "UpperProblem"]


def _to_device(item: Any, device: torch.device) -> Any:
    """Copy tensors of a nest to ``device``; mappings (``BatchEncoding`` too) become dicts."""
    if isinstance(item, Tensor):
        return item.to(device, non_blocking=True)
    if isinstance(item, Mapping):
        return {key: _to_device(value, device) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return tuple(_to_device(value, device) for value in item)
    return item


class BilevelProblem(ImplicitProblem):
    """One level of a multilevel problem: Betty's ``ImplicitProblem``, cured.

    The problem owns a fixed list of parameters, settled at construction: those of the optimiser
    that require a gradient, else those of the module that do. Everything else is frozen for it.

    Args:
        name: name by which the other problems reach this one (``self.NAME``).
        config: a :class:`ProblemConfig` (Betty's own ``Config`` works too).
        module, optimizer, scheduler, train_data_loader: as in Betty, or by the ``configure_*``
            hooks. Optimiser, parameter groups and scheduler are used as given, never rebuilt.
    """

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
        self.window = Window()
        self.estimator_state: dict[str, Any] = {}
        self.gradient_hooks: list[Callable[[BilevelProblem, Tensor], None]] = []
        self.last_loss: Tensor | None = None
        self.last_stats: dict[str, Any] = {}
        self.world = World()

    # ------------------------------------------------------------------ setting up

    def initialize(self) -> None:
        """Set up as Betty does, with a gradient scaler and autocast for any device."""
        requested, self.precision = self.precision, "fp32"  # else Betty insists on CUDA's own
        super().initialize()
        self.precision = precisions.resolve(requested, torch.device(self.device))
        self.scaler = precisions.make_scaler(self.precision, torch.device(self.device))
        self.warmup_steps = self.config.warmup_steps * self.gas  # Betty counts micro-batches
        if self._parents:
            estimator = estimator_of(self.config)
            if estimator is not None:
                estimator.prepare(self)
                self._needs = estimator.needs(self)

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
        """Loaders that shard themselves are kept; others are sharded by Betty."""
        if self.world.size == 1 or hasattr(loader, "load_state_dict"):
            return loader
        return super().patch_data_loader(loader)

    def configure_distributed_training(self, dictionary: dict[str, Any]) -> None:
        """Take the ranks' layout from the engine."""
        super().configure_distributed_training(dictionary)
        self.world = dictionary.get("world", World())

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters this level owns, a list that is settled once."""
        if self._parameters is None:
            self._parameters = self._settle_parameters()
        return self._parameters

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

    def training_step_exec(self, batch: Any) -> Any:
        """``training_step`` under this problem's autocast and attention kernels."""
        kernels = sdpa_kernel(SDPBackend.MATH) if self._needs.double_backward else nullcontext()
        with kernels, precisions.autocast(self.precision, torch.device(self.device).type):
            return self.training_step(batch)

    def loss(self, batch: Any) -> Tensor:
        """The loss of ``batch`` as a scalar tensor, whatever ``training_step`` returns."""
        result = self.training_step_exec(batch)
        return result["loss"] if isinstance(result, Mapping) else result

    def get_batch_single_loader(self, idx: int) -> Any:
        """Next batch of loader ``idx``, on the device; a spent loader starts its next epoch."""
        try:
            batch = next(self.train_data_iterator[idx])
        except StopIteration:
            if idx == 0:
                self.epoch_callback_exec()
            self.epoch_counter[idx] += 1
            loader = self.train_data_loader[idx]
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(self.epoch_counter[idx])
            self.train_data_iterator[idx] = iter(loader)
            batch = next(self.train_data_iterator[idx], None)
            if batch is None:
                raise UserError(f"the data loader of problem {self.name!r} is empty") from None
        return _to_device(batch, torch.device(self.device))

    @property
    def last_indices(self) -> list[int] | None:
        """Data-set indices of the latest batch, where the loader tells them."""
        if not self.train_data_loader:
            return None
        return getattr(self.train_data_loader[0], "last_indices", None)

    def get_loss(self, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """Loss to descend (scaled, per micro-batch) and statistics, without waiting for a device."""
        result = self.training_step_exec(batch)
        stats = dict(result) if isinstance(result, Mapping) else {"loss": result}
        loss = stats["loss"]
        stats["loss"] = self.last_loss = loss.detach()
        self.last_stats = stats
        if getattr(self.config, "maximize", False):
            loss = -loss
        return self.scaled(loss) / self.gas, stats

    def scaled(self, value: Tensor) -> Tensor:
        """``value`` times the gradient scaler's factor (fp16), else ``value`` itself."""
        return value if self.scaler is None else self.scaler.scale(value)

    def _inverse_scale(self) -> Tensor | float:
        if self.scaler is None:
            return 1.0
        return 1.0 / self.scaler.scale(torch.ones((), device=self.device))

    def gradient(
        self, loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False
    ) -> list[Tensor]:
        """d loss / d inputs, averaged over ranks, zeros where the loss does not depend on one."""
        grads = torch.autograd.grad(
            self.scaled(loss), inputs, create_graph=create_graph, allow_unused=True
        )
        inverse = self._inverse_scale()
        filled = [
            torch.zeros_like(x) if g is None else (g if self.scaler is None else g * inverse)
            for g, x in zip(grads, inputs, strict=True)
        ]
        return filled if create_graph else self._averaged(filled)

    def backward(  # type: ignore[override]
        self,
        loss: Tensor,
        params: Sequence[nn.Parameter],
        paths: Sequence[Sequence[ImplicitProblem]],
        create_graph: bool = False,
        retain_graph: bool = False,
        allow_unused: bool = True,
    ) -> None:
        """Accumulate the direct gradient and, along each path, the implicit one.

        dL2/dE = direct partial + sum over paths of (d best response / dE)^T v. The direct partial
        and v = dL2/dV come out of one backward pass (Betty takes two).
        """
        record = self._micro_record
        live = [path for path in paths if not self._stops_gradient(path)]
        uppers = {p.name: p.trainable_parameters() for p in self._parents}
        with_upper = record is not None and self._needs.upper_gradient
        keep = record is not None and record.graph is not None
        groups: list[list[Tensor]] = [record.graph[0] if keep else list(params)]  # type: ignore[index,union-attr]
        groups += [list(path[1].meta_trainable_parameters()) for path in live]
        groups += list(uppers.values()) if with_upper else []

        flat = [x for group in groups for x in group]
        grads = torch.autograd.grad(
            loss,
            flat,
            create_graph=create_graph or keep,
            retain_graph=retain_graph or keep,
            allow_unused=allow_unused,
        )
        parts: list[list[Tensor | None]] = []
        for group in groups:
            parts.append(list(grads[: len(group)]))
            grads = grads[len(group) :]
        inverse = self._inverse_scale()

        direct = parts.pop(0)
        if keep:
            leaves = record.graph[0]  # type: ignore[union-attr,index]
            record.graph = (  # type: ignore[union-attr]
                leaves,
                [
                    torch.zeros_like(p) if g is None else g * inverse
                    for g, p in zip(direct, leaves, strict=True)
                ],
            )
            direct = [None if g is None else g.detach() for g in direct]
        self.set_grads(params, self._averaged(direct))

        for path in live:
            vector = [
                torch.zeros_like(p) if g is None else g * inverse
                for g, p in zip(parts.pop(0), path[1].meta_trainable_parameters(), strict=True)
            ]
            vector = self._averaged(vector)
            for lower, upper in zip(path[1:-1], path[2:], strict=True):
                vector = jvp_fn_mapping[lower.config.type](vector, lower, upper, False)
            self.set_grads(params, [g / inverse for g in vector])
        if with_upper:
            for name, values in uppers.items():
                found = [
                    torch.zeros_like(p) if g is None else g.detach() * inverse
                    for g, p in zip(parts.pop(0), values, strict=True)
                ]
                found = self._averaged(found)
                total = record.upper_gradient.get(name)  # type: ignore[union-attr]
                record.upper_gradient[name] = (  # type: ignore[union-attr]
                    found if total is None else [a + b for a, b in zip(total, found, strict=True)]
                )
        for hook in self.gradient_hooks:
            hook(self, self.last_loss)  # type: ignore[arg-type]

    def _averaged(self, grads: list[Any]) -> list[Any]:
        """Mean over ranks; Nones stay."""
        if self.world.size == 1:
            return grads
        means = iter(averaged([g for g in grads if g is not None], self.world))
        return [None if g is None else next(means) for g in grads]

    def _stops_gradient(self, path: Sequence[ImplicitProblem]) -> bool:
        for problem in path[1:-1]:
            if problem.config.type not in jvp_fn_mapping:
                allowed = ", ".join(sorted(jvp_fn_mapping))
                raise UserError(
                    f"problem {problem.name!r} names the hypergradient {problem.config.type!r}; "
                    f"allowed: {allowed}"
                )
        estimators = [estimator_of(problem.config) for problem in path[1:-1]]
        return any(e is not None and e.is_zero for e in estimators)

    def clip_grad(self) -> None:
        """Clip the global gradient norm of this level's parameters."""
        nn.utils.clip_grad_norm_(self.trainable_parameters(), self.gradient_clipping)

    # ------------------------------------------------------------------ steps

    def one_step_descent(self, batch: Any = None) -> dict[str, Any]:
        """Take one micro-batch; at the accumulation boundary, one optimiser step."""
        fresh = batch is None
        if fresh:
            batch = self.cur_batch = self.get_batch()
        record = self._open_record(batch) if fresh and self._parents else None
        if record is not None and record.graph is not None:
            with self.slots.holding(record.graph[0], replay=False):
                loss, stats = self.get_loss(batch)
        else:
            loss, stats = self.get_loss(batch)
        self._micro_record = record
        self.backward(
            loss=loss,
            params=self.trainable_parameters(),
            paths=self._paths,
            create_graph=not self._first_order,
            retain_graph=self._retain_graph,
            allow_unused=self._allow_unused,
        )
        self._micro_record = None
        if self.is_implemented("grad_callback"):
            self.grad_callback()
        if self.gradient_accumulation_boundary():
            if record is not None:
                self._close_record(record)
            scale_before = self.scaler.get_scale() if self.scaler is not None else None
            self.optimizer_step()
            if record is not None and scale_before is not None:
                record.applied = self.scaler.get_scale() >= scale_before
            if self.is_implemented("param_callback"):
                self.param_callback()
            self.zero_grad()
        return stats

    def _open_record(self, batch: Any) -> StepRecord | None:
        """Remember what the coming micro-batch needs to be computed again."""
        needs = self._needs
        if needs.depth == 0:
            return None
        first_micro = self.gas == 1 or self._count % self.gas == 1
        if not first_micro and self.window.steps:
            record = self.window.steps[-1]
        else:
            weights = [p.detach().clone() for p in self.trainable_parameters()]
            record = StepRecord(weights, max_norm=self.gradient_clipping)
            if needs.optimizer:
                record.snapshot = snapshot(self.optimizer, self.trainable_parameters())
            if needs.graph and self.gas == 1:
                record.graph = ([w.requires_grad_() for w in record.weights], [])
            self.window.steps.append(record)
        record.batches.append((batch, RandomState.capture(self.device)))
        return record

    def _close_record(self, record: StepRecord) -> None:
        inverse = self._inverse_scale()
        # A copy: clipping changes p.grad in place. None where the loss does not use a parameter.
        record.gradient = [
            None if p.grad is None else p.grad.detach() * inverse
            for p in self.trainable_parameters()
        ]

    def step_normal(self, global_step: int | None = None) -> None:
        """One micro-step of a leaf; T2 optimiser steps of a problem whose children are done."""
        if not self.check_ready():
            return
        repeats = 1 if self._leaf else getattr(self.config, "steps", 1) * self.gas
        for _ in range(repeats):
            self.ready = [True] * len(self._children)
            self._micro_step(global_step)
        self.ready = [False] * len(self._children)

    def _micro_step(self, global_step: int | None) -> None:
        if self._inner_loop_start:
            if self.is_implemented("on_inner_loop_start"):
                self.on_inner_loop_start()
            self._inner_loop_start = False
            if self._roll_back:
                self.cache_states()
            if self._parents:
                self.window.open(
                    self._needs.depth,
                    {
                        parent.name: [p.detach().clone() for p in parent.trainable_parameters()]
                        for parent in self._parents
                    },
                )
        if self._training:
            self._count += 1
        stats = self.one_step_descent()
        at_boundary = self.gradient_accumulation_boundary()
        if self.scheduler is not None and not self._roll_back and at_boundary:
            self.scheduler.step()
        if self.log_step > 0 and self._count % self.log_step == 0 and self.is_rank_zero():
            self.log(stats, global_step)
        due = self._count % (self._unroll_steps * self.gas) == 0
        if self._training and due and self._count > self.warmup_steps:
            for parent in self._parents:
                parent.ready[parent.children.index(self)] = True
                parent.step_normal(global_step=global_step)
            self.window.drop_graphs()
            self._inner_loop_start = True
        elif due:
            self._inner_loop_start = True

    # ------------------------------------------------------------------ states

    def cache_states(self) -> None:
        """Copy what a roll-back restores: this level's parameters and optimiser, no backbone."""
        self.module_state_dict_cache = [p.detach().clone() for p in self.trainable_parameters()]
        self.opitmizer_state_dict_cache = (
            None if self.optimizer is None else clone_nested(self.optimizer.state_dict())
        )

    def recover_states(self, clean: bool = True) -> None:
        """Put back what :meth:`cache_states` copied."""
        with torch.no_grad():
            for p, value in zip(
                self.trainable_parameters(), self.module_state_dict_cache, strict=True
            ):
                p.copy_(value)
        if self.optimizer is not None:
            self.optimizer.load_state_dict(self.opitmizer_state_dict_cache)
        if clean:
            self.module_state_dict_cache = None
            self.opitmizer_state_dict_cache = None

    def state_dict(self) -> dict[str, Any]:
        """Everything of this problem that decides its future; no frozen weights."""
        state: dict[str, Any] = {
            "parameters": [p.detach() for p in self.trainable_parameters()],
            "buffers": {
                name: buffer
                for name, buffer in self.module.named_buffers()
                if any(buffer is b for m in self.slots._running for b in m.buffers(recurse=False))
            },
            "count": self._count,
            "epochs": list(self.epoch_counter or []),
            "estimator": self.estimator_state,
            "loaders": [],
        }
        for part in ("optimizer", "scheduler", "scaler"):
            if getattr(self, part) is not None:
                state[part] = getattr(self, part).state_dict()
        for loader in self.train_data_loader or ():
            if not hasattr(loader, "state_dict"):
                raise UserError(
                    f"the data loader of problem {self.name!r} ({type(loader).__name__}) cannot "
                    "save its position; use bilevel.data.ResumableLoader to make checkpoints"
                )
            state["loaders"].append(loader.state_dict())
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        mine = self.trainable_parameters()
        shapes = [tuple(p.shape) for p in state["parameters"]]
        if shapes != [tuple(p.shape) for p in mine]:
            raise UserError(
                f"the saved state of problem {self.name!r} holds {len(shapes)} parameters of other "
                f"number or shape than the {len(mine)} of the current one; it is another run's"
            )
        buffers = dict(self.module.named_buffers())
        with torch.no_grad():
            for p, value in zip(mine, state["parameters"], strict=True):
                p.copy_(value)
            for name, value in state["buffers"].items():
                buffers[name].copy_(value)
        for part in ("optimizer", "scheduler", "scaler"):
            if getattr(self, part) is not None:
                getattr(self, part).load_state_dict(state[part])
        self._count = state["count"]
        self.epoch_counter = list(state["epochs"])
        self.estimator_state = state["estimator"]
        self.window = Window()
        self._inner_loop_start = True
        for i, loader_state in enumerate(state["loaders"]):
            self.train_data_loader[i].load_state_dict(loader_state)
            self.train_data_iterator[i] = iter(self.train_data_loader[i])


class LowerProblem(BilevelProblem):
    """A level whose solution others differentiate through (LoRA factors on D_train, say).

    ``config.hypergradient`` says how; see :mod:`bilevel.hypergradient`.
    """

    @property
    def hypergradient(self) -> Hypergradient | None:
        """The estimator in use, None when ``config.type`` names one of Betty's own."""
        return estimator_of(self.config)


class UpperProblem(BilevelProblem):
    """A level that is trained through the solution of those below (gates on D_val, say).

    ``config.steps`` is T2; ``config.maximize`` ascends. A problem in the middle of three levels
    may be either class: all mechanics are in :class:`BilevelProblem`.
    """
