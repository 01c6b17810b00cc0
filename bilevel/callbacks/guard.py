"""Stop a run on the first loss or gradient that is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from bilevel.callbacks.callback import Callback
from bilevel.checkpoint.folder import Checkpointer
from bilevel.errors import UserError

if TYPE_CHECKING:
    from bilevel.protocols import EngineView, UpperLevel

__all__ = ["NonFiniteError", "NonFiniteGuard"]

_NONE = torch.iinfo(torch.int64).max
_SHOWN = 64


class NonFiniteError(UserError):
    """A loss or gradient was infinite or not a number."""


class _Seen(NamedTuple):
    problem: str
    step: int
    local_step: int
    indices: list[int] | None


class NonFiniteGuard(Callback):
    """Raises :class:`NonFiniteError` naming step, problem, batch and last good checkpoint.

    On a CPU at once, before the optimiser step that would spoil the weights. On an accelerator
    looking at a value stalls the device, so what is wrong first is noted there and read every
    ``every`` global steps, before each checkpoint and at the end: a bad state is never saved.
    Gradients of fp16 problems are left to their scaler, which skips such steps by design.

    Args:
        every: global steps between readings on an accelerator.
        checkpointer: where the last good checkpoint is looked up.
    """

    def __init__(self, every: int = 20, checkpointer: Checkpointer | None = None) -> None:
        if every < 1:
            raise UserError(f"the guard must look every 1 step or more, got every={every}")
        self.every = every
        self.checkpointer = checkpointer
        self._step = 0
        self._first_bad: Tensor | None = None  # 2 i for a loss, 2 i + 1 for a gradient
        self._seen: list[_Seen] = []

    def on_start(self, engine: EngineView) -> None:
        """Forget an earlier run."""
        self._step = engine.global_step + 1
        self._first_bad, self._seen = None, []

    def on_gradient(self, problem: UpperLevel, loss: Tensor) -> None:
        """Look at loss and gradients, without waiting for an accelerator."""
        index = len(self._seen)
        seen = _Seen(problem.name, self._step, problem.count, problem.last_indices)
        self._seen.append(seen)
        code = _code(loss, 2 * index)
        grads = [_dense(p.grad) for p in problem.trainable_parameters() if p.grad is not None]
        if grads and problem.scaler is None:
            # The largest entry, not the 2-norm, whose squares can overflow by themselves.
            largest = torch.nn.utils.get_total_norm(grads, float("inf")).to(loss.device)
            code = torch.minimum(code, _code(largest, 2 * index + 1))
        self._first_bad = code if self._first_bad is None else torch.minimum(self._first_bad, code)
        if loss.device.type == "cpu":
            self.check()

    def on_step_end(self, engine: EngineView) -> None:
        """Read what has been noted, if it is time."""
        self._step = engine.global_step + 1
        if engine.global_step % self.every == 0:
            self.check()

    def on_end(self, engine: EngineView) -> None:
        """Read what has been noted."""
        self.check()

    def check(self) -> None:
        """Raise if anything since the last call was not finite. Waits for the device."""
        code = _NONE if self._first_bad is None else int(self._first_bad.item())
        seen, self._seen, self._first_bad = self._seen, [], None
        if code == _NONE:
            return
        what = "gradient" if code % 2 else "loss"
        bad = seen[code // 2]
        good: Any = None if self.checkpointer is None else self.checkpointer.last_good
        raise NonFiniteError(
            f"the {what} of problem {bad.problem!r} is not finite at global step {bad.step} (local "
            f"step {bad.local_step}, {_batch(bad.indices)}); last good checkpoint: "
            f"{good or 'none'}; try a lower learning rate, gradient clipping or precision=fp32"
        )


def _code(value: Tensor, what: int) -> Tensor:
    """``what`` where a 0-d tensor is not finite, else :data:`_NONE`; never waits for the device.

    ``torch.where`` on numbers would: it copies them to the device.
    """
    nothing = torch.full_like(value, _NONE, dtype=torch.int64)
    return nothing.masked_fill(~torch.isfinite(value), what)


def _dense(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad


def _batch(indices: list[int] | None) -> str:
    if indices is None:
        return "batch unknown: its loader does not say"
    shown = ", ".join(map(str, indices[:_SHOWN]))
    rest = len(indices) - _SHOWN
    return f"examples {shown}" + (f" and {rest} more" if rest > 0 else "")
