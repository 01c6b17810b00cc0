"""Training and test (or validation) loss of several methods over the steps, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.plots.records import Record, last_stage, lower_steps_each, method_name
from experiments.plots.style import canvas, headline, look, wrapped

__all__ = ["draw"]

TRAINING = ("train_loss", "training loss")
# Beside it, the first that was evaluated: engine.evaluate_test shows the test loss too.
OTHERS = (("test_loss", "test loss"), ("validation_loss", "validation loss"))


def draw(runs: Sequence[tuple[Sequence[Record], dict[str, Any]]], path: Path) -> bool:
    """Write the figure: a row a task and model, training beside test (or validation) loss.

    A line is a method: means over seeds, bands one standard deviation. Steps are the lower level's
    own optimiser steps (T1 in a global step). Of a method with several stages it shows the last,
    the one that makes the model; the legend says how many steps were taken before it. A seed that
    stopped early goes on with the loss it ended with.

    Args:
        runs: lines of metrics.jsonl and result.json of each run.
        path: the PNG to write.

    Returns:
        False when no run was evaluated during training.
    """
    lines: dict[tuple[str, str], dict[str, list[list[Record]]]] = {}
    for records, result in runs:
        evaluations = _evaluations(records, result)
        if evaluations:
            here = lines.setdefault((result["task"], result["model"]), {})
            here.setdefault(_label(records, result), []).append(evaluations)
    if not lines:
        return False
    names = sorted({name for here in lines.values() for name in here})
    looks = {name: look(i) for i, name in enumerate(names)}
    height = max(3.6 * len(lines), 1.0 + 0.2 * sum(wrapped(n).count("\n") + 1 for n in names))
    with canvas(path, 12.5, height + 0.4) as figure:
        measures = {setting: [TRAINING, *_other(here)] for setting, here in lines.items()}
        columns = max(map(len, measures.values()))
        panels = figure.subplots(len(lines), columns, squeeze=False, sharey="row", sharex="row")
        for row, (setting, here) in zip(panels, sorted(lines.items()), strict=True):
            for axes, (key, title) in zip(row, measures[setting], strict=False):
                for name in sorted(here):
                    _line(axes, here[name], key, looks[name], wrapped(name))
                axes.set_title(f"{', '.join(setting)}: {title}")
                axes.set_xlabel("lower-level optimiser steps")
            row[0].set_xlim(left=0)  # both panels: they share their axes
            row[0].set_ylim(0, 1.06 * row[0].get_ylim()[1])  # no marker is cut
            row[0].set_ylabel("loss (mean over examples)")
        handles = {h.get_label(): h for a in panels.ravel() for h in a.get_lines()}
        figure.legend(
            handles=[handles[w] for name in names if (w := wrapped(name)) in handles],
            loc="outside right upper",
            fontsize=9,
            handlelength=3.5,
        )
        headline(figure, "Losses of several methods (mean over seeds ± one standard deviation)")
    return True


def _other(here: dict[str, list[list[Record]]]) -> list[tuple[str, str]]:
    """What to show beside the training loss; nothing where no other was evaluated."""
    every = [record for seeds in here.values() for seed in seeds for record in seed]
    shown = [(key, title) for key, title in OTHERS if any(r.get(key) is not None for r in every)]
    return shown[:1]


def _evaluations(records: Sequence[Record], result: dict[str, Any]) -> list[Record]:
    """The evaluations of the last stage, with their lower-level step as ``x``."""
    found = last_stage(records, "validation")
    factor = lower_steps_each(records, found[-1]["stage"], result) if found else 1
    return [{**record, "x": factor * record["step"]} for record in found]


def _label(records: Sequence[Record], result: dict[str, Any]) -> str:
    steps = result["engine"]["steps"]
    *before, last = steps
    if not before:
        return method_name(result)
    taken = sum(steps[stage] * lower_steps_each(records, stage, result) for stage in before)
    return f"{method_name(result)} ({last}, after {taken} steps of {' and '.join(before)})"


def _line(
    axes: Axes, seeds: Sequence[Sequence[Record]], key: str, style: dict[str, Any], name: str
) -> None:
    """The mean of the seeds over all steps at which any was evaluated, once all have begun."""
    found = [[(r["x"], r[key]) for r in seed if r.get(key) is not None] for seed in seeds]
    points = [np.array(seed, dtype=float) for seed in found if seed]
    if not points:
        return
    begin = max(seed[0, 0] for seed in points)
    steps = np.unique(np.concatenate([seed[:, 0] for seed in points]))
    steps = steps[steps >= begin]
    losses = np.array([np.interp(steps, seed[:, 0], seed[:, 1]) for seed in points])
    mean = losses.mean(0)
    axes.plot(
        steps,
        mean,
        **style,
        markersize=5,
        markevery=max(1, len(steps) // 8),
        linewidth=1.6,
        label=name,
    )
    if len(points) > 1:
        spread = losses.std(0, ddof=1)
        axes.fill_between(
            steps, mean - spread, mean + spread, color=style["color"], alpha=0.15, linewidth=0
        )
