"""Save checkpoints while training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bilevel.callbacks.callback import Callback
from bilevel.callbacks.guard import NonFiniteGuard
from bilevel.checkpoint.folder import Checkpointer
from bilevel.distributed import PeerLostError, any_of
from bilevel.errors import UserError

if TYPE_CHECKING:
    from bilevel.protocols import EngineView

__all__ = ["CheckpointEvery"]


class CheckpointEvery(Callback):
    """Saves the engine's state every ``every`` global steps, and after the last one.

    Must be the last of the engine's callbacks: what another one does at the end of the step would
    be missing in the checkpoint, and not be done again by a resumed run.

    Args:
        checkpointer: where to.
        every: global steps between checkpoints.
        stage: name of the stage.
        state: engine -> what to save; by default ``engine.state_dict()``.
        stop: looked at after each step: what it returns is raised, once the state is saved.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        every: int,
        stage: str = "train",
        state: Callable[[EngineView], Any] | None = None,
        stop: Callable[[], BaseException | None] = lambda: None,
    ) -> None:
        if every < 1:
            raise UserError(f"checkpoints must be made every 1 step or more, got every={every}")
        self.checkpointer = checkpointer
        self.every = every
        self.stage = stage
        self.state = state or (lambda engine: engine.state_dict())
        self.stop = stop

    def on_start(self, engine: EngineView) -> None:
        """Refuse a place before other callbacks."""
        if engine.callbacks[-1] is not self:
            raise UserError("CheckpointEvery must be the last of the engine's callbacks")

    def on_step_end(self, engine: EngineView) -> None:
        """Save if it is time; a state after something non-finite is never saved."""
        step = engine.global_step
        engine.agree_to_stop()  # the state is of all processes: they save the same step
        last = step == engine.train_iters or engine.stop_reason is not None
        end = self.stop()
        ends = any_of(end is not None, engine.world)
        if step % self.every and not last and not ends:
            return
        for callback in engine.callbacks:
            if isinstance(callback, NonFiniteGuard):
                callback.check()
        state = self.state(engine)
        if engine.is_rank_zero():
            self.checkpointer.save(self.stage, step, state)
        if ends:
            any_of(False, engine.world)  # nobody ends before it is saved, as that ends all
            raise end or PeerLostError("another process of this run was asked to end")
