"""The final singular or gate values of several runs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.plots import heat
from experiments.plots.modules import grid
from experiments.plots.records import Record, final_values, method_name
from experiments.plots.style import canvas, headline, logarithmic, look, wrapped

__all__ = ["draw"]

BINS = 48


def draw(runs: Sequence[tuple[Sequence[Record], dict[str, Any]]], path: Path) -> bool:
    """Write the figure: all histograms in one panel, and a row of heat maps a run.

    Methods choose scales of their own (softmax values sum to 1, others start at 0 or 1), so the
    histograms are of each value over the mean magnitude of its run's values that are not zero.

    Args:
        runs: lines of metrics.jsonl and result.json of each run; those without values are left out.
        path: the PNG to write.

    Returns:
        False when fewer than two runs have values.
    """
    found = [(final_values(records), result) for records, result in runs]
    found = [(values, result) for values, result in found if values]
    if len(found) < 2:
        return False
    grids = [grid(values)[:2] for values, _ in found]
    columns = max(len(parts) for _, parts in grids)
    heights = [max(1.9, 1.1 + 0.13 * len(layers)) for layers, _ in grids]
    lines = sum(1 + len(wrapped(method_name(result)).split("\n")) for _, result in found)
    high = max(3.6, 0.6 + 0.19 * lines)  # room for the legend
    wide = max(8.5, 1.4 + 1.6 * columns)
    with canvas(path, wide, high + sum(heights)) as figure:
        bands: Any = figure.subfigures(1 + len(found), 1, height_ratios=[high, *heights])
        top, *rows = bands
        _histograms(top, found)
        for row, (values, result), (_, parts) in zip(rows, found, grids, strict=True):
            maps = row.subplots(1, columns, squeeze=False)[0]
            for empty in maps[len(parts) :]:
                empty.set_visible(False)
            used = list(maps[: len(parts)])
            image = heat.panels(used, values, result["ranks"])
            used[0].set_ylabel("layer")
            if any((v != 0).any() for v in values.values()):
                bar = row.colorbar(image, ax=used, pad=0.02, fraction=0.05, aspect=18)
                bar.outline.set_visible(False)
                bar.ax.tick_params(labelsize=8)
            row.suptitle(_name(result), fontsize=10, fontweight="bold", x=0.01, ha="left")
        rows[-1].supxlabel(
            "component, largest first (black line: the rank; grey: exactly 0)", fontsize=9
        )
        task, model = found[0][1]["task"], found[0][1]["model"]
        headline(figure, f"Final values of several methods on {task}, {model}")
    return True


def _histograms(figure: Any, found: Sequence[tuple[dict[str, np.ndarray], dict[str, Any]]]) -> None:
    axes = figure.subplots()
    relative, notes = [], []
    for values, _ in found:
        everything = np.concatenate(list(values.values()))
        finite = everything[np.isfinite(everything)]
        shown = finite[finite != 0]
        relative.append(shown / np.abs(shown).mean() if shown.size else shown)
        zeros = finite.size - shown.size
        notes.append(f"\n{100 * zeros / finite.size:.0f} % exactly 0, left out" if zeros else "")
    pooled = np.concatenate(relative)
    low, high = (float(pooled.min()), float(pooled.max())) if pooled.size else (0.0, 1.0)
    bins = np.linspace(min(low, 0.0), max(high, 1.0) * 1.02, BINS + 1)
    for i, (shown, note, (_, result)) in enumerate(zip(relative, notes, found, strict=True)):
        if not shown.size:
            continue
        style = look(i)
        axes.hist(
            shown,
            bins=list(bins),
            weights=np.full(shown.size, 100 / shown.size),
            histtype="step",
            color=style["color"],
            linestyle=style["linestyle"],
            linewidth=1.6,
            label=wrapped(method_name(result)) + note,
        )
    logarithmic(axes, "y")
    axes.set_xlabel("value over the run's mean magnitude")
    axes.set_ylabel("% of the components in each bin")
    figure.legend(loc="outside right upper", fontsize=9)


def _name(result: dict[str, Any]) -> str:
    return f"{method_name(result)}, seed {result['seed']}"
