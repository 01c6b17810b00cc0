"""Write metrics.jsonl: one JSON object a line, exact across resumes."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.callbacks.callback import Callback
from bilevel.callbacks.losses import LossMeans, level_names
from bilevel.checkpoint.disk import refusal, told_when_full
from bilevel.errors import StorageError, UserError
from bilevel.reading import parsed

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import EngineView, UpperLevel

__all__ = ["MetricsWriter"]

log = logging.getLogger(__name__)


class MetricsWriter(Callback):
    """Appends training and validation figures of a stage to a file that stages share.

    Training lines: ``{"stage", "step", "kind": "train", "lower_loss", "upper_loss", "lr",
    "upper_lr", "seconds"}``, losses as means over the steps since the line before (null if there
    was none; graphs of other than two levels use problem names). Validation lines have what the
    validation returned instead. ``seconds`` counts the stage's running time.

    A stage that starts anew drops what a killed attempt at it has left. A resumed one goes back to
    exactly what the checkpoint has seen, so that its file equals an uninterrupted run's but for
    ``seconds``. For that, :class:`CheckpointEvery` must come after this callback.

    Args:
        path: the file.
        every: global steps between training lines; only then are losses read from the device.
        stage: name in each line.
        listeners: each is handed every line once it is written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int = 10,
        stage: str = "train",
        listeners: Sequence[Callable[[dict[str, Any]], None]] = (),
    ) -> None:
        if every < 1:
            raise UserError(f"metrics must be written every 1 step or more, got {every}")
        self.path = Path(path)
        self.every = every
        self.stage = stage
        self.listeners = listeners
        self._losses = LossMeans()
        self._elapsed = 0.0
        self._started = time.monotonic()
        self._resume: dict[str, Any] | None = None
        self._writes = True
        self._engine: EngineView | None = None

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line; numbers that are not finite become null, for JSON has none.

        Raises:
            StorageError: the disk is full, or the file not writable.
        """
        if not self._writes:
            return
        line = {"stage": self.stage, "step": step, "kind": kind, **values}
        line["seconds"] = round(self.seconds(), 3)
        clean = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()
        }
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(clean, allow_nan=False) + "\n")
        except OSError as error:
            reason = refusal(error) or error.strerror or error
            raise StorageError(f"cannot write {self.path}: {reason}") from error
        for listener in self.listeners:
            listener(clean)

    def seconds(self) -> float:
        """Running time of the stage, over all resumes."""
        return self._elapsed + time.monotonic() - self._started

    def on_start(self, engine: EngineView) -> None:
        """Cut the file to where this stage, or the checkpoint, stands.

        Raises:
            StorageError: the disk refused.
        """
        self._started = time.monotonic()
        self._writes, self._engine = engine.is_rank_zero(), engine
        if not self._writes:
            if self._resume is not None:
                self._losses.load_state_dict(self._resume["losses"], engine.device)
                self._resume = None
            return
        with told_when_full(self.path.parent):
            if self._resume is None:
                self._cut(self._first_line_of_stage())
            else:
                self._elapsed = self._resume["seconds"]
                self._losses.load_state_dict(self._resume["losses"], engine.device)
                self._cut(self._resume["bytes"])
                self._resume = None

    def on_gradient(self, problem: UpperLevel, loss: Tensor) -> None:
        """Note the loss."""
        self._losses.add(problem, loss)

    def on_step_end(self, engine: EngineView) -> None:
        """Write a training line if it is time."""
        if engine.global_step % self.every and engine.global_step != engine.train_iters:
            return
        self._losses.share(engine)
        levels, means = level_names(engine), self._losses.read()
        values: dict[str, Any] = {
            f"{levels[p.name]}_loss": means.get(p.name) for p in engine.problems
        }
        for problem in engine.problems:
            if problem.optimizer is not None:
                level = levels[problem.name]
                name = "lr" if level == "lower" else f"{level}_lr"
                values[name] = float(problem.optimizer.param_groups[0]["lr"])
        self.write("train", engine.global_step, values)

    def on_validation(self, engine: EngineView, stats: dict[str, float]) -> None:
        """Write a validation line."""
        self.write("validation", engine.global_step, {k: float(v) for k, v in stats.items()})

    def state_dict(self) -> dict[str, Any]:
        """How far the file goes, and the losses not written yet, of all processes."""
        if self._engine is not None:
            self._losses.share(self._engine)
        return {
            "bytes": self.path.stat().st_size if self.path.exists() else 0,
            "losses": self._losses.state_dict(),
            "seconds": self.seconds(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from here; the file is cut when the run starts."""
        self._resume = state

    def _first_line_of_stage(self) -> int:
        """Offset of this stage's first line, or of a line cut short, or else the end."""
        offset = 0
        if self.path.exists():
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break
                    place = f"{self.path}, line {number}"
                    found = parsed(line.decode(errors="replace"), place)
                    if not isinstance(found, dict):
                        raise UserError(f"{place} is damaged: it holds no object {{...}}")
                    if found.get("stage") == self.stage:
                        break
                    offset += len(line)
        return offset

    def _cut(self, size: int) -> None:
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < size:
            log.warning(
                "%s is shorter than when the checkpoint was made: lines are lost", self.path
            )
        elif there > size:
            os.truncate(self.path, size)
