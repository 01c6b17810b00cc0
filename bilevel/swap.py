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

    @contextmanager
    def holding(self, values: Sequence[Tensor], replay: bool = True) -> Iterator[None]:
        """Let the module use ``values`` in place of its parameters inside the block.

        With ``replay``, running statistics (batch norm) that a forward pass updates are put back
        at the end, so that a replayed loss leaves no trace.
        """
        if len(values) != len(self.parameters):
            raise ValueError(f"{len(values)} values for {len(self.parameters)} parameters")
        running = [
            (buffer, buffer.clone())
            for module in (self._running if replay else ())
            for buffer in module.buffers(recurse=False)
        ]
        for owner, name, index in self._slots:
            owner._parameters[name] = values[index]  # type: ignore[assignment]
        try:
            yield
        finally:
            for owner, name, index in self._slots:
                owner._parameters[name] = self.parameters[index]
            with torch.no_grad():
                for buffer, value in running:
                    buffer.copy_(value)
