"""Draw predicted against right numbers of a regression, and how far they are apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.plots.records import run_name
from experiments.plots.style import BLUE, GREY, INK, canvas, headline

__all__ = ["draw"]

FAINT = 200  # points from which on they are drawn fainter


def draw(numbers: np.ndarray, result: dict[str, Any], path: Path) -> bool:
    """Write the figure: a point a test example, the diagonal is right; and the residuals.

    Args:
        numbers: right and predicted (n, 2).
        result: result.json.
        path: the file to write.

    Returns:
        False without a number.
    """
    if not len(numbers):
        return False
    right, said = numbers.T
    low, high = float(numbers.min()), float(numbers.max())
    pad = 0.04 * (high - low) or 0.5
    residuals = said - right
    with canvas(path, 8.6, 3.9) as figure:
        points, bars = figure.subplots(1, 2, width_ratios=[1, 1.25])
        points.plot([low - pad, high + pad], [low - pad, high + pad], color=GREY, linewidth=1.0)
        points.scatter(
            *(right, said),
            s=12,
            color=BLUE,
            alpha=0.3 if len(right) > FAINT else 0.6,
            linewidths=0,
            zorder=2,
            rasterized=len(right) > 20 * FAINT,
        )
        points.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad))
        points.set_aspect("equal")
        points.set_xlabel("right")
        points.set_ylabel("predicted")
        bars.hist(residuals, bins="auto" if len(right) > 30 else 10, color=BLUE, alpha=0.85)
        bars.axvline(0, color=INK, linewidth=1.0, linestyle=":")
        bars.set_xlabel("predicted − right")
        bars.set_ylabel("test examples")
        bars.set_title(
            f"mean {residuals.mean():+.3g}, root of the mean square "
            f"{np.sqrt((residuals**2).mean()):.3g}",
            fontsize=9,
            fontweight="normal",
        )
        headline(figure, f"Predictions: {run_name(result)}")
    return True
