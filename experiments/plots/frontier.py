"""Draw the loss of an adapter's parts against their parameters, the part chosen, its ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from experiments.plots import ranks as rank_map
from experiments.plots.style import (
    BLUE,
    GREY,
    INK,
    OKABE_ITO,
    ORANGE,
    VERMILLION,
    canvas,
    headline,
    wrapped,
)

__all__ = ["draw"]

WIDTH = 9.2  # inches; a README shows them at 0.6 of their size
LETTERS = 100  # in a line of the title
GAP = 0.14  # of the axis' decades, between 0 and the smallest part
# Rows besides the frontier and even truncation.
OTHERS = [(OKABE_ITO[i], marker) for i, marker in ((2, "^"), (3, "D"), (5, "v"), (6, "P"))]

Point = Mapping[str, Any]
Row = tuple[str, Sequence[Point], str, str]  # label, points, colour, marker


def draw(values: Mapping[str, Any], path: Path) -> bool:
    """Write the figure: loss against parameters, the same near delta, and the ranks below it.

    The band is as many paired standard errors of the difference to the whole adapter as the choice
    had to fit below delta, so it has no width at the whole. The axis of parameters is logarithmic;
    0 stands apart, behind a break.

    Args:
        values: ranks.json; besides, ``rows`` may hold other ways to cut, name -> points.
        path: the PNG to write.

    Returns:
        False when there is neither a frontier nor ranks.
    """
    ranks, frontier = values["ranks"], values["frontier"]
    if not ranks and not frontier:
        return False
    title = _title(values)
    wide, tall = rank_map.inches(ranks) if ranks else (0.0, 0.0)
    tall = 0.34 * (tall - 0.66) / 0.5 + 0.85 if ranks else 0.0
    heights = [height for height in (3.7 * bool(frontier), tall) if height]
    width = max(WIDTH, min(wide, 1.5 * WIDTH))
    with canvas(path, width, sum(heights) + 0.2 + 0.19 * (1 + title.count("\n"))) as figure:
        headline(figure, title)
        rows: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
        parts = list(rows[:, 0])
        if frontier:
            _curves(parts.pop(0), values)
        if ranks:
            rank_map.heat_map(parts[0].subplots(), ranks)
    return True


def _title(values: Mapping[str, Any]) -> str:
    lines = [": ".join(filter(None, (values.get("title"), "parts of the adapter")))]
    whole, kept = values["whole_parameters"], values["parameters"]
    if values["frontier"] and not values["learned"]:
        or_same = "" if values.get("constant") is None else " and than the best constant answer"
        lines.append(
            f"nothing learned: the whole is not better than nothing{or_same} by two standard errors"
        )
    if values["ranks"]:
        chosen = values["chosen"] is not None and values["chosen"]["parameters"] == kept
        lines.append(
            f"{'chosen' if chosen else 'kept, as told'}: {sum(values['ranks'].values())} "
            f"components by {values['criterion']}, {kept:,} of {whole:,} parameters "
            f"({kept / whole:.1%})"
        )
    if values.get("decided"):
        lines.append(values["decided"]["words"])
    return "\n".join(wrapped(line, LETTERS) for line in lines)


def _curves(part: Any, values: Mapping[str, Any]) -> None:
    """Two panels, or one where nothing was learned and so there is no delta."""
    points = _ordered(values["frontier"], values)
    rows = _rows(values)
    everything = [*points, *(p for row in rows for p in row[1])]
    zero = _zero(everything)
    learned = values["learned"]
    panels = list(part.subplots(1, 2 if learned else 1, squeeze=False)[0])
    for axes, key in zip(panels, ("loss", "difference"), strict=False):
        _band(axes, points, key, zero)
        for _, others, colour, marker in rows:
            x = [_x(p, zero) for p in others]
            y = [p[key] for p in others]
            axes.errorbar(
                *(x, y, [p["error"] for p in others]),
                color=colour,
                marker=marker,
                linestyle="--",
                linewidth=1.4,
                markersize=5,
                elinewidth=1.0,
            )
        if learned:
            base = points[-1]["loss"] if key == "loss" else 0.0
            axes.axhline(base + values["delta"], color=INK, linewidth=1.0, linestyle=":")
        if key == "loss" and values.get("constant") is not None:
            axes.axhline(values["constant"], color=GREY, linewidth=1.0, linestyle="-.")
        _mark(axes, values, points, key, zero)
        shown = everything if key == "loss" else _not_above(everything, _near(points, values)[1])
        _parameters(axes, shown, zero)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.set_xlabel(f"parameters kept, of {values['whole_parameters']:,}")
    panels[0].set_ylabel("mean loss")
    panels[0].set_title(f"{values['examples']} held-out examples", fontsize=10, fontweight="normal")
    if learned:
        panels[1].set_ylabel("difference to the whole")
        panels[1].set_title("the same near delta", fontsize=10, fontweight="normal")
        panels[1].set_ylim(*_near(points, values))
    handles, labels = zip(*_legend(values, rows), strict=True)
    part.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)


def _rows(values: Mapping[str, Any]) -> list[Row]:
    """What is drawn beside the frontier."""
    even = _ordered((values.get("even") or {}).values(), values)
    rows: list[Row] = [("the same rank everywhere", even, ORANGE, "s")] if even else []
    for index, (name, points) in enumerate((values.get("rows") or {}).items()):
        rows.append((str(name), _ordered(points, values), *OTHERS[index % len(OTHERS)]))
    return rows


def _ordered(points: Iterable[Point], values: Mapping[str, Any]) -> list[Point]:
    """By parameters; ``error`` as long as the bars are drawn."""
    wide = [{**p, "error": _errors(values) * p["error"]} for p in points]
    return sorted(wide, key=lambda p: p["parameters"])


def _errors(values: Mapping[str, Any]) -> float:
    """Standard errors that a bar is long: those of the choice, one where it asked for none."""
    return float(values.get("errors") or 1.0)  # older files do not say


def _zero(points: Sequence[Point]) -> float:
    """Where 0 parameters stand on the logarithmic axis."""
    sizes = [p["parameters"] for p in points if p["parameters"] > 0]
    decades = max(0.3, math.log10(max(sizes) / min(sizes)))
    return float(min(sizes) / 10 ** (GAP * decades))


def _x(point: Point, zero: float) -> float:
    return float(point["parameters"]) or zero


def _band(axes: Axes, points: Sequence[Point], key: str, zero: float) -> None:
    x, y = np.array([_x(p, zero) for p in points]), np.array([p[key] for p in points])
    error = np.array([p["error"] for p in points])
    begin = sum(p["parameters"] == 0 for p in points)  # 1: between 0 and the first is no scale
    axes.plot(x[: begin + 1], y[: begin + 1], color=BLUE, linewidth=1.2, linestyle=(0, (1, 2)))
    axes.errorbar(
        *(x[:begin], y[:begin], error[:begin]),
        color=BLUE,
        marker="o",
        markersize=4,
        elinewidth=1.2,
        linestyle="none",
    )
    axes.fill_between(
        x[begin:], (y - error)[begin:], (y + error)[begin:], color=BLUE, alpha=0.22, linewidth=0
    )
    axes.plot(x[begin:], y[begin:], color=BLUE, marker="o", markersize=4)


def _mark(
    axes: Axes, values: Mapping[str, Any], points: Sequence[Point], key: str, zero: float
) -> None:
    """The point that was chosen, and a line at what was told instead."""
    chosen, kept = values["chosen"], values["parameters"]
    if chosen is not None:
        axes.plot(
            [_x(chosen, zero)],
            [chosen[key]],
            color=VERMILLION,
            marker="*",
            markersize=15,
            markeredgecolor="white",
            zorder=5,
        )
    if kept is not None and (chosen is None or kept != chosen["parameters"]):
        axes.axvline(kept or zero, color=GREY, linewidth=1.4)


def _near(points: Sequence[Point], values: Mapping[str, Any]) -> tuple[float, float]:
    """Limits that show delta and what lies to the right of the choice."""
    delta, chosen = values["delta"], values["chosen"]
    right = [p for p in points if chosen is None or p["parameters"] >= chosen["parameters"]]
    low = min(-delta, *(p["difference"] - p["error"] for p in right))
    high = max(4 * delta, *(p["difference"] + p["error"] for p in right))
    return low - 0.08 * (high - low), high


def _not_above(points: Sequence[Point], high: float) -> list[Point]:
    """Those from the last one on before the curves come below an upper limit."""
    least = min(p["parameters"] for p in points if p["difference"] - p["error"] <= high)
    before = max((p["parameters"] for p in points if p["parameters"] < least), default=least)
    return [p for p in points if p["parameters"] >= before]


def _parameters(axes: Axes, points: Sequence[Point], zero: float) -> None:
    """A logarithmic axis of round numbers, and 0 behind a break."""
    sizes = [p["parameters"] for p in points if p["parameters"] > 0]
    least, most = min(sizes), max(sizes)
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10**n for n in powers for m in steps if least <= m * 10**n <= 1.05 * most]
        if len(ticks) <= 6:
            break
    if len(ticks) < 2:  # within a factor of two or so
        ticks = [float(f"{x:.2g}") for x in np.geomspace(least, most, 3)]
    axes.set_xscale("log")
    has_zero = any(p["parameters"] == 0 for p in points)
    places = [*([zero] if has_zero else []), *ticks]
    axes.xaxis.set_major_locator(FixedLocator(places))
    words = [*(["0"] if has_zero else []), *(_short(tick) for tick in ticks)]
    axes.xaxis.set_major_formatter(FixedFormatter(words))
    axes.xaxis.set_minor_locator(NullLocator())
    first = zero if has_zero else least
    pad = (most / first) ** 0.04 if most > first else 1.1
    axes.set_xlim(first / pad, most * pad)
    if has_zero:
        axes.text(
            *(math.sqrt(zero * least), 0, "//"),
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="center",
            fontsize=9,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            clip_on=False,
        )


def _short(number: float) -> str:
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g} {sign}"
    return f"{number:g}"


def _legend(values: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[Any, str]]:
    """Handles with their labels."""
    count = _errors(values)
    times = "standard error" if count == 1 else f"{count:g} standard errors"
    found: list[tuple[Any, str]] = [
        (Line2D([], [], color=BLUE, marker="o", markersize=4), "the best components"),
        (
            Patch(color=BLUE, alpha=0.22, linewidth=0),
            f"± {times} of the paired difference to the whole",
        ),
    ]
    found += [
        (Line2D([], [], color=colour, marker=marker, linestyle="--", markersize=5), wrapped(name))
        for name, _, colour, marker in rows
    ]
    if values["learned"]:
        dotted = Line2D([], [], color=INK, linewidth=1.0, linestyle=":")
        found.append((dotted, f"delta, {values['delta']:.4f} above the whole"))
    if values.get("constant") is not None:
        same = Line2D([], [], color=GREY, linewidth=1.0, linestyle="-.")
        found.append((same, "the best constant answer"))
    chosen, kept = values["chosen"], values["parameters"]
    if chosen is not None:
        star = Line2D([], [], color=VERMILLION, marker="*", markersize=11, linestyle="none")
        found.append((star, "chosen"))
    if kept is not None and (chosen is None or kept != chosen["parameters"]):
        found.append((Line2D([], [], color=GREY, linewidth=1.4), "kept, as told"))
    return found
