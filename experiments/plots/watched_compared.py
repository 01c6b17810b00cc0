"""Draw one number that several runs watched over the steps: orthogonality, or density."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.plots.records import Record, method_name, setting_name, watched
from experiments.plots.style import (
    INK,
    canvas,
    from_zero,
    headline,
    legend_beside,
    logarithmic,
    look,
    over_a_power,
)

__all__ = ["LABELS", "draw"]

# name -> label of its axis, and whether that is logarithmic
LABELS = {
    "orthogonality": ("residual (mean over matrices\nof " + r"$\|M^\top M - I\|_F^2$)", True),
    "density": ("density\n(expected share of open gates)", False),
}
COLUMNS = 3


def draw(runs: Sequence[tuple[Sequence[Record], dict[str, Any]]], name: str, path: Path) -> bool:
    """Write the figure: a panel a task and model, a line a method.

    Lines are means over seeds, bands their range. A target density, where runs watch one, is drawn
    dashed.

    Args:
        runs: lines of metrics.jsonl and result.json of each run.
        name: a key of ``LABELS``.
        path: the PNG to write.

    Returns:
        False when fewer than two runs watched it.
    """
    found: dict[tuple[str, str], dict[str, list[tuple[np.ndarray, np.ndarray]]]] = {}
    targets: dict[tuple[str, str], set[float]] = {}
    shown = []
    for records, result in runs:
        steps, values, _ = watched(records, name)
        there = np.isfinite(values)
        if there.any():
            shown.append(result)
            setting = (result["task"], result["model"])
            here = found.setdefault(setting, {})
            here.setdefault(method_name(result), []).append((steps[there], values[there]))
            target = watched(records, f"target_{name}")[1]
            targets.setdefault(setting, set()).update(target[np.isfinite(target)].tolist()[-1:])
    if sum(len(seeds) for here in found.values() for seeds in here.values()) < 2:
        return False
    label, over_powers = LABELS[name]
    names = sorted({method for here in found.values() for method in here})
    looks = {method: look(i) for i, method in enumerate(names)}
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    with canvas(path, 4.4 + 3.6 * columns, max(3.4 * rows, 1.0 + 0.2 * len(names)) + 0.4) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(found) :]:
            axes.set_visible(False)
        handles: dict[str, Any] = {}
        for axes, (setting, here) in zip(panels, sorted(found.items()), strict=False):
            for method in sorted(here):
                handles[method] = _line(axes, here[method], looks[method])
            for level in targets[setting]:
                handles["target"] = axes.axhline(level, color=INK, linestyle="--", linewidth=1.0)
            axes.set_title(", ".join(setting))
            axes.set_xlabel("step")
            axes.set_xlim(left=0)
            if over_powers:
                logarithmic(axes, "y")
                over_a_power(axes)
            else:
                from_zero(axes)
        for first in panels[: len(found) : columns]:
            first.set_ylabel(label, parse_math=True)
        legend_beside(figure, handles)
        headline(
            figure,
            f"{name.capitalize()} over the steps: {setting_name(shown)}",
            "means over seeds and their range",
        )
    return True


def _line(axes: Any, seeds: Sequence[tuple[np.ndarray, np.ndarray]], style: dict[str, Any]) -> Any:
    """The mean over all steps at which any seed was watched."""
    steps = np.unique(np.concatenate([seed[0] for seed in seeds]))
    values = np.array([np.interp(steps, *seed) for seed in seeds])
    every = max(1, len(steps) // 8)
    (line,) = axes.plot(
        steps, values.mean(0), **style, markersize=5, markevery=every, linewidth=1.6
    )
    if len(seeds) > 1:
        low, high = values.min(0), values.max(0)
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return line
