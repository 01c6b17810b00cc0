"""Record and replay every source of randomness a loss may draw from.

A hypergradient asks for the *same* lower loss again, at other weights. With dropout the loss is
a different function at every call unless the generators are put back to where they were.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

__all__ = ["RandomState"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RandomState:
    """States of Python's, NumPy's and torch's generators (CPU and, if given, CUDA devices)."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    cpu: torch.Tensor
    cuda: dict[int, torch.Tensor]

    @classmethod
    def capture(cls, device: torch.device | str | None = None) -> RandomState:
        """Read the generators; of the CUDA ones only ``device``'s, or all with ``None``."""
        cuda: dict[int, torch.Tensor] = {}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            if device is None:
                cuda = dict(enumerate(torch.cuda.get_rng_state_all()))
            elif torch.device(device).type == "cuda":
                index = torch.device(device).index
                index = torch.cuda.current_device() if index is None else index
                cuda = {index: torch.cuda.get_rng_state(index)}
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(legacy=False),
            cpu=torch.get_rng_state(),
            cuda=cuda,
        )

    def on(self, device: torch.device | str) -> RandomState:
        """The same for a process that runs on ``device``, whatever GPU it ran on before.

        From a GPU to a CPU dropout masks cannot go on where they were: a warning says so.
        """
        target = torch.device(device)
        if not self.cuda:
            return self
        if target.type != "cuda":
            log.warning(
                "the saved state is of a run on a GPU, and this one is on %s: what is drawn at "
                "random (dropout) will differ from what it would have been there",
                target,
            )
            return replace(self, cuda={})
        index = torch.cuda.current_device() if target.index is None else target.index
        state = self.cuda[index] if index in self.cuda else next(iter(self.cuda.values()))
        return replace(self, cuda={index: state})

    def restore(self) -> None:
        """Put the generators back to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        for index, state in self.cuda.items():
            torch.cuda.set_rng_state(state, index)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Run the block from this state and leave the generators as they were before it."""
        before = RandomState(
            random.getstate(),
            np.random.get_state(legacy=False),
            torch.get_rng_state(),
            {index: torch.cuda.get_rng_state(index) for index in self.cuda},
        )
        self.restore()
        try:
            yield
        finally:
            before.restore()

    def state_dict(self) -> dict[str, Any]:
        """A nest of tensors, lists and numbers that a checkpoint can hold."""
        return {
            "python": [self.python[0], list(self.python[1]), self.python[2]],
            "numpy": self.numpy,
            "cpu": self.cpu,
            "cuda": self.cuda,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> RandomState:
        """The inverse of :meth:`state_dict`."""
        version, internal, gauss = state["python"]
        return cls(
            python=(version, tuple(internal), gauss),
            numpy=state["numpy"],
            cpu=state["cpu"],
            cuda={int(index): value for index, value in state["cuda"].items()},
        )
