"""Count what makes the host wait for the device in a step: told by CUDA, or by dispatch on a CPU.

CUDA itself tells (``torch.cuda.set_sync_debug_mode``). Without a GPU nothing waits, but what would
can be seen where it is dispatched: a number read back (``.item()``, ``float(x)``, ``if x``), a
result whose shape depends on values, a solver that looks whether it has converged, and Python's
numbers made a tensor there, which are copied while the host waits.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["by_dispatch", "by_driver", "counters"]

aten = torch.ops.aten

# A result of these is needed on the host before it can go on.
_READS = {
    aten._local_scalar_dense.default: "reads a number",
    aten.equal.default: "compares whole tensors",
    aten.nonzero.default: "result of unknown length",
    aten.masked_select.default: "result of unknown length",
    aten._unique2.default: "result of unknown length",
    aten.repeat_interleave.Tensor: "result of unknown length",
    aten._linalg_eigh.default: "solver checks itself",
    **dict.fromkeys(
        (getattr(aten.linalg_pinv, name) for name in aten.linalg_pinv.overloads()),
        "solver checks itself",
    ),
    aten._linalg_svd.default: "solver checks itself",
    aten._linalg_solve_ex.default: "solver checks itself",
    aten.linalg_cholesky_ex.default: "solver checks itself",
}
_CHECKED = {aten._linalg_solve_ex.default, aten.linalg_cholesky_ex.default}  # only where asked to
_HERE = Path(__file__).resolve()
_PACKAGES = ("bilevel", "problems", "experiments", "transformers", "peft", "betty", "torch")


def counters(optimizers: Iterable[torch.optim.Optimizer]) -> set[int]:
    """Where the step counts of optimisers lie: on the host, so that they are read for nothing."""
    states = (state for optimizer in optimizers for state in optimizer.state.values())
    counts = (state.get("step") for state in states)
    return {count.data_ptr() for count in counts if isinstance(count, Tensor)}


@contextmanager
def by_dispatch(on_host: Callable[[], set[int]] = set) -> Iterator[Counter[str]]:
    """Count on a CPU what would make the host wait, by place and reason.

    Args:
        on_host: data pointers of tensors that would be on the host beside a GPU too; asked for at
            each number that is read, as an optimiser makes its state at its first step.
    """
    found: Counter[str] = Counter()
    with _Functions(found), _Dispatched(found, on_host):
        yield found


@contextmanager
def by_driver() -> Iterator[Counter[str]]:
    """Count on a GPU what made the host wait, by place, as CUDA's debug mode tells it."""
    found: Counter[str] = Counter()
    before = torch.cuda.get_sync_debug_mode()

    def tell(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            found[_place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = tell
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)


class _Dispatched(TorchDispatchMode):
    def __init__(self, found: Counter[str], on_host: Callable[[], set[int]]) -> None:
        super().__init__()
        self.found = found
        self.on_host = on_host

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        reason = _READS.get(func)
        if func is aten._local_scalar_dense.default and args[0].data_ptr() in self.on_host():
            reason = None
        if func in _CHECKED and not kwargs.get("check_errors", False):
            reason = None
        if func is aten.index.Tensor and any(_is_mask(i) for i in args[1]):
            reason = "result of unknown length"
        if reason is not None:
            self.found[f"{_place()}: {reason}"] += 1
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    """What is no operation of its own: a tensor's way to the host, and numbers' to the device."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        numbers = any(isinstance(a, int | float) for a in args)
        if func in (torch.where, Tensor.where) and numbers:
            self.found[f"{_place()}: copies numbers to the device"] += 1
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            self.found[f"{_place()}: copies numbers to the device"] += not isinstance(
                args[0], Tensor
            )
        if func in (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__):
            self.found[f"{_place()}: reads a tensor"] += 1
        return func(*args, **kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _place() -> str:
    """The innermost line that is not torch's own, nor of a mode, which all calls pass through."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        passed_on = frame.name in ("__torch_function__", "__torch_dispatch__")
        own = path.resolve() == _HERE or {"torch", "warnings.py"} & set(path.parts)
        if not (passed_on or own):
            return f"{_short(frame.filename)}:{frame.lineno}"
    return "torch"


def _short(filename: str) -> str:
    """A path from the package on."""
    parts = Path(filename).parts
    places = [i for i, part in enumerate(parts) if part in _PACKAGES]
    return "/".join(parts[places[-1] :]) if places else parts[-1]
