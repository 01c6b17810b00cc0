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
    """States of Python's, NumPy's and torch's generators (CPU, and of GPUs that are used)."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    cpu: torch.Tensor
    cuda: dict[int, torch.Tensor]
    mps: torch.Tensor | None = None  # Apple's

    @classmethod
    def capture(cls, device: torch.device | str | None = None) -> RandomState:
        """Read the generators; of GPUs only ``device``'s, or of all with ``None``."""
        cuda: dict[int, torch.Tensor] = {}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            if device is None:
                cuda = dict(enumerate(torch.cuda.get_rng_state_all()))
            elif torch.device(device).type == "cuda":
                index = torch.device(device).index
                index = torch.cuda.current_device() if index is None else index
                cuda = {index: torch.cuda.get_rng_state(index)}
        given = None if device is None else torch.device(device).type
        mps = given == "mps" or (given is None and torch.backends.mps.is_available())
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(legacy=False),
            cpu=torch.get_rng_state(),
            cuda=cuda,
            mps=_of_mps() if mps else None,
        )

    def on(self, device: torch.device | str) -> RandomState:
        """The same for a process that runs on ``device``, whatever GPU it ran on before.

        From a GPU to a CPU dropout masks cannot go on where they were: a warning says so.
        """
        target = torch.device(device)
        if not self.cuda and (self.mps is None or target.type == "mps"):
            return self
        if target.type != "cuda" or not self.cuda:
            log.warning(
                "the saved state is of a run on a GPU, and this one is on %s: what is drawn at "
                "random (dropout) will differ from what it would have been there",
                target,
            )
            return replace(self, cuda={}, mps=None)
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
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Run the block from this state and leave the generators as they were before it."""
        before = RandomState(
            random.getstate(),
            np.random.get_state(legacy=False),
            torch.get_rng_state(),
            {index: torch.cuda.get_rng_state(index) for index in self.cuda},
            None if self.mps is None else _of_mps(),
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
            **({} if self.mps is None else {"mps": self.mps}),
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
            mps=state.get("mps"),
        )


def _of_mps() -> torch.Tensor:
    return torch.mps.get_rng_state()
