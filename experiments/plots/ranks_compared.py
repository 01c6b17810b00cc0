"""Draw the ranks that several methods and seeds found, below each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator

from experiments.plots.modules import grid, title
from experiments.plots.records import method_name, setting_name
from experiments.plots.style import canvas, headline, wrapped

__all__ = ["draw"]


def draw(results: Sequence[dict[str, Any]], path: Path) -> bool:
    """Write the figure: a panel a part of the layers, a row a run, a column a layer.

    Of ranks that are not decided, or of which that is not known, the row says so.

    Args:
        results: result.json of runs of one task and model; those with one rank for all modules are
            left out, for they did not choose any.
        path: the PNG to write.

    Returns:
        False when fewer than two runs chose ranks.
    """
    chose = [r for r in results if r["ranks"] and len(set(r["ranks"].values())) > 1]
    chose.sort(key=lambda r: (method_name(r), r["seed"]))
    if len(chose) < 2:
        return False
    layers, parts, cells = grid(dict.fromkeys(n for r in chose for n in r["ranks"]))
    tables = np.full((len(parts), len(chose), len(layers)), np.nan)
    for row, result in enumerate(chose):
        for name, rank in result["ranks"].items():
            panel, layer = cells[name]
            tables[panel, row, layer] = rank
    top = max(1, int(np.nanmax(tables)))
    colours = colormaps["viridis"].with_extremes(bad="white").resampled(top + 1)
    names = [f"{wrapped(method_name(r), 40)}, seed {r['seed']}{_decided(r)}" for r in chose]
    inches = max(0.24, 0.06 + 0.15 * max(1 + name.count("\n") for name in names))
    each = max(1.5, 0.3 + 0.13 * len(layers))
    labels = 0.07 * max(len(line) for name in names for line in name.split("\n"))
    with canvas(path, 1.2 + labels + each * len(parts), 1.6 + inches * len(chose)) as figure:
        panels = list(figure.subplots(1, len(parts), sharey=True, squeeze=False)[0])
        for axes, part, table in zip(panels, parts, tables, strict=True):
            axes.grid(False)
            image = axes.imshow(table, cmap=colours, vmin=-0.5, vmax=top + 0.5, aspect="auto")
            axes.set_title(title(part), fontsize=10)
            axes.set_xlabel("layer")
            some = range(0, len(layers), max(1, len(layers) // 6))
            axes.set_xticks(some, ["" if layers[i] is None else str(layers[i]) for i in some])
            axes.tick_params(length=2)
            axes.spines[:].set_visible(False)
            for row in range(1, len(chose)):  # apart: runs that differ in more than the seed
                if method_name(chose[row]) != method_name(chose[row - 1]):
                    axes.axhline(row - 0.5, color="white", linewidth=4)
        panels[0].set_yticks(range(len(chose)), names, fontsize=9)
        bar = figure.colorbar(image, ax=panels, label="rank", pad=0.02, fraction=0.03)
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(top + 1, 9)))
        bar.outline.set_visible(False)
        headline(figure, f"Ranks: {setting_name(chose)}")
    return True


def _decided(result: dict[str, Any]) -> str:
    """What is to be said of a run's ranks beside its name; older runs say nothing."""
    found = result.get("decided")
    if not found or found["decided"]:
        return ""
    return "\nnot decided" if found["decided"] is False else "\nnot known how decided"
