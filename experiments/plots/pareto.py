"""Draw scores against parameters, with their intervals and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from experiments.comparing.comparison import Comparison, Method
from experiments.plots.records import setting_name
from experiments.plots.style import (
    GREY,
    canvas,
    headline,
    logarithmic,
    look,
    wrapped,
)

__all__ = ["draw"]

LETTERS = 30  # of a method's name on one line
NEAR = 1.03  # points whose sizes are nearer to each other would hide one another


def draw(comparisons: Sequence[Comparison], path: Path) -> bool:
    """Write the figure: a panel a task and model, a point a method.

    Bars are 95 % intervals, over seeds and test examples, of one seed over test examples. The line
    is the front, of the filled points: none is beaten in score by a method with as few parameters.

    Args:
        comparisons: of :func:`experiments.comparing.compare.compare`.
        path: the PNG to write.

    Returns:
        False where no task has two methods of different size with a score.
    """
    shown = [c for c in comparisons if len({m.parameters for m in _scored(c)}) > 1]
    if not shown:
        return False
    with canvas(path, 9.2, 4.2 * len(shown) + 0.5) as figure:
        panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axes, comparison in zip(panels, shown, strict=True):
            _panel(axes, comparison)
        headline(
            figure,
            f"Test score against parameters: {_of(shown)}",
            "bars: 95 %; line and filled points: Pareto front; sizes within 3 % are side by side",
        )
    return True


def _of(shown: Sequence[Comparison]) -> str:
    """Methods, tasks, models and seeds, as other figures name them."""
    return setting_name(
        [
            {"method": m.method, "task": c.task, "model": c.model, "seed": run.seed}
            for c in shown
            for m in c.methods
            for run in m.runs
        ]
    )


def _scored(c: Comparison) -> list[Method]:
    return [m for m in c.methods if m.score is not None]


def _score(m: Method) -> float:
    return math.nan if m.score is None else m.score


def _panel(axes: Axes, c: Comparison) -> None:
    methods = sorted(_scored(c), key=lambda m: (m.parameters, m.name))
    places = _beside(methods)
    front = sorted((x, _score(m)) for m, x in zip(methods, places, strict=True) if m.on_front)
    axes.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1.2, zorder=1)
    for i, (m, x) in enumerate(zip(methods, places, strict=True)):
        own = {**look(i), "linestyle": "none", "markersize": 8, "zorder": 3}
        seeds = f"{len(m.runs)} seeds" if len(m.runs) > 1 else "1 seed"
        label = f"{wrapped(m.name, LETTERS)} ({seeds})"
        axes.plot(x, _score(m), **own, markerfacecolor=None if m.on_front else "white", label=label)
        if m.low is not None and m.high is not None:
            axes.plot([x, x], [m.low, m.high], color=own["color"], linewidth=1.4, zorder=2)
    if min(m.parameters for m in methods) > 0:
        logarithmic(axes, "x")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    better = "" if c.higher_is_better else " (less is better)"
    axes.set_ylabel(f"test {c.metric}{better}")
    axes.set_xlabel("parameters saved, adapter and head")
    axes.set_title(f"{c.task}, {c.model}", loc="left")


def _beside(methods: Sequence[Method]) -> list[float]:
    """Where each is drawn: those of one size a little beside one another."""
    found, before = [], [0.0, 0.0]
    for m in methods:
        x = m.parameters
        if before[0] and x < before[0] * NEAR:
            x = before[1] * NEAR
        before = [m.parameters, x]
        found.append(x)
    return found
