"""Draw the scores of methods side by side, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.comparing.comparison import Comparison
from experiments.plots.records import method_name, setting_name
from experiments.plots.style import (
    BLUE,
    OKABE_ITO,
    STRIPE,
    canvas,
    from_zero,
    headline,
    logarithmic,
    wrapped,
)

__all__ = ["draw"]

WIDTH = 46  # characters of a method's name on one line


def draw(
    results: Sequence[dict[str, Any]], path: Path, compared: Sequence[Comparison] = ()
) -> None:
    """Write the figure: a row a task and model, a panel a measure, a line a method.

    Every seed is a dot; the bar shows mean and standard deviation. All axes reach 0 but that of the
    score (and logarithmic ones), whose label says so: scores are near each other, and the bars say
    what is noise.

    Args:
        results: result.json of each run, with its ``variant`` if it has one.
        path: the PNG to write.
        compared: of the same runs: which score was asked for, the primary one where it is not said.
    """
    scores = {(c.task, c.model): c for c in compared}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["task"], result["model"]), []).append(result)
    methods = {s: sorted({method_name(r) for r in here}) for s, here in groups.items()}
    names = [wrapped(name, WIDTH) for here in methods.values() for name in here]
    inches = max(0.36, 0.12 + 0.14 * max(1 + name.count("\n") for name in names))
    labels = 0.075 * max(len(line) for name in names for line in name.split("\n"))
    heights = [0.9 + inches * len(methods[setting]) for setting in sorted(groups)]
    with canvas(path, 11.5 + labels, sum(heights) + 0.6) as figure:
        panels = figure.subplots(len(groups), 4, squeeze=False, height_ratios=heights)
        for row, setting in zip(panels, sorted(groups), strict=True):
            here = groups[setting]
            asked = scores.get(setting)
            metric = here[0]["primary_metric"] if asked is None else asked.metric
            better = "" if asked is None or asked.higher_is_better else ", less is better"
            measures = [
                (f"test {metric}{better}", [_number(r["metrics"].get(metric)) for r in here]),
                ("over-fitting gap (test − train loss)", [_gap(r) for r in here]),
                ("adapter parameters", [r["adapter_parameters"] for r in here]),
                ("seconds", [sum(r["seconds"].values()) for r in here]),
            ]
            owners = [method_name(r) for r in here]
            for axes, (label, values) in zip(row, measures, strict=True):
                _measure(axes, methods[setting], owners, values)
                axes.set_xlabel(label)
            low, high = row[0].get_xlim()
            if not low <= 0 <= high:
                row[0].set_xlabel(f"test {metric}{better} (axis not from 0)")
            row[0].set_title(", ".join(setting), loc="left")
            for axes in row[1:]:
                if axes.get_xscale() == "linear":
                    from_zero(axes, "x")
                axes.tick_params(labelleft=False)
        headline(
            figure,
            f"Methods side by side: {setting_name(results)}",
            "points: seeds; diamonds: their mean; bars: ± one standard deviation",
        )


def _gap(result: dict[str, Any]) -> float:
    return result["test_loss"] - _number(result["train_loss"])


def _number(value: float | None) -> float:
    """Not a number, which is not drawn, for what a run does not have."""
    return math.nan if value is None else value


def _measure(
    axes: Any, methods: Sequence[str], owners: Sequence[str], values: Sequence[float]
) -> None:
    few = len(methods) <= len(OKABE_ITO)
    for y, method in enumerate(methods):
        mine = np.array([v for v, owner in zip(values, owners, strict=True) if owner == method])
        colour = OKABE_ITO[y] if few else BLUE  # no two alike, or all: the rows tell them apart
        spread = mine.std(ddof=1) if len(mine) > 1 else 0.0
        axes.errorbar(
            mine.mean(), y, xerr=spread, fmt="D", color=colour, markersize=6, capsize=4, zorder=3
        )
        offsets = np.linspace(-0.12, 0.12, len(mine)) if len(mine) > 1 else np.zeros(1)
        axes.scatter(mine, y + offsets, s=16, color=colour, alpha=0.45, zorder=2, linewidths=0)
        if not few and y % 2:
            axes.axhspan(y - 0.5, y + 0.5, color=STRIPE, linewidth=0, zorder=0)
    axes.set_yticks(range(len(methods)), [wrapped(method, WIDTH) for method in methods], fontsize=9)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.15)
    if min(values) > 0 and max(values) > 30 * min(values):
        logarithmic(axes, "x")
        return
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.locator_params(axis="x", nbins=5)
