"""Draw how far several methods turned the weights from their pretrained values, by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.plots.cosine import LINE, TURN, by_part, layer_axis
from experiments.plots.modules import grid, title
from experiments.plots.records import method_name, setting_name
from experiments.plots.style import canvas, from_zero, headline, legend_beside, look

__all__ = ["draw"]


def draw(results: Sequence[dict[str, Any]], path: Path) -> bool:
    """Write the figure: a row a task and model, a panel a part of the layers, a line a method.

    Lines are means over seeds of the angle, thin bars the range of the seeds. False when no result
    has an ``update``.
    """
    moved = [r for r in results if r.get("update")]
    if not moved:
        return False
    settings = sorted({(r["task"], r["model"]) for r in moved})
    names = sorted({method_name(r) for r in moved})
    looks = {name: look(i) for i, name in enumerate(names)}
    parts = {
        s: grid(n for r in moved if (r["task"], r["model"]) == s for n in r["update"])[1]
        for s in settings
    }
    columns = max(len(p) for p in parts.values())
    height = max(2.9 * len(settings), 1.0 + 0.2 * len(names))
    with canvas(path, 4.2 + 2.3 * columns, height + 0.5) as figure:
        panels = figure.subplots(len(settings), columns, squeeze=False, sharey="row")
        handles: dict[str, Any] = {}
        for row, setting in zip(panels, settings, strict=True):
            here = [r for r in moved if (r["task"], r["model"]) == setting]
            everywhere = list(dict.fromkeys(n for r in here for n in r["update"]))
            for axes in row[len(parts[setting]) :]:
                axes.set_visible(False)
            for name in names:
                seeds = [
                    by_part(r["update"], "turn", everywhere) for r in here if method_name(r) == name
                ]
                for axes, part in zip(row, parts[setting], strict=False):
                    layers = by_part({}, "turn", everywhere)[part][0]
                    layer_axis(axes, layers)
                    axes.set_title(title(part), fontsize=10)
                    if not seeds:
                        continue
                    values = np.ma.masked_invalid([seed[part][1] for seed in seeds])
                    mean = values.mean(0).filled(np.nan)
                    there = np.isfinite(mean)
                    if not there.any():
                        continue
                    (handles[name],) = axes.plot(layers[there], mean[there], **LINE, **looks[name])
                    if len(seeds) > 1:
                        low, high = values.min(0).filled(np.nan), values.max(0).filled(np.nan)
                        axes.vlines(
                            *(layers[there], low[there], high[there]),
                            color=looks[name]["color"],
                            linewidth=1.0,
                            alpha=0.6,
                        )
            for axes in row[: len(parts[setting])]:
                axes.margins(y=0.08)
            from_zero(row[0])  # all panels of the row: they share their axis
            row[0].set_ylim(bottom=0)
            row[0].set_ylabel(f"{', '.join(setting)}\n{TURN}", linespacing=1.5)
        legend_beside(figure, handles)
        headline(
            figure,
            f"Weights against their pretrained values: {setting_name(moved)}",
            "angle to the pretrained matrix, means over seeds and their range",
        )
    return True
