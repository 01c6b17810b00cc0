"""What of a problem is saved, so that it goes on as if it had never stopped."""

from __future__ import annotations

from typing import Any

import torch

from bilevel.errors import UserError
from bilevel.problem_gradient import ProblemGradient
from bilevel.replay.recording import Window

__all__ = ["ProblemState"]


class ProblemState(ProblemGradient):
    """The part of a problem that makes its state and takes it back."""

    def extra_state(self) -> dict[str, Any]:
        """What else decides this problem's future; for subclasses. Plain values and tensors."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`extra_state` returned."""

    def state_dict(self) -> dict[str, Any]:
        """Everything of this problem that decides its future; no frozen weights.

        Raises:
            UserError: a data loader without a position, or a window of steps under way (of a middle
                level, whose T1 steps take several global ones): what it remembers is not saved.
        """
        remembers = self._rolling or self._needs.depth not in (0, 1)
        if self._parents and remembers and not self._inner_loop_start:
            raise UserError(
                f"problem {self.name!r} is in the midst of its unroll_steps={self._unroll_steps} "
                "steps, which cannot be saved: make checkpoints where a window ends, at every "
                "multiple of unroll_steps"
            )
        running = {id(buffer) for buffer in self.slots.running_statistics()}
        state: dict[str, Any] = {
            "parameters": [p.detach() for p in self.trainable_parameters()],
            "buffers": {n: b for n, b in self.module.named_buffers() if id(b) in running},
            "count": self._count,
            "epochs": list(self.epoch_counter or []),
            "estimator": self.estimator_state,
            "extra": self.extra_state(),
            "loaders": [],
        }
        for part in ("optimizer", "scheduler", "scaler"):
            if getattr(self, part) is not None:
                state[part] = getattr(self, part).state_dict()
        for loader in self.train_data_loader or ():
            if not hasattr(loader, "state_dict"):
                raise UserError(
                    f"the data loader of problem {self.name!r} ({type(loader).__name__}) cannot "
                    "save its position; use bilevel.data.ResumableLoader to make checkpoints"
                )
            state["loaders"].append(loader.state_dict())
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        mine = self.trainable_parameters()
        shapes = [tuple(p.shape) for p in state["parameters"]]
        if shapes != [tuple(p.shape) for p in mine]:
            raise UserError(
                f"the saved state of problem {self.name!r} holds {len(shapes)} parameters of other "
                f"number or shape than the {len(mine)} of the current one; it is another run's"
            )
        buffers = dict(self.module.named_buffers())
        with torch.no_grad():
            for p, value in zip(mine, state["parameters"], strict=True):
                p.copy_(value)
            for name, value in state["buffers"].items():
                buffers[name].copy_(value)
        for part in ("optimizer", "scheduler", "scaler"):
            if getattr(self, part) is not None:
                getattr(self, part).load_state_dict(state[part])
        self._count = state["count"]
        self.epoch_counter = list(state["epochs"])
        self.estimator_state = state["estimator"]
        self.load_extra_state(state["extra"])
        self.window = Window()
        self._inner_loop_start = True
        for i, loader_state in enumerate(state["loaders"]):
            loader = self.train_data_loader[i]
            loader.load_state_dict(loader_state)
            # An epoch that is all handed out ends at the next batch asked for, with its callback.
            spent = self._count > 0 and getattr(loader, "position", None) == 0
            self.train_data_iterator[i] = iter(()) if spent else iter(loader)
