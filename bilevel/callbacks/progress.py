"""Show a progress bar."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from bilevel.callbacks.callback import Callback
from bilevel.callbacks.losses import LossMeans, level_names

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import EngineView, UpperLevel

__all__ = ["ProgressBar"]


class ProgressBar(Callback):
    """Global steps with rate, time left and the mean loss of each level since it was last drawn.

    Shows nothing when the stream (stderr) is no terminal, and on ranks other than 0.

    Args:
        label: words before the bar, such as the stage.
        refresh: seconds between drawings; only then are losses read from the device.
        stream: where to draw, by default stderr.
    """

    def __init__(self, label: str = "", refresh: float = 0.5, stream: TextIO | None = None) -> None:
        self.label = label
        self.refresh = refresh
        self.stream = stream
        self._bar: Any = None
        self._losses = LossMeans()
        self._drawn = 0.0

    def on_start(self, engine: EngineView) -> None:
        """Open the bar at the step the engine stands at."""
        self._bar = tqdm(
            total=engine.train_iters,
            initial=engine.global_step,
            desc=self.label or None,
            file=self.stream,
            # None: disabled when the stream is no terminal.
            disable=None if engine.is_rank_zero() else True,
            mininterval=self.refresh,
            dynamic_ncols=True,
            unit="step",
        )

    def on_gradient(self, problem: UpperLevel, loss: Tensor) -> None:
        """Note the loss."""
        if self._bar is not None and not self._bar.disable:
            self._losses.add(problem, loss)

    def on_step_end(self, engine: EngineView) -> None:
        """Move on, and draw if it is time."""
        now = time.monotonic()
        last = engine.global_step == engine.train_iters
        if not self._bar.disable and (last or now - self._drawn >= self.refresh):
            self._drawn = now
            levels = level_names(engine)
            means = {f"{levels[name]} loss": mean for name, mean in self._losses.read().items()}
            self._bar.set_postfix({k: f"{v:.4f}" for k, v in means.items()}, refresh=False)
        self._bar.update()

    def on_end(self, engine: EngineView) -> None:
        """Leave the finished bar on the screen."""
        self._bar.close()

    def on_exception(self, engine: EngineView, error: BaseException) -> None:
        """Leave the unfinished bar, so that the message starts on a line of its own."""
        if self._bar is not None:
            self._bar.close()
