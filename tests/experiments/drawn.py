"""What tests of figures share: the files of a run, and a look at the finished picture."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def result(method: str, seed: int = 0, **other: Any) -> dict[str, Any]:
    """The result of a run of one level."""
    base = {
        "method": method,
        "task": "sst2",
        "model": "tiny",
        "seed": seed,
        "metrics": {"accuracy": 0.9 + seed / 100},
        "primary_metric": "accuracy",
        "train_loss": 0.2,
        "test_loss": 0.4,
        "ranks": None,
        "adapter_parameters": 1000,
        "seconds": {"train": 2.0},
        "engine": {"T1": None, "steps": {"train": 30}},
        "update": None,
    }
    return {**base, **other}


def evaluations(losses: dict[int, float], stage: str = "train") -> list[dict[str, Any]]:
    """Lines of a stage's evaluations, whose test loss is one more than the training loss."""
    return [
        {"stage": stage, "step": step, "kind": "validation", "train_loss": x, "test_loss": x + 1}
        for step, x in losses.items()
    ]


def write(folder: Path, lines: list[dict[str, Any]]) -> None:
    """The lines as a run's metrics file."""
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def headline(figure: Figure) -> str:
    """The title of a figure and what stands below it."""
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def assert_nothing_cut(figure: Figure) -> None:
    """Lay the figure out: no artist reaches over its edge by more than a hair."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox(figure.canvas.get_renderer())  # type: ignore[attr-defined]
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) > -0.03
    assert box.x1 < width + 0.03
    assert box.y1 < height + 0.03
