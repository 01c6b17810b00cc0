"""How far fine-tuning turned and moved each weight matrix from its pretrained value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.plots.modules import grid
from experiments.plots.style import canvas, headline, logarithmic, look, over_a_power

__all__ = ["LINE", "by_part", "draw", "layer_axis"]

LINE: Any = {"linewidth": 1.4, "markersize": 5}


def by_part(
    update: Mapping[str, Mapping[str, float | None]], key: str, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Part of the layers -> (layers (n,), values (n,)) of ``key`` (``turn`` is 1 - cosine).

    Parts and layers are those of ``names``, or else of the update's own modules.

    Cosines are so near 1 that only their distance from it can be seen; it is NaN where rounding
    leaves nothing of it.
    """
    layers, parts, cells = grid(names or update)
    table = np.full((len(parts), len(layers)), np.nan)
    for name, values in update.items():
        row, column = cells[name]
        value = values["cosine" if key == "turn" else key]
        if value is not None:
            table[row, column] = 1 - value if key == "turn" else value
    table[table <= 0] = np.nan
    numbers = np.array([-1 if layer is None else layer for layer in layers])
    return {part: (numbers, row) for part, row in zip(parts, table, strict=True)}


def layer_axis(axes: Axes, layers: np.ndarray) -> None:
    """Whole numbers for layers below, a logarithmic axis beside."""
    logarithmic(axes, "y")
    axes.set_xlim(layers.min() - 0.5, layers.max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def draw(result: dict[str, Any], path: Path) -> bool:
    """Write the figure: 1 - cosine and the relative norm of the update, a line a part, over layers.

    False without ``update`` in the result, or when nothing in it is a positive number.
    """
    measures = (
        ("turn", r"1 − cosine of $W$ to $W_0$"),
        ("relative_norm", r"relative norm, $\|W - W_0\|_F / \|W_0\|_F$"),
    )
    update = result.get("update")
    if not update:
        return False
    found = {key: by_part(update, key) for key, _ in measures}
    if not any(np.isfinite(v).any() for lines in found.values() for _, v in lines.values()):
        return False
    with canvas(path, 10.0, 4.2) as figure:
        for axes, (key, label) in zip(figure.subplots(1, 2, sharex=True), measures, strict=True):
            for i, (part, (layers, values)) in enumerate(found[key].items()):
                there = np.isfinite(values)
                axes.plot(layers[there], values[there], **LINE, **look(i), label=part)
            axes.set_xlabel("layer")
            axes.set_title(label, fontsize=10, fontweight="normal", parse_math=True)
            layer_axis(axes, layers)
            over_a_power(axes)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
        headline(
            figure,
            f"Fine-tuned against pretrained weights: {result['method']} on {result['task']}, "
            f"{result['model']}, seed {result['seed']}",
        )
    return True
