"""Run the rows of one part, each by itself: what one raises is its outcome and no other's."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Failed", "NotMeasured", "Row", "Setting", "Skipped", "run_rows"]

Values = dict[str, Any]
Row = Callable[[], Values]


@dataclass(frozen=True)
class Setting:
    """What a part runs on.

    Attributes:
        device: the GPU, or the CPU.
        small: sizes that a CPU gets through.
    """

    device: torch.device
    small: bool

    @property
    def on_gpu(self) -> bool:
        """Whether there is anything to say about a GPU."""
        return self.device.type == "cuda"


class Failed(Exception):  # noqa: N818 (an outcome)
    """A row's figures are not what they have to be.

    Args:
        message: what is wrong.
        values: the figures.
    """

    status = "failed"

    def __init__(self, message: str, values: Values | None = None) -> None:
        super().__init__(message)
        self.values = values or {}


class Skipped(Failed):
    """What a row needs is not on this machine."""

    status = "skipped"


class NotMeasured(Failed):
    """A row is about a GPU, and there is none."""

    status = "not measured"


def run_rows(
    rows: Mapping[str, Row],
    setting: Setting,
    write: Callable[[dict[str, Any]], None],
    after: str | None = None,
) -> bool:
    """Run rows in order, telling of each when it begins and when it has ended.

    Args:
        rows: name -> what gives its figures.
        setting: where they run.
        write: is handed ``{"rows": names}``, then for each row ``{"begun": name}`` and
            ``{"row": name, "status", "message", "seconds", "values"}``.
        after: begin behind this row.

    Returns:
        Whether the device still answers: after an error that CUDA does not forgive, all that
        follows in this process would fail.
    """
    names = list(rows)
    write({"rows": names})
    for name in names if after is None else names[names.index(after) + 1 :]:
        write({"begun": name})
        start = time.perf_counter()
        status, message, values = "passed", "", {}
        try:
            values = rows[name]()
        except Failed as outcome:
            status, message, values = outcome.status, str(outcome), outcome.values
        except Exception as error:  # whatever it is, it is this row's outcome
            status, message = "failed", _told(error)
        seconds = round(time.perf_counter() - start, 2)
        line = {"row": name, "status": status, "message": message, "seconds": seconds}
        write({**line, "values": values})
        gc.collect()
        if setting.on_gpu and not _answers():
            return False
    return True


def _told(error: Exception) -> str:
    """The error's first line and where it was raised."""
    first = (str(error).strip() or "no message").splitlines()[0]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{place}"


def _answers() -> bool:
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True
