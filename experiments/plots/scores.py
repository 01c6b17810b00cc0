"""Draw the primary metric over the steps, on the validation and the test examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.plots.records import Record, run_name
from experiments.plots.style import (
    GREY,
    ORANGE,
    VERMILLION,
    canvas,
    headline,
    marked_line,
    steps_axis,
)

__all__ = ["draw"]

LINES = (("validation", ORANGE, "s", "--"), ("test", VERMILLION, "^", "-"))
FEWEST = 2  # evaluations, below which there is no line


def draw(records: Sequence[Record], result: dict[str, Any], path: Path) -> bool:
    """Write the figure, a panel a stage; the dotted line is the score of what was saved.

    Args:
        records: the lines of metrics.jsonl.
        result: result.json.
        path: the file to write.

    Returns:
        False with fewer than two evaluations of the metric.
    """
    metric = result["primary_metric"]
    keys = {name: f"{name}_{metric}" for name, *_ in LINES}
    found = [
        r
        for r in records
        if r["kind"] == "validation" and any(r.get(key) is not None for key in keys.values())
    ]
    if len(found) < FEWEST:
        return False
    stages = list(dict.fromkeys(r["stage"] for r in found))
    widths = [max(r["step"] for r in found if r["stage"] == stage) for stage in stages]
    widths = [max(width, 0.35 * max(widths)) for width in widths]
    with canvas(path, 5.0 + 2.2 * len(stages), 3.4) as figure:
        panels = figure.subplots(1, len(stages), sharey=True, squeeze=False, width_ratios=widths)[0]
        for axes, stage in zip(panels, stages, strict=True):
            here = [r for r in found if r["stage"] == stage]
            for name, colour, marker, dashes in LINES:
                points = [(r["step"], r[keys[name]]) for r in here if r.get(keys[name]) is not None]
                if points:
                    marked_line(axes, points, name, colour, marker, dashes)
            score = result["metrics"][metric]
            if stage == stages[-1] and score is not None:
                axes.axhline(
                    score, color=GREY, linewidth=1.2, linestyle=":", label="test, of what was saved"
                )
            axes.set_title(stage)
            steps_axis(axes)
        panels[0].set_ylabel(metric)
        handles = {h.get_label(): h for axes in panels for h in axes.get_lines()}
        figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=3)
        headline(figure, f"{metric.capitalize()} over the steps: {run_name(result)}")
    return True
