"""Losses over steps, with the over-fitting gap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from experiments.plots.style import BLUE, GREY, INK, ORANGE, VERMILLION, canvas

__all__ = ["draw"]

# key in the evaluations, label, colour, marker, dashes
LINES: tuple[tuple[str, str, str, str, Any], ...] = (
    ("train_loss", "train", BLUE, "o", "-"),
    ("validation_loss", "validation", ORANGE, "s", "--"),
    ("test_loss", "test", VERMILLION, "^", "-"),
)


def draw(records: Sequence[dict[str, Any]], result: dict[str, Any], path: Path) -> bool:
    """Write the figure; one panel a stage, all with the same loss axis. False without losses.

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
    # Wide enough for its title, however short a stage is.
    widths = [max(width, 0.35 * max(widths)) for width in widths]
    with canvas(path, 5.0 + 2.2 * len(stages), 4.4) as figure:
        panels = figure.subplots(1, len(stages), sharey=True, squeeze=False, width_ratios=widths)[0]
        for axes, stage in zip(panels, stages, strict=True):
            _stage(axes, stage, [r for r in records if r["stage"] == stage])
        panels[0].set_ylabel("loss (mean over examples)")
        _limits(panels, records)
        _gap(panels[-1], [r for r in records if r["stage"] == stages[-1]], result)
        handles = {h.get_label(): h for axes in panels for h in axes.get_lines()}
        figure.legend(
            handles=[h for label, h in handles.items() if not str(label).startswith("_")],
            loc="outside lower center",
            ncols=4,
        )
        figure.suptitle(
            f"{result['method']} on {result['task']}, {result['model']}, seed {result['seed']}: "
            f"test {result['primary_metric']} {result['metrics'][result['primary_metric']]:.4g}",
            fontsize=11,
            x=0.01,
            ha="left",
        )
    return True


def _stage(axes: Axes, stage: str, records: Sequence[dict[str, Any]]) -> None:
    axes.set_title(stage)
    axes.set_xlabel("step")
    steps = [r for r in records if r["kind"] == "train" and r.get("lower_loss") is not None]
    axes.plot(
        [r["step"] for r in steps],
        [r["lower_loss"] for r in steps],
        color=BLUE,
        linewidth=0.8,
        alpha=0.3,
        label="train, running (with dropout)",
    )
    evaluations = [r for r in records if r["kind"] == "validation"]
    for key, label, colour, marker, dashes in LINES:
        points = [(r["step"], r[key]) for r in evaluations if r.get(key) is not None]
        if points:
            x, y = zip(*points, strict=True)
            every = max(1, len(x) // 12)
            axes.plot(
                x,
                y,
                dashes,
                color=colour,
                marker=marker,
                markersize=5,
                markevery=every,
                label=label,
            )
    axes.set_xlim(left=0)


def _limits(panels: Sequence[Axes], records: Sequence[dict[str, Any]]) -> None:
    """Make room for what is evaluated; a few wild batches may leave the picture."""
    values = [
        r[key] for r in records for key, *_ in LINES if r["kind"] == "validation" and r.get(key)
    ]
    batches = sorted(r["lower_loss"] for r in records if r.get("lower_loss") is not None)
    if batches:
        values.append(batches[int(0.98 * (len(batches) - 1))])
    if values:
        panels[0].set_ylim(0, 1.12 * max(values))


def _gap(axes: Axes, records: Sequence[dict[str, Any]], result: dict[str, Any]) -> None:
    """Mark the final difference of test and train loss, over all examples as in the result."""
    ends = [r for r in records if r["kind"] == "validation"]
    if not ends:
        return
    step, train, test = ends[-1]["step"], result["train_loss"], result["test_loss"]
    right = axes.get_xlim()[1]
    axes.set_xlim(right=max(right, step) * 1.28)
    x = step * 1.05
    for y in (train, test):
        axes.plot([step, x], [y, y], color=GREY, linewidth=0.8, linestyle=":")
    axes.annotate("", (x, test), (x, train), arrowprops={"arrowstyle": "<->", "color": INK})
    axes.text(
        x * 1.02,
        (train + test) / 2,
        f"over-fitting gap\ntest − train\n= {test - train:.3f}",
        va="center",
        fontsize=9,
        color=INK,
    )
