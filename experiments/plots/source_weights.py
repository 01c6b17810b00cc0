"""Draw the weights of the training data's sources over the steps, and what each is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.plots.records import Record, run_name
from experiments.plots.style import GREY, INK, canvas, headline, look, wrapped
from experiments.results.source_table import ends, short, weights_over_steps

__all__ = ["draw"]


def draw(records: Sequence[Record], result: dict[str, Any], path: Path) -> bool:
    """Write the figure, a line a source; False when no weights of sources were recorded.

    Of many sources the heaviest and the lightest have their names.

    Args:
        records: the lines of metrics.jsonl.
        result: result.json, with its ``source_weights``.
        path: the PNG to write.
    """
    steps, weights = weights_over_steps(records)
    table = result.get("source_weights")
    if not weights or table is None:
        return False
    rows = {row["source"]: row for row in table["sources"]}
    order = sorted(weights, key=lambda name: -rows[name]["weight"])
    first, last = ends(order)
    named = [*first, *last]
    with canvas(path, 7.5, max(3.6, 1.0 + 0.42 * len(named))) as figure:
        axes = figure.subplots()
        for name in order[len(first) : len(order) - len(last)]:
            axes.plot(steps, weights[name], color=GREY, linewidth=0.5)
        for index, name in enumerate(named):
            row = rows[name]
            said = f"{short(name)}: {row['weight']:.3f}, {row['verdict'] or 'not known'}"
            axes.plot(steps, weights[name], **{**look(index), "marker": ""}, label=wrapped(said))
        if last:
            said = f"{len(order) - len(named)} more, between them"
            axes.plot([], [], color=GREY, linewidth=0.5, label=said)
        axes.axhline(table["even"], color=INK, linewidth=1.0, linestyle=":")
        axes.annotate(
            "an equal part ",
            (steps[-1], table["even"]),
            ha="right",
            va="bottom",
            fontsize=8,
            color=INK,
        )
        if len(steps) > 1:
            first = steps[-min(table["records"], len(steps))]
            axes.axvspan(first, steps[-1], color=GREY, alpha=0.12, linewidth=0)
            axes.set_xlim(0, steps[-1])
        top = max(float(values.max()) for values in weights.values())
        axes.set_ylim(0, 1 if 2 * top > 1 else 1.2 * top)  # of many sources all are small
        axes.set_xlabel("step (grey: what the table is of)")
        axes.set_ylabel("weight of an example of the source\n(they sum to 1)")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="source: weight, verdict")
        headline(figure, f"Source weights: {run_name(result)}")
    return True
