"""Give all figures one look: quiet, legible, the same to every kind of colour vision."""

from __future__ import annotations

import functools
import logging
import math
import os
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")  # files only: no display is needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from experiments.cli.writing import beside

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "INK",
    "OKABE_ITO",
    "ORANGE",
    "SOFT",
    "STRIPE",
    "STYLE",
    "VERMILLION",
    "ZERO",
    "canvas",
    "from_zero",
    "headline",
    "logarithmic",
    "look",
    "over_a_power",
    "steps_axis",
    "wrapped",
]

log = logging.getLogger(__name__)

MISSING = re.compile(r"Glyph \d+ .* missing from")  # of the font, as matplotlib says it
# Okabe and Ito's palette: distinct under every common colour-vision deficiency.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
OKABE_ITO = (BLUE, VERMILLION, GREEN, "#CC79A7", ORANGE, "#56B4E9", "#000000")
GREY, INK = "#9A9A9A", "#222222"
STRIPE = "#F4F4F4"  # behind every second row
ZERO = "#DADADA"  # of values that are exactly zero
SOFT = "#555555"  # of letters that come second
TITLE, NOTE = 11, 9  # points of a title's letters, and of those below it
LEADING = 1.25  # from line to line, in sizes of the letters
LETTERS, BOLD = 15, 10.5  # of a note, and of a title, in an inch
PAD = 3 / 72  # inches above a title
DASHES = ("-", "--", ":", "-.")
MARKERS = "os^Dv<>PX"

STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#777777",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 2.0,
    "text.color": INK,  # black is for letters on a bright colour of their own
    "svg.fonttype": "none",  # letters stay letters: they are found, read aloud, and take a colour
    "svg.hashsalt": "experiments",  # the same picture twice is the same file
    "text.parse_math": False,  # a name may have dollars in it
}


@contextmanager
def canvas(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, written to ``path`` at the end."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(width, height), layout="constrained")
        try:
            yield figure
            path.parent.mkdir(parents=True, exist_ok=True)
            # Aside and renamed: whole or not there, and never through a link.
            aside = beside(path, f".tmp{path.suffix}")
            try:
                _drawn(figure, aside)
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)
        finally:
            plt.close(figure)


def _drawn(figure: Figure, path: Path) -> None:
    """Write a figure; letters that its font lacks are told once, and not by matplotlib."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        figure.savefig(path)
    for one in heard:
        if MISSING.match(str(one.message)):
            _tell_boxes()
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


@functools.cache
def _tell_boxes() -> None:
    log.warning(
        "figures: their font, %s, lacks letters of some names, which are drawn as boxes; tables, "
        "files and pages have them",
        matplotlib.rcParams["font.sans-serif"][0],
    )


def look(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of the line number ``index``; no two of the first 28 are alike."""
    return {
        "color": OKABE_ITO[index % len(OKABE_ITO)],
        "linestyle": DASHES[index // len(OKABE_ITO) % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def wrapped(name: str, width: int = 34) -> str:
    """A long name on several lines, broken at spaces where it has any; of a legend, say."""
    text = "\n".join(textwrap.wrap(name, width)) or name
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves "_x" out of legends


def headline(figure: Figure, text: str, note: str = "") -> None:
    """The title of a whole figure at its left end, and below it what is to be read with it.

    Args:
        figure: whose.
        text: in bold letters.
        note: lines in smaller ones. Lines of both are broken where they would leave the figure.
    """
    width, height = figure.get_size_inches()
    bold = int(BOLD * (width - 0.2))
    text = "\n".join(textwrap.fill(line, bold) for line in text.split("\n"))
    note = "\n".join(wrapped(line, int(LETTERS * (width - 0.2))) for line in note.split("\n"))
    lines = note.count("\n") + 1 if note else 0
    # The title has empty lines where the note goes, so that the layout leaves room for both.
    empty = math.ceil(lines * NOTE / TITLE)
    figure.suptitle(text + "\n" * empty, fontsize=TITLE, fontweight="bold", x=0.01, ha="left")
    top = 1 - PAD / height  # where the layout puts it
    below = top - (text.count("\n") + 1) * LEADING * TITLE / 72 / height
    figure.text(0.01, below, note, fontsize=NOTE, va="top", ha="left", color=SOFT)


class _Numbers(LogFormatter):
    """Labels of a logarithmic axis without mathematics, which is read in no text here."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def logarithmic(axes: Axes, name: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with a thin grid between the powers of ten."""
    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_formatter(_Numbers(labelOnlyBase=False))
    axis.set_minor_formatter(_Numbers(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    axes.grid(True, which="minor", axis=name, linewidth=0.4)


def from_zero(axes: Axes, name: Literal["x", "y"] = "y") -> None:
    """Let a linear axis reach 0, so that noise looks as small as it is. After all is drawn."""
    if name == "x":
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.0), max(high, 0.0))
    else:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.0), max(high, 0.0))


def marked_line(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    label: str,
    colour: str,
    marker: str,
    dashes: str,
) -> None:
    """Draw what was measured now and then, with at most about twelve marks.

    Args:
        axes: to draw in.
        points: of the line.
        label: of it.
        colour, marker, dashes: as matplotlib takes them.
    """
    axes.plot(
        *zip(*points, strict=True),
        dashes,
        color=colour,
        marker=marker,
        markersize=5,
        markevery=max(1, len(points) // 12),
        label=label,
    )


def legend_beside(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Name the lines of all panels once, at the right of them."""
    figure.legend(
        list(handles.values()),
        [wrapped(name) for name in handles],
        loc="outside right center",
        fontsize=9,
        handlelength=3.5,
    )


def steps_axis(axes: Axes) -> None:
    """Steps from 0 on, in whole numbers."""
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def over_a_power(axes: Axes) -> None:
    """Let a logarithmic y axis span a power of ten or more, likewise. After all is drawn."""
    low, high = axes.get_ylim()
    if high < 10 * low:
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
