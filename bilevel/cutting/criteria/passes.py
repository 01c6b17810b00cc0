"""Run a trained adapter on held-out examples, and leave no trace of it on the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import Tensor

from bilevel.evaluation import evaluating, matching_autocast

__all__ = ["Handles", "passes"]


class Handles:
    """Hooks that are taken off together."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def add(self, handle: Any) -> None:
        """Remember what ``register_..._hook`` returned."""
        self._handles.append(handle)

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


@contextmanager
def passes(model: PeftModel, learn: Iterable[Tensor] = ()) -> Iterator[Handles]:
    """Evaluation mode, in the precision of evaluation, and gradients for ``learn`` alone.

    At the end modes and ``requires_grad`` are what they were, and hooks that were added to what
    this gives are off.

    Args:
        model: with an adapter.
        learn: parameters of the model that a graph is recorded for.
    """
    handles = Handles()
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.requires_grad_(False)
        for parameter in learn:
            parameter.requires_grad_(True)
        with evaluating(model), matching_autocast(model):
            yield handles
    finally:
        handles.remove()
        for parameter, requires_grad in trained.items():
            parameter.requires_grad_(requires_grad)
