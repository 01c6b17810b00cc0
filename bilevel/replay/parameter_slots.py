"""Evaluate a module at other parameter values without touching its parameters.

Betty perturbs weights in place and adds the perturbation back; in floating point that drifts
(2.0 after 1,000 steps in bf16). Here the module temporarily *refers* to other tensors, so there
is nothing to put back, and a graph built on them survives the optimiser's in-place step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bilevel.errors import UserError

__all__ = ["ParameterSlots"]


class ParameterSlots:
    """Where each of some parameters sits in a module tree (tied parameters sit in many places).

    Args:
        module: root of the tree.
        parameters: the parameters to find, in the order in which values will be given.

    Raises:
        UserError: a parameter is nowhere in the tree.
    """

    def __init__(self, module: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.held: Sequence[Tensor] | None = None  # the values in use inside `holding`
        self.verified = False  # whether a loss was seen to read its parameters through the module
        position = {id(p): i for i, p in enumerate(self.parameters)}
        self._slots: list[tuple[nn.Module, str, int]] = []
        self._running: list[nn.Module] = []
        found: set[int] = set()
        for owner in module.modules():
            if getattr(owner, "track_running_stats", False):
                self._running.append(owner)
            for name, parameter in owner._parameters.items():
                index = position.get(id(parameter))
                if index is not None:
                    self._slots.append((owner, name, index))
                    found.add(index)
        missing = len(self.parameters) - len(found)
        if missing:
            raise UserError(
                f"{missing} of the {len(self.parameters)} trainable parameters are not in the "
                f"problem's module ({type(module).__name__}); a hypergradient can only be taken "
                "through parameters that the module owns"
            )

    def running_statistics(self) -> list[Tensor]:
        """The buffers that forward passes in training mode update (batch norm)."""
        return [buffer for module in self._running for buffer in module.buffers(recurse=False)]

    @contextmanager
    def holding(self, values: Sequence[Tensor], replay: bool = True) -> Iterator[None]:
        """Let the module use ``values`` in place of its parameters inside the block.

        With ``replay``, running statistics (batch norm) that a forward pass updates are put back
        at the end, so that a replayed loss leaves no trace.
        """
        if len(values) != len(self.parameters):
            raise ValueError(f"{len(values)} values for {len(self.parameters)} parameters")
        running = [(b, b.clone()) for b in self.running_statistics()] if replay else []
        outer, self.held = self.held, values
        for owner, name, index in self._slots:
            owner._parameters[name] = values[index]  # type: ignore[assignment]
        try:
            yield
        finally:
            self.held = outer
            for owner, name, index in self._slots:
                owner._parameters[name] = (outer or self.parameters)[index]  # type: ignore[assignment]
            with torch.no_grad():
                for buffer, value in running:
                    buffer.copy_(value)

    def verify(self, loss: Tensor, name: str) -> None:
        """Make sure, once, that ``loss`` was computed from the held values and nothing else.

        Raises:
            UserError: it also depends on a parameter itself, read from somewhere else.
        """
        if self.verified:
            return
        live = [p for p in self.parameters if p.requires_grad]
        found = torch.autograd.grad(loss, live, retain_graph=True, allow_unused=True)
        if any(g is not None for g in found):
            raise UserError(
                f"a loss that depends on problem {name!r} reads a parameter that was stored "
                "somewhere, so it cannot be evaluated at other values; read it from self.module or "
                "self.trainable_parameters() each time"
            )
        self.verified = True
