"""Draw the ranks that were found against those that were planted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.plots.records import method_name, setting_name
from experiments.plots.style import BLUE, GREY, canvas, headline, wrapped

__all__ = ["draw"]

COLUMNS = 5
SPREAD = 0.22  # how far points of equal ranks are moved apart, in ranks


def draw(results: Sequence[dict[str, Any]], path: Path) -> bool:
    """Write the figure: a panel a method, a point a module (of every seed), the diagonal is right.

    Points of equal ranks are moved apart a little, so that they do not hide each other. Titles give
    the mean over seeds of Spearman's rank correlation (where the ranks vary at all) and of the
    exact hits.

    Args:
        results: result.json of each run; those without ``ranks`` and ``true_ranks`` are left out.
        path: the PNG to write.

    Returns:
        False when none has both.
    """
    found = [r for r in results if r.get("ranks") and r.get("true_ranks")]
    if not found:
        return False
    methods = sorted({method_name(r) for r in found})
    columns = min(COLUMNS, len(methods))
    rows = -(-len(methods) // columns)
    top = max(max(r[key].values()) for r in found for key in ("ranks", "true_ranks"))
    each = 4.0 if len(methods) == 1 else 2.6  # inches
    wide = 0.8 + each * columns
    with canvas(path, wide, 1.0 + (each + 0.4) * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for empty in panels[len(methods) :]:
            empty.set_visible(False)
        for i, (axes, method) in enumerate(zip(panels, methods, strict=False)):
            _panel(axes, method, [r for r in found if method_name(r) == method], top)
            if i % columns == 0:
                axes.set_ylabel("found rank")
            if i + columns >= len(methods):  # none below it
                axes.set_xlabel("planted rank")
                axes.tick_params(labelbottom=True)
        headline(
            figure, wrapped(f"Found against planted ranks: {setting_name(found)}", int(10 * wide))
        )
    return True


def _panel(axes: Axes, method: str, results: Sequence[dict[str, Any]], top: int) -> None:
    pairs = np.array(
        [(rank, r["ranks"].get(name, 0)) for r in results for name, rank in r["true_ranks"].items()]
    )
    moved = _apart(pairs)
    axes.plot([-0.5, top + 0.5], [-0.5, top + 0.5], color=GREY, linewidth=1.0, zorder=1)
    axes.scatter(moved[:, 0], moved[:, 1], s=16, color=BLUE, alpha=0.55, linewidths=0, zorder=2)
    axes.set_xlim(-0.5, top + 0.5)
    axes.set_ylim(-0.5, top + 0.5)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    hits = 100 * float((pairs[:, 0] == pairs[:, 1]).mean())
    known = [s for r in results if (s := (r.get("planted") or {}).get("spearman")) is not None]
    correlation = f"Spearman {np.mean(known):.2f}" if known else "Spearman undefined"
    axes.set_title(
        f"{wrapped(method, 30)}\n{correlation}, {hits:.0f} % exact", fontsize=9, fontweight="normal"
    )


def _apart(pairs: np.ndarray) -> np.ndarray:
    """The points (n, 2), those that are alike around the place of theirs, as seeds in a flower."""
    moved = pairs.astype(float)
    for place in np.unique(pairs, axis=0):
        (here,) = np.nonzero((pairs == place).all(1))
        if len(here) > 1:
            turn = np.arange(len(here))
            radius = SPREAD * np.sqrt((turn + 0.5) / len(here))
            angle = turn * np.pi * (3 - np.sqrt(5))
            seeds = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
            moved[here] += seeds - seeds.mean(0)
    return moved
