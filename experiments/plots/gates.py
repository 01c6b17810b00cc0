"""Draw how the gates of every module moved, and which of them stayed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.plots.modules import grid
from experiments.plots.records import (
    is_softmax,
    kept_record,
    last_stage,
    run_name,
    values_over_steps,
)
from experiments.plots.style import BLUE, GREY, INK, canvas, headline

__all__ = ["draw"]

# Panels in one row of the figure; more layers go to further rows.
COLUMNS = 12
ALIKE = 0.2  # range over size, below which the figure says in words what the range is


def draw(records: Sequence[dict[str, Any]], result: dict[str, Any], path: Path) -> bool:
    """Write the figure: a panel a module, a line a component; False when no gates were recorded.

    Components that were kept (as many as the module's rank, the largest in the end) are drawn
    strong, the others pale; all alike where the gates were folded into the factors before the cut,
    which went by what came of both.
    """
    steps, values = values_over_steps(records)
    if not values:
        return False
    layers, parts, cells = grid(values)
    columns = min(COLUMNS, len(layers))
    blocks = -(-len(layers) // columns)
    rows = blocks * len(parts)
    everything = np.concatenate([v.ravel() for v in values.values()])
    everything = everything[np.isfinite(everything)]
    low, high = (everything.min(), everything.max()) if everything.size else (0.0, 1.0)
    said = [f"all values lie between {low:.4g} and {high:.4g}"] if _alike(low, high) else []
    said += [result["decided"]["words"]] if result.get("decided") else []  # older runs do not say
    cut = result.get("cut") is not None
    said += ["folded into the factors before the cut, which went by both"] if cut else []
    # From 0, for over the values' own range any noise would look like a decision.
    low, high = min(low, 0.0), max(high, 0.0)
    k = max(v.shape[1] for v in values.values())
    softmax = is_softmax(values)  # only then 1/k means anything
    margin = 0.05 * (high - low) or 0.05
    stage, last = last_stage(records, "gates")[-1]["stage"], kept_record(records)
    with canvas(path, max(6.5, 1.25 * columns + 1.2), 1.25 * rows + 1.5) as figure:
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in panels.ravel():
            axes.set_visible(False)
        for name, (row, column) in cells.items():
            axes = panels[(column // columns) * len(parts) + row, column % columns]
            axes.set_visible(True)
            rank = (result["ranks"] or {}).get(name)
            _panel(axes, steps, values[name], rank, softmax, cut, last)
            if row == 0:
                axes.set_title(f"layer {layers[column]}", fontsize=9, loc="center")
            if column % columns == 0:
                axes.set_ylabel(parts[row].replace(".", "\n"), fontsize=9)
        below = margin if low < 0 else 0.0
        panels[0, 0].set_ylim(low - below, high + 7 * margin)  # room for the ranks above
        for axes in panels[-1]:
            axes.set_xlabel(f"step ({stage})", fontsize=9)
        figure.supylabel("gate value", fontsize=10)
        handles = [Line2D([], [], color=BLUE, label="gate of a component" if cut else "kept")]
        if not cut:
            handles.append(Line2D([], [], color=GREY, linewidth=1.0, label="dropped"))
        if softmax:
            handles.append(
                Line2D([], [], color=INK, linewidth=0.8, linestyle=":", label=f"1/k, k = {k}")
            )
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        headline(figure, f"Gates: {run_name(result)}", "\n".join(said))
    return True


def _alike(low: float, high: float) -> bool:
    """Whether values differ so little, beside their size, that their lines lie on each other."""
    return high - low < ALIKE * max(abs(low), abs(high))


def _panel(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    rank: int | None,
    softmax: bool,
    cut: bool,
    last: int,
) -> None:
    k = values.shape[1]
    order = np.argsort(-np.abs(values[last]), kind="stable")
    kept = set(order[: k if rank is None or cut else rank].tolist())
    for component in reversed(order.tolist()):
        strong = component in kept
        axes.plot(
            steps,
            values[:, component],
            color=BLUE if strong else GREY,
            linewidth=1.4 if strong else 0.9,
            alpha=0.85 if strong else 0.7,
        )
    if softmax:
        axes.axhline(1 / k, color=INK, linewidth=0.8, linestyle=":")
    axes.tick_params(labelsize=7, length=2)
    if rank is not None:
        axes.text(
            0.96,
            0.93,
            f"r = {rank}",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
        )
