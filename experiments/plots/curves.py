"""Draw training and test (or validation) losses of several methods over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.plots.records import (
    Record,
    last_stage,
    lower_steps_each,
    method_name,
    setting_name,
)
from experiments.plots.style import canvas, headline, look, wrapped

__all__ = ["draw"]

LOSS = "loss (mean over examples)"
TRAINING = ("train_loss", "training loss")
# Beside it, the first that was evaluated: engine.evaluate_test shows the test loss too.
OTHERS = (("test_loss", "test loss"), ("validation_loss", "validation loss"))


def draw(runs: Sequence[tuple[Sequence[Record], dict[str, Any]]], path: Path) -> bool:
    """Write the figure: a row a task and model, training beside test (or validation) loss.

    A line is the mean of a method over its seeds; what each seed did is a thin line behind it, and
    a bar at its end is the mean ± one standard deviation. Where a method was evaluated but once, so
    that there are no lines, each has a row of points. Steps are the lower level's own optimiser
    steps (T1 in a global step). Of a method with several stages it shows the last that was
    evaluated, the one that makes the model; the legend says how many steps were taken before it. A
    seed that stopped early goes on with the loss it ended with.

    Args:
        runs: lines of metrics.jsonl and result.json of each run.
        path: the PNG to write.

    Returns:
        False when no run was evaluated during training.
    """
    lines: dict[tuple[str, str], dict[str, list[list[Record]]]] = {}
    shown = []
    for records, result in runs:
        evaluations = _evaluations(records, result)
        if evaluations:
            here = lines.setdefault((result["task"], result["model"]), {})
            here.setdefault(_label(records, evaluations, result), []).append(evaluations)
            shown.append(result)
    if not lines:
        return False
    names = sorted({name for here in lines.values() for name in here})
    looks = {name: look(i) for i, name in enumerate(names)}
    broken = sum(wrapped(n).count("\n") + 1 for n in names)
    with canvas(path, 12.5, max(3.6 * len(lines), 1.0 + 0.2 * broken) + 0.5) as figure:
        measures = {setting: [TRAINING, *_other(here)] for setting, here in lines.items()}
        columns = max(map(len, measures.values()))
        panels = figure.subplots(len(lines), columns, squeeze=False, sharey="row", sharex="row")
        for row, (setting, here) in zip(panels, sorted(lines.items()), strict=True):
            once = all(len(seed) < 2 for seeds in here.values() for seed in seeds)
            for axes, (key, title) in zip(row, measures[setting], strict=False):
                for name in sorted(here):
                    if once:
                        _points(axes, here[name], key, looks[name], names.index(name))
                    else:
                        _line(axes, here[name], key, looks[name], wrapped(name))
                axes.set_title(f"{', '.join(setting)}: {title}")
                axes.set_xlabel(LOSS if once else "lower-level optimiser steps")
            if once:
                row[0].set_yticks(range(len(names)), [wrapped(name) for name in names])
                row[0].set_ylim(len(names) - 0.5, -0.5)
                row[0].set_xlim(0, 1.06 * row[0].get_xlim()[1])
                continue
            row[0].set_xlim(left=0)  # both panels: they share their axes
            row[0].set_ylim(0, 1.06 * row[0].get_ylim()[1])  # no marker is cut
            row[0].set_ylabel(LOSS)
        for axes in (a for row in panels for a in row if not a.has_data()):
            axes.set_visible(False)
        handles = {h.get_label(): h for a in panels.ravel() for h in a.get_lines()}
        named = [handles[w] for name in names if (w := wrapped(name)) in handles]
        if named:
            figure.legend(handles=named, loc="outside right upper", fontsize=9, handlelength=3.5)
        headline(
            figure,
            f"Losses: {setting_name(shown)}",
            "means over seeds; bars at the end: ± one standard deviation; thin: each seed",
        )
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


def _label(records: Sequence[Record], evaluations: Sequence[Record], result: dict[str, Any]) -> str:
    steps = result["engine"]["steps"]
    stage = evaluations[-1]["stage"]
    before = list(steps)[: list(steps).index(stage)] if stage in steps else []
    if not before:
        return method_name(result)
    taken = sum(steps[name] * lower_steps_each(records, name, result) for name in before)
    return f"{method_name(result)} ({stage}, after {taken} steps of {' and '.join(before)})"


def _of(seeds: Sequence[Sequence[Record]], key: str) -> list[np.ndarray]:
    """Steps and losses (t, 2) of each seed that has any."""
    found = [[(r["x"], r[key]) for r in seed if r.get(key) is not None] for seed in seeds]
    return [np.array(seed, dtype=float) for seed in found if seed]


def _points(
    axes: Axes, seeds: Sequence[Sequence[Record]], key: str, style: dict[str, Any], y: int
) -> None:
    """The loss that each seed ended with, and their mean ± one standard deviation."""
    ends = np.array([seed[-1, 1] for seed in _of(seeds, key)])
    if not ends.size:
        return
    axes.scatter(ends, np.full(ends.size, y), s=16, color=style["color"], alpha=0.45, linewidths=0)
    spread = ends.std(ddof=1) if ends.size > 1 else 0.0
    axes.errorbar(
        ends.mean(),
        y,
        xerr=spread,
        fmt=style["marker"],
        color=style["color"],
        markersize=6,
        capsize=4,
    )


def _line(
    axes: Axes, seeds: Sequence[Sequence[Record]], key: str, style: dict[str, Any], name: str
) -> None:
    """The mean of the seeds over all steps at which any was evaluated, once all have begun."""
    points = _of(seeds, key)
    if not points:
        return
    begin = max(seed[0, 0] for seed in points)
    steps = np.unique(np.concatenate([seed[:, 0] for seed in points]))
    steps = steps[steps >= begin]
    losses = np.array([np.interp(steps, seed[:, 0], seed[:, 1]) for seed in points])
    axes.plot(
        steps,
        losses.mean(0),
        **style,
        markersize=5,
        markevery=max(1, len(steps) // 8),
        linewidth=1.6,
        label=name,
    )
    if len(points) > 1:
        for seed in losses:
            axes.plot(steps, seed, color=style["color"], linewidth=0.7, alpha=0.3, label="_seed")
        axes.errorbar(
            steps[-1],
            losses[:, -1].mean(),
            yerr=losses[:, -1].std(ddof=1),
            color=style["color"],
            capsize=3,
            elinewidth=1.2,
            label="_spread",
        )
