r"""Compute what is differentiated twice: attention by a kernel that can be, GELU by its formula.

    GELU(x) = x Phi(x),    GELU'(x) = Phi(x) + x phi(x),    GELU''(x) = (2 - x^2) phi(x)

with the normal distribution's Phi and its density phi. PyTorch has a kernel for the first
derivative alone; the second one it puts together out of more than a dozen passes over memory. In
MiniLM that took 27 ms a layer, where all of the layer's matrix products took 29 (batch 16, 32
tokens, one thread): a third of a LoRA step in each exact hypergradient. Values and first
derivatives stay PyTorch's own, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

__all__ = ["differentiable_twice", "gelu"]

LOG_DENSITY = -0.5 * math.log(2 * math.pi)  # of the normal distribution at 0


class _Derivative(torch.autograd.Function):
    """g GELU'(x), whose derivatives are v GELU'(x) by g and v g GELU''(x) by x."""

    @staticmethod
    def forward(g: Tensor, x: Tensor) -> Tensor:
        return torch.ops.aten.gelu_backward(g, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        square = x * x
        second = (2 - square) * torch.exp(-0.5 * square + LOG_DENSITY)
        return _Derivative.apply(v, x), v * g * second


class _Gelu(torch.autograd.Function):
    """x Phi(x)."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return functional.gelu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _Derivative.apply(g, x)


def gelu(x: Tensor) -> Tensor:
    """The exact GELU of each element, differentiable any number of times."""
    return _Gelu.apply(x)


class _ClosedForms(TorchFunctionMode):
    """Inside, ``torch.nn.functional.gelu`` is :func:`gelu`; its tanh approximation stays."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take over the one function."""
        exact = kwargs in (None, {}, {"approximate": "none"})
        if func is functional.gelu and len(args) == 1 and exact:
            return gelu(args[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Inside, forward passes can be differentiated twice, as fast as is known here.

    Flash and memory-efficient attention have no second derivative. It is also for backward passes:
    with gradient checkpointing they are forward passes, too.
    """
    with sdpa_kernel(SDPBackend.MATH), _ClosedForms():
        yield
