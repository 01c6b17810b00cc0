"""Draw numbers that a method watches over the steps: orthogonality, density, multiplier, others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.plots.records import Record, run_name, watched
from experiments.plots.style import (
    BLUE,
    GREY,
    INK,
    VERMILLION,
    canvas,
    from_zero,
    headline,
    logarithmic,
    over_a_power,
)
from problems.common.records import SOURCE_WEIGHT

__all__ = ["draw_density", "draw_orthogonality", "draw_others"]

# Drawn by the functions that are not draw_others (sources by a module of their own), or of every
# line.
KNOWN = ("orthogonality", "density", "target_density", "multiplier")
EVERY = ("stage", "step", "kind", "seconds")


def draw_orthogonality(records: Sequence[Record], result: dict[str, Any], path: Path) -> bool:
    """Write the residual over steps, on a logarithmic axis; False when it was not watched."""
    steps, values, starts = watched(records, "orthogonality")
    positive = np.where(values > 0, values, np.nan)
    if not np.isfinite(positive).any():
        return False
    with canvas(path, 6.5, 4.0) as figure:
        axes = figure.subplots()
        axes.plot(steps, positive, color=BLUE)
        logarithmic(axes, "y")
        axes.set_ylabel(r"mean over matrices of $\|M^\top M - I\|_F^2$", parse_math=True)
        axes.set_xlabel("step")
        end = np.flatnonzero(np.isfinite(positive))[-1]
        axes.plot(steps[end], positive[end], "o", color=BLUE, clip_on=False)
        axes.annotate(
            f"{positive[end]:.2g}",
            (steps[end], positive[end]),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=BLUE,
        )
        axes.margins(x=0.0)
        over_a_power(axes)
        axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
        _stages([axes], starts)
        headline(figure, f"Orthogonality residual: {run_name(result)}")
    return True


def draw_density(records: Sequence[Record], result: dict[str, Any], path: Path) -> bool:
    """Write the density over steps, and below it the multiplier if there is one.

    The target is a dashed line where ``target_density`` is watched too. False without density.
    """
    steps, density, starts = watched(records, "density")
    if not np.isfinite(density).any():
        return False
    multiplier_steps, multiplier, _ = watched(records, "multiplier")
    two = bool(np.isfinite(multiplier).any())
    target_steps, target, _ = watched(records, "target_density")
    with canvas(path, 6.5, 5.4 if two else 3.6) as figure:
        panels = list(figure.subplots(1 + two, 1, sharex=True, squeeze=False)[:, 0])
        panels[0].plot(steps, density, color=BLUE, label="density")
        panels[0].set_ylabel("density\n(expected share of open gates)")
        if np.isfinite(target).any():
            panels[0].plot(target_steps, target, "--", color=INK, linewidth=1.2, label="target")
            panels[0].legend(loc="best")
        low = np.nanmin(np.concatenate([density, target]))
        panels[0].set_ylim(min(0.0, low), max(1.02, 1.05 * np.nanmax(density)))
        if two:
            panels[1].plot(multiplier_steps, multiplier, color=VERMILLION)
            panels[1].set_ylabel("multiplier λ")
            from_zero(panels[1])
        panels[-1].set_xlabel("step")
        panels[-1].set_xlim(0, max(1, steps[-1]))
        _stages(panels, starts)
        reached = density[np.isfinite(density)][-1]
        headline(figure, f"Density: {run_name(result)}: {reached:.3f} at the end")
    return True


def draw_others(records: Sequence[Record], result: dict[str, Any], path: Path) -> bool:
    """Write what else a method watched, a panel a number; False when there is nothing else."""
    lines = (record for record in records if record["kind"] == "watch")
    names = dict.fromkeys(
        name
        for r in lines
        for name in r
        if name not in (*KNOWN, *EVERY) and not name.startswith(SOURCE_WEIGHT)
    )
    if not names:
        return False
    with canvas(path, 6.5, 0.9 + 2.2 * len(names)) as figure:
        panels = list(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0])
        for axes, name in zip(panels, names, strict=True):
            steps, values, starts = watched(records, name)
            axes.plot(steps, values, color=BLUE)
            axes.set_ylabel(name.replace("_", " "))
            axes.set_xlim(left=0)
            from_zero(axes)
            _stages([axes], starts)
        panels[-1].set_xlabel("step")
        headline(figure, f"Watched: {run_name(result)}")
    return True


def _stages(panels: Sequence[Axes], starts: Sequence[tuple[str, int]]) -> None:
    """Mark where each stage begins, if there are several."""
    if len(starts) < 2:
        return
    for axes in panels:
        for _, step in starts[1:]:
            axes.axvline(step, color=GREY, linewidth=0.8, linestyle=":")
    for stage, step in starts:
        panels[0].annotate(
            f" {stage}",
            (step, 1.0),
            xycoords=("data", "axes fraction"),
            va="bottom",
            fontsize=8,
            color=INK,
        )
