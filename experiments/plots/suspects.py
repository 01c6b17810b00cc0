"""Draw how many of the most suspect examples are wrong, where the truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.ticker import PercentFormatter

from experiments.plots.style import GREY, OKABE_ITO, canvas, headline

__all__ = ["draw"]

DASHES = ("-", "--")


def draw(
    curves: Mapping[str, np.ndarray], areas: Mapping[str, float], wrong: int, title: str, path: Path
) -> None:
    """Write the figure: precision against how many are inspected, a line a score.

    Args:
        curves: name -> share of wrong labels among the 1, ..., n most suspect, (n,).
        areas: name -> area under its ROC curve, for the legend.
        wrong: labels among the n.
        title: what the examples are of.
        path: the PNG to write.
    """
    count = len(next(iter(curves.values())))
    first = max(1, count // 100)  # before that a line jumps between 0 and 1
    x = np.arange(1, count + 1)
    with canvas(path, 7.2, 4.2) as figure:
        headline(figure, title)
        axes = figure.subplots()
        for i, name in enumerate(sorted(curves, key=lambda name: -areas[name])):
            axes.plot(
                x[first - 1 :],
                curves[name][first - 1 :],
                color=OKABE_ITO[i % len(OKABE_ITO)],
                linestyle=DASHES[i % 2],
                label=f"{name.replace('_', ' ')} (AUC {areas[name]:.2f})",
            )
        axes.axhline(wrong / count, color=GREY, linewidth=1, label="at random")
        axes.axvline(wrong, color=GREY, linewidth=1, linestyle=":", label="wrong labels in all")
        axes.set_xlabel("examples inspected, the most suspect first")
        axes.set_ylabel("of them wrong")
        axes.set_ylim(0, 1.02)
        axes.set_xlim(0, count)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(loc="upper right", fontsize=8)
