"""Put examples into batches for evaluation, and a model into evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

__all__ = ["batches", "evaluating"]

# Tokens of a batch, padding included, and examples of a batch, at most.
TOKENS = 8192
EXAMPLES = 64


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of examples in batches of like length, longest first.

    They need little padding; where an example is padded changes nothing else.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = min(EXAMPLES, max(1, TOKENS // lengths[order[start]]))
        yield order[start : start + size]
        start += size


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; at the end every module has its mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
