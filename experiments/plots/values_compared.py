"""Draw the final singular or gate values of several runs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.plots import heat
from experiments.plots.modules import grid
from experiments.plots.records import Record, final_values, method_name, setting_name
from experiments.plots.style import GREY, canvas, from_zero, headline, look, wrapped

__all__ = ["draw"]


def draw(runs: Sequence[tuple[Sequence[Record], dict[str, Any]]], path: Path) -> bool:
    """Write the figure: all values in order of size in one panel, and a row of heat maps a run.

    Methods choose scales of their own (softmax values sum to 1, others start at 0 or 1), so the
    curves are of each value over the mean magnitude of its run's values that are not zero: one that
    chose nothing is a level line at 1, one that chose falls.

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
        _curves(top, found)
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
        headline(figure, f"Final values: {setting_name([result for _, result in found])}")
    return True


def _curves(figure: Any, found: Sequence[tuple[dict[str, np.ndarray], dict[str, Any]]]) -> None:
    axes = figure.subplots()
    for i, (values, result) in enumerate(found):
        everything = np.concatenate(list(values.values()))
        finite = everything[np.isfinite(everything)]
        if not finite.size:
            continue
        nonzero = np.abs(finite[finite != 0])
        curve = np.sort(finite)[::-1] / (nonzero.mean() if nonzero.size else 1.0)
        zeros = finite.size - nonzero.size
        note = f"\n{100 * zeros / finite.size:.0f} % exactly 0" if zeros else ""
        # A step for each component, so that few of them are seen to be few.
        axes.stairs(
            curve,
            np.linspace(0, 100, curve.size + 1),
            baseline=None,
            color=look(i)["color"],
            linestyle=look(i)["linestyle"],
            linewidth=1.8,
            label=wrapped(method_name(result)) + note,
        )
    axes.axhline(1, color=GREY, linewidth=1.0, linestyle=":")
    axes.set_xlim(0, 100)
    axes.margins(y=0.08)
    from_zero(axes)
    axes.set_xlabel("components, the largest value first (%)")
    axes.set_ylabel("value over the run's\nmean magnitude")
    figure.legend(loc="outside right upper", fontsize=9)


def _name(result: dict[str, Any]) -> str:
    return f"{method_name(result)}, seed {result['seed']}"
