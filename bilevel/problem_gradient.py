"""Losses and gradients of a Betty problem: autocast, one backward pass a level, no waiting."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from betty.hypergradient import jvp_fn_mapping
from betty.problems import ImplicitProblem
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bilevel import precision as precisions
from bilevel.distributed import averaged
from bilevel.errors import UserError
from bilevel.hypergradient.base import estimator_of
from bilevel.problem_setup import ProblemSetup

__all__ = ["ProblemGradient"]


def _to_device(item: Any, device: torch.device) -> Any:
    """Copy tensors of a nest to ``device``; mappings (``BatchEncoding`` too) become dicts."""
    if isinstance(item, Tensor):
        return item.to(device, non_blocking=True)
    if isinstance(item, Mapping):
        return {key: _to_device(value, device) for key, value in item.items()}
    if isinstance(item, tuple) and hasattr(item, "_fields"):  # a named tuple keeps its names
        return type(item)(*(_to_device(value, device) for value in item))
    if isinstance(item, (list, tuple)):
        return tuple(_to_device(value, device) for value in item)
    return item


def _split(
    items: Sequence[Tensor | None], groups: Sequence[Sequence[Tensor]]
) -> list[list[Tensor | None]]:
    """Cut ``items`` into lists as long as ``groups``."""
    lists, start = [], 0
    for group in groups:
        lists.append(list(items[start : start + len(group)]))
        start += len(group)
    return lists


class ProblemGradient(ProblemSetup):
    """The part of :class:`bilevel.problem.BilevelProblem` that computes."""

    def kernels(self) -> AbstractContextManager[Any]:
        """Attention kernels that this problem's passes, forward and backward, have to use."""
        return sdpa_kernel(SDPBackend.MATH) if self._needs.double_backward else nullcontext()

    def training_step_exec(self, batch: Any) -> Any:
        """``training_step`` under this problem's autocast and attention kernels."""
        if type(batch) is dict:
            batch = dict(batch)  # a training step may take it apart, and it is needed again
        with self.kernels(), precisions.autocast(self.precision, torch.device(self.device).type):
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
        """Loss to descend (scaled, per micro-batch) and statistics; never waits for a device."""
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
        filled = self._unscaled(grads, inputs)
        return filled if create_graph else self._averaged(filled, filled)

    def backward(
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
        keep = record is not None and record.graph is not None
        live = [path for path in paths if not self._stops_gradient(path)]
        uppers = self._parents if record is not None and self._needs.upper_gradient else []
        groups: list[Sequence[Tensor]] = [
            record.graph[0] if record is not None and record.graph is not None else params
        ]
        groups += [path[1].meta_trainable_parameters() for path in live]
        groups += [upper.trainable_parameters() for upper in uppers]
        with self.kernels():
            grads = torch.autograd.grad(
                loss,
                [x for group in groups for x in group],
                create_graph=create_graph or keep,
                retain_graph=retain_graph or keep,
                allow_unused=allow_unused,
            )
        parts = iter(_split(grads, groups))

        direct = next(parts)
        if keep:
            assert record is not None
            assert record.graph is not None
            record.graph = (record.graph[0], self._unscaled(direct, record.graph[0]))
            direct = [None if g is None else g.detach() for g in direct]
        self.set_grads(params, self._averaged(direct, params))
        for path in live:
            vector = self._unscaled(next(parts), path[1].meta_trainable_parameters())
            vector = self._averaged(vector, vector)
            for lower, upper in itertools.pairwise(path[1:]):
                vector = jvp_fn_mapping[lower.config.type](vector, lower, upper, False)
            self.set_grads(params, [self.scaled(g) for g in vector])
        for upper in uppers:
            assert record is not None
            found = self._unscaled(next(parts), upper.trainable_parameters())
            found = self._averaged([g.detach() for g in found], found)
            before = record.upper_gradient.get(upper.name, [])
            record.upper_gradient[upper.name] = (
                [a + b for a, b in zip(before, found, strict=True)] if before else found
            )
        for hook in self.gradient_hooks:
            hook(self, self.last_loss)

    def set_grads(self, params: Sequence[nn.Parameter], grads: Sequence[Tensor | None]) -> None:
        """Add ``grads`` to the parameters' own.

        Autograd may hand out one tensor for two parameters, or a view of one number; what becomes
        a ``p.grad`` must have memory of its own, since clipping and unscaling work in place.
        """
        taken: set[int] = set()
        for param, grad in zip(params, grads, strict=True):
            if grad is None:
                continue
            if param.grad is not None:
                param.grad = param.grad + grad
                continue
            shared = grad.data_ptr() in taken or 0 in grad.stride()
            param.grad = grad.clone(memory_format=torch.contiguous_format) if shared else grad
            taken.add(grad.data_ptr())

    def _unscaled(self, grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
        """Gradients of the loss itself (a scaler multiplies it); zeros where there is none."""
        inverse = None if self.scaler is None else self._inverse_scale()
        return [
            torch.zeros_like(x) if g is None else (g if inverse is None else g * inverse)
            for g, x in zip(grads, like, strict=True)
        ]

    def _averaged(
        self, grads: Sequence[Tensor | None], like: Sequence[Tensor] | None = None
    ) -> list[Any]:
        """Mean over ranks. Ranks may differ in what is None, so there it becomes zeros."""
        if self.world.size == 1:
            return list(grads)
        return averaged(self._filled(grads, like or self.trainable_parameters()), self.world)

    @staticmethod
    def _filled(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
        return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, like, strict=True)]

    def _stops_gradient(self, path: Sequence[ImplicitProblem]) -> bool:
        estimators = [estimator_of(problem.config) for problem in path[1:-1]]
        return any(e is not None and e.is_zero for e in estimators)

    def clip_grad(self) -> None:
        """Clip the global gradient norm of this level's parameters."""
        nn.utils.clip_grad_norm_(self.trainable_parameters(), self.gradient_clipping)
