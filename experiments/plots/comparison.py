"""Methods side by side, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.plots.style import OKABE_ITO, canvas

__all__ = ["draw"]


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the figure: a row a task and model, a panel a measure, a line a method.

    Every seed is a dot; the bar shows mean and standard deviation.
    """
    settings = sorted({(r["task"], r["model"]) for r in results})
    methods = sorted({r["method"] for r in results})
    height = 1.0 + len(settings) * (0.9 + 0.42 * len(methods))
    with canvas(path, 12.5, height) as figure:
        panels = figure.subplots(len(settings), 4, squeeze=False)
        for row, (task, model) in enumerate(settings):
            here = [r for r in results if (r["task"], r["model"]) == (task, model)]
            metric = here[0]["primary_metric"]
            measures = [
                (f"test {metric}", [r["metrics"][metric] for r in here]),
                ("over-fitting gap (test − train loss)", [_gap(r) for r in here]),
                ("adapter parameters", [r["adapter_parameters"] for r in here]),
                ("seconds", [sum(r["seconds"].values()) for r in here]),
            ]
            for axes, (label, values) in zip(panels[row], measures, strict=True):
                _measure(axes, methods, [r["method"] for r in here], values)
                axes.set_xlabel(label)
            panels[row, 0].set_title(f"{task}, {model}", loc="left")
            panels[row, -1].set_title(
                "points: seeds; bars: mean ± one standard deviation",
                loc="right",
                fontsize=8,
                fontweight="normal",
            )
            for axes in panels[row, 1:]:
                axes.tick_params(labelleft=False)


def _gap(result: dict[str, Any]) -> float:
    return result["test_loss"] - result["train_loss"]


def _measure(axes: Any, methods: Sequence[str], owners: Sequence[str], values: Any) -> None:
    for y, method in enumerate(methods):
        mine = np.array([v for v, owner in zip(values, owners, strict=True) if owner == method])
        if not len(mine):
            continue
        colour = OKABE_ITO[y % len(OKABE_ITO)]
        spread = mine.std(ddof=1) if len(mine) > 1 else 0.0
        axes.errorbar(
            mine.mean(), y, xerr=spread, fmt="D", color=colour, markersize=7, capsize=4, zorder=3
        )
        offsets = np.linspace(-0.12, 0.12, len(mine)) if len(mine) > 1 else np.zeros(1)
        axes.scatter(mine, y + offsets, s=16, color=colour, alpha=0.45, zorder=2, linewidths=0)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.15)
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.locator_params(axis="x", nbins=5)
