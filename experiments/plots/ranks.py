"""Draw the rank of every adapted module, as a heat map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.plots.modules import grid
from experiments.plots.records import run_name
from experiments.plots.style import canvas, headline

__all__ = ["draw", "heat_map", "inches"]

SMALL = 24  # layers from which on the numbers are set smaller


def draw(result: dict[str, Any], path: Path) -> bool:
    """Write the figure: a column a layer, a row a module, the number in its cell.

    Args:
        result: result.json.
        path: the PNG to write.

    Returns:
        False when the result has no ranks.
    """
    ranks: dict[str, int] | None = result["ranks"]
    if not ranks:
        return False
    width, height = inches(ranks)
    width = max(6.0, width)
    note = [
        f"mean {np.mean(list(ranks.values())):.2f}, "
        f"{result['adapter_parameters']:,} adapter parameters"
    ]
    note += [result["decided"]["words"]] if result.get("decided") else []
    with canvas(path, width, height + 1.4) as figure:
        axes = figure.subplots()
        heat_map(axes, ranks)
        headline(figure, f"Ranks: {run_name(result)}", "\n".join(note))
    return True


def inches(ranks: Mapping[str, int]) -> tuple[float, float]:
    """The width of the map with its names, and the height of its rows."""
    layers, parts, _ = grid(ranks)
    return 2.2 + 0.52 * len(layers), 0.66 + 0.5 * len(parts)


def heat_map(axes: Axes, ranks: Mapping[str, int]) -> None:
    """Draw a column a layer, a row a kind of module, the rank in its cell, and a colour bar."""
    layers, parts, cells = grid(ranks)
    table = np.full((len(parts), len(layers)), np.nan)
    for name, (row, column) in cells.items():
        table[row, column] = ranks[name]
    top = max(1, int(np.nanmax(table)))
    colours = colormaps["viridis"].with_extremes(bad="white").resampled(top + 1)
    axes.grid(False)
    image = axes.imshow(table, cmap=colours, vmin=-0.5, vmax=top + 0.5, aspect="auto")
    for (row, column), rank in np.ndenumerate(table):
        if not np.isnan(rank):
            dark = rank < 0.55 * top
            axes.text(
                column,
                row,
                f"{int(rank)}",
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontsize=11 if len(layers) <= SMALL else 7,
            )
    axes.set_xticks(range(len(layers)), ["" if x is None else str(x) for x in layers])
    axes.set_yticks(range(len(parts)), parts)
    # White lines between the cells.
    axes.set_xticks(np.arange(-0.5, len(layers)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(parts)), minor=True)
    axes.grid(True, which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("layer")
    figure: Any = axes.figure
    bar = figure.colorbar(image, ax=axes, label="rank", pad=0.02, fraction=0.04)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(top + 1, 9)))
    bar.outline.set_visible(False)
