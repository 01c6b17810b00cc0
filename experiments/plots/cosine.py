"""Draw how far fine-tuning turned and moved each weight matrix from its pretrained value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.plots.modules import grid
from experiments.plots.records import run_name
from experiments.plots.style import canvas, from_zero, headline, look

__all__ = ["LINE", "TURN", "by_part", "draw", "layer_axis"]

LINE: Any = {"linewidth": 1.4, "markersize": 5}
TURN = "turned by (degrees)"
MOVED = "moved by (% of its own norm)"


def by_part(
    update: Mapping[str, Mapping[str, float | None]], key: str, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Part of the layers -> (layers (n,), values (n,)).

    Args:
        update: as in result.json.
        key: ``turn``, the angle between the matrices as they are and as they were in degrees, the
            arc cosine of their cosine; or ``moved``, the norm of the change in per cent of the
            norm before.
        names: whose parts and layers these are; None for the update's own modules.

    Returns:
        Values are NaN where nothing is known.
    """
    layers, parts, cells = grid(names or update)
    table = np.full((len(parts), len(layers)), np.nan)
    for name, values in update.items():
        row, column = cells[name]
        value = values["cosine" if key == "turn" else "relative_norm"]
        if value is not None:
            turn = np.degrees(np.arccos(np.clip(value, -1.0, 1.0)))
            table[row, column] = turn if key == "turn" else 100 * value
    numbers = np.array([-1 if layer is None else layer for layer in layers])
    return {part: (numbers, row) for part, row in zip(parts, table, strict=True)}


def layer_axis(axes: Axes, layers: np.ndarray) -> None:
    """Whole numbers for layers."""
    axes.set_xlabel("layer")
    axes.set_xlim(layers.min() - 0.5, layers.max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def draw(result: dict[str, Any], path: Path) -> bool:
    """Write the figure: the angle and the size of the change, a line a part, over layers.

    False without ``update`` in the result, or when nothing in it is a number.
    """
    update = result.get("update")
    if not update:
        return False
    found = {key: by_part(update, key) for key in ("turn", "moved")}
    if not any(np.isfinite(v).any() for lines in found.values() for _, v in lines.values()):
        return False
    with canvas(path, 10.0, 4.2) as figure:
        panels = figure.subplots(1, 2, sharex=True)
        for axes, lines, label in zip(panels, found.values(), (TURN, MOVED), strict=True):
            for i, (part, (layers, values)) in enumerate(lines.items()):
                there = np.isfinite(values)
                axes.plot(layers[there], values[there], **LINE, **look(i), label=part)
            axes.set_title(label, fontsize=10, fontweight="normal")
            layer_axis(axes, layers)
            axes.margins(y=0.08)
            from_zero(axes)
            axes.set_ylim(bottom=0)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
        headline(
            figure,
            f"Weights against their pretrained values: {run_name(result)}",
            "0 is a matrix that fine-tuning left alone",
        )
    return True
