"""Draw the singular or gate values that a run ended with, all together and by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.plots import heat
from experiments.plots.modules import grid
from experiments.plots.records import Record, final_values, is_softmax, run_name
from experiments.plots.style import BLUE, INK, canvas, headline

__all__ = ["draw"]

COLUMNS = 6  # heat maps in a row


def draw(records: Sequence[Record], result: dict[str, Any], path: Path) -> bool:
    """Write the figure, a histogram and a heat map a part; False when no values were recorded.

    Args:
        records: the lines of metrics.jsonl; the last ``gates`` line counts.
        result: result.json; with its ranks the heat maps show what was kept (by these values).
        path: the PNG to write.
    """
    values = final_values(records)
    if not values:
        return False
    layers, parts, _ = grid(values)
    ranks = None if result.get("cut") else result["ranks"]  # cut by other values than these
    k = max(len(v) for v in values.values())
    columns = min(COLUMNS, len(parts))
    rows = -(-len(parts) // columns)
    each = min(3.2, max(1.35, 0.7 + 0.16 * k))  # inches
    wide, tall = max(2.9, 0.9 + columns * each), max(3.4, rows * (1.1 + 0.19 * len(layers)))
    with canvas(path, 4.4 + wide, tall + 0.6) as figure:
        halves: Any = figure.subfigures(1, 2, width_ratios=[4.4, wide])
        left, right = halves
        _histogram(left.subplots(), values)
        maps = right.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for empty in maps[len(parts) :]:
            empty.set_visible(False)
        image = heat.panels(maps[: len(parts)], values, ranks)
        for axes in maps[::columns]:
            axes.set_ylabel("layer")
        right.supxlabel(f"component, largest first{_note(values, ranks)}", fontsize=10)
        if any((v != 0).any() for v in values.values()):
            bar = right.colorbar(
                image, ax=list(maps), label="value", pad=0.02, fraction=0.05, aspect=tall / 0.14
            )
            bar.outline.set_visible(False)
        headline(figure, f"Final values: {run_name(result)}")
    return True


def _histogram(axes: Axes, values: dict[str, np.ndarray]) -> None:
    everything = np.concatenate(list(values.values()))
    finite = everything[np.isfinite(everything)]
    shown = finite[finite != 0]
    notes = [f"{len(values)} module{'s' * (len(values) > 1)}, {everything.size} values"]
    if shown.size < finite.size:
        share = 1 - shown.size / finite.size
        notes.append(f"{100 * share:.0f} % exactly 0 (not in the bars)")
    if finite.size < everything.size:
        notes.append(f"{everything.size - finite.size} not finite (left out)")
    if shown.size:
        low, high = float(shown.min()), float(shown.max())
        notes.append(f"from {low:.4g} to {high:.4g}")
        # Bins from 0 on: over the values' own range any noise would fill the picture.
        bins = min(40, max(8, shown.size // 4))
        span = (min(low, 0.0), max(high, 0.0))
        axes.hist(shown, bins=bins, range=span, color=BLUE, alpha=0.85)
    if is_softmax(values):
        k = len(next(iter(values.values())))
        axes.axvline(1 / k, color=INK, linewidth=1.0, linestyle=":", label=f"1/k, k = {k}")
        axes.legend(loc="best")
        axes.margins(y=0.18)  # room for the legend
    axes.set_title("\n".join(notes), fontsize=9, fontweight="normal")
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("value")
    axes.set_ylabel("components")


def _note(values: dict[str, np.ndarray], ranks: dict[str, int] | None) -> str:
    notes = []
    if any(rank < len(values.get(name, ())) for name, rank in (ranks or {}).items()):
        notes.append("black line: the rank")
    if any((v == 0).any() for v in values.values()):
        notes.append("grey: exactly 0")
    return f"\n({'; '.join(notes)})" if notes else ""
