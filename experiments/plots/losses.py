"""Draw losses over the steps, and what they are of the model that was saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.plots.records import run_name
from experiments.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    SOFT,
    VERMILLION,
    canvas,
    headline,
    marked_line,
    steps_axis,
)

__all__ = ["draw"]

# key in the evaluations, label, colour, marker, dashes
LINES: tuple[tuple[str, str, str, str, Any], ...] = (
    ("train_loss", "train", BLUE, "o", "-"),
    ("validation_loss", "validation", ORANGE, "s", "--"),
    ("test_loss", "test", VERMILLION, "^", "-"),
)
FEW = 3  # evaluations, below which the batches have to show how the loss fell
APART = 0.06  # of the axis, between the middles of two labels


def draw(records: Sequence[dict[str, Any]], result: dict[str, Any], path: Path) -> bool:
    """Write the figure; one panel a stage, all with the same loss axis. False without losses.

    At the right end, apart, are the losses of the saved model over all examples, as in the result;
    a line from train to test is the over-fitting gap.

    Args:
        records: the lines of metrics.jsonl.
        result: result.json.
        path: the PNG to write.
    """
    records = [r for r in records if r["kind"] in ("train", "validation")]
    if not records:
        return False
    stages = list(dict.fromkeys(record["stage"] for record in records))
    widths = [max((r["step"] for r in records if r["stage"] == s), default=1) for s in stages]
    # Wide enough for its title, however short a stage is; the last has the labels too.
    widths = [max(width, 0.35 * max(widths)) for width in widths]
    widths[-1] *= 1.2
    with canvas(path, 5.4 + 2.2 * len(stages), 4.4) as figure:
        panels = figure.subplots(1, len(stages), sharey=True, squeeze=False, width_ratios=widths)[0]
        for axes, stage in zip(panels, stages, strict=True):
            _stage(axes, stage, [r for r in records if r["stage"] == stage])
        panels[0].set_ylabel("loss (mean over examples)")
        _limits(panels, records, result)
        _saved(panels[-1], [r for r in records if r["stage"] == stages[-1]], result)
        handles = {h.get_label(): h for axes in panels for h in axes.get_lines()}
        figure.legend(
            handles=[h for label, h in handles.items() if not str(label).startswith("_")],
            loc="outside lower center",
            ncols=4,
        )
        headline(figure, f"Losses: {run_name(result)}", _note(result))
    return True


def _note(result: dict[str, Any]) -> str:
    metric, train = result["primary_metric"], result["train_loss"]
    score = result["metrics"][metric]
    said = [] if score is None else [f"test {metric} {score:.4g}"]
    if train is not None and result["test_loss"] is not None:
        said.append(f"over-fitting gap (test − train loss) {result['test_loss'] - train:.3f}")
    return ", ".join(said)


def _stage(axes: Axes, stage: str, records: Sequence[dict[str, Any]]) -> None:
    axes.set_title(stage)
    batches = [
        (r["step"], r["lower_loss"])
        for r in records
        if r["kind"] == "train" and r.get("lower_loss") is not None
    ]
    evaluations = [r for r in records if r["kind"] == "validation"]
    if batches:
        x, y = np.array(batches, dtype=float).T
        alone = len(evaluations) < FEW and len(y) < 2 * FEW
        axes.plot(
            x,
            y,
            "o-" if alone else "-",
            color=BLUE,
            linewidth=1.6 if alone else 0.8,
            markersize=4,
            alpha=1 if alone else 0.3,
            label="train, batches (with dropout)",
        )
        if len(evaluations) < FEW and not alone:
            window = max(FEW, len(y) // 8)
            smooth = np.convolve(y, np.ones(window) / window, mode="valid")
            axes.plot(
                x[window - 1 :],
                smooth,
                color=BLUE,
                linewidth=1.6,
                label=f"train, mean of {window} of them",
            )
    for key, label, colour, marker, dashes in LINES:
        points = [(r["step"], r[key]) for r in evaluations if r.get(key) is not None]
        if len(points) >= 2:  # one alone is what was saved, or nearly so
            marked_line(axes, points, label, colour, marker, dashes)
    steps_axis(axes)


def _limits(
    panels: Sequence[Axes], records: Sequence[dict[str, Any]], result: dict[str, Any]
) -> None:
    """Make room for what is evaluated; a few wild batches may leave the picture."""
    values = [
        r[key] for r in records for key, *_ in LINES if r["kind"] == "validation" and r.get(key)
    ]
    values += [result[key] for key in ("train_loss", "test_loss") if result.get(key) is not None]
    batches = [r["lower_loss"] for r in records if r.get("lower_loss") is not None]
    if batches:
        values.append(float(np.quantile(batches, 0.98)))
    values = [value for value in values if np.isfinite(value)]
    if values and max(values) > 0:
        panels[0].set_ylim(0, 1.12 * max(values))


def _saved(axes: Axes, records: Sequence[dict[str, Any]], result: dict[str, Any]) -> None:
    """The losses of the saved model, each with its name, to the right of the last step."""
    last = max(record["step"] for record in records)
    evaluated = {key for r in records if r["kind"] == "validation" for key in r}
    found = []
    for key, label, colour, marker, _ in LINES:
        # D_val of an earlier stage is nothing that the last one is to be compared with.
        known = key != "validation_loss" or key in evaluated
        if known and (value := result.get(key)) is not None:
            found.append((value, label, colour, marker))
    if not found:
        return
    x, top = 1.07 * last, axes.get_ylim()[1]
    axes.axvline(1.02 * last, color=GREY, linewidth=0.8, linestyle=":")
    ends = [value for value, label, *_ in found if label != "validation"]
    axes.plot([x] * len(ends), ends, color=GREY, linewidth=1.2, zorder=1)
    height = -np.inf
    for value, label, colour, marker in sorted(found):
        axes.plot([x], [value], marker, color=colour, markersize=7, label=f"_{label}")
        height = max(value, height + APART * top)
        axes.text(1.1 * last, height, f"{label} {value:.3f}", va="center", fontsize=9, color=colour)
    axes.text(1.04 * last, 0.99, "saved", transform=axes.get_xaxis_transform(), va="top",
              fontsize=8, color=SOFT)  # fmt: skip
    axes.set_xlim(right=1.38 * last)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= last])
