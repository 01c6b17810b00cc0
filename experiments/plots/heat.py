"""Draw heat maps of components' values: a panel a part, a row a layer, a column a component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, Normalize, TwoSlopeNorm
from matplotlib.image import AxesImage

from experiments.plots.modules import grid, title
from experiments.plots.style import INK, ZERO

__all__ = ["by_magnitude", "colours", "panels"]


def by_magnitude(values: np.ndarray) -> np.ndarray:
    """The values (k,) with the largest magnitude first and those that are not finite last."""
    return values[np.argsort(-np.abs(values), kind="stable")]


def colours(values: np.ndarray) -> tuple[Colormap, Normalize]:
    """Colour map and range: two-sided about 0 where a value is negative, else from 0.

    Values that differ little get colours that differ little.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low < 0:
        bound = max(-low, high)
        return colormaps["PuOr"], TwoSlopeNorm(0.0, -bound, bound)
    return colormaps["viridis"], Normalize(0.0, high or 1.0)


def panels(
    axes: Sequence[Axes],
    values: Mapping[str, np.ndarray],
    ranks: Mapping[str, int] | None,
) -> AxesImage:
    """Draw one panel a part of the layers into ``axes``, as many as :func:`modules.grid` has parts.

    Components are sorted by magnitude in each row; a black line follows the last one that was kept,
    where the ranks say that some were not. Exact zeros are grey, what is not finite is white.

    Returns:
        An image for a colour bar.
    """
    layers, parts, cells = grid(values)
    k = max(len(v) for v in values.values())
    table = np.full((len(parts), len(layers), k), np.nan)
    for name, (row, layer) in cells.items():
        table[row, layer, : len(values[name])] = by_magnitude(values[name])
    colour_map, norm = colours(table)
    image: Any = None
    for row, (axis, part) in enumerate(zip(axes, parts, strict=True)):
        here = table[row]
        axis.grid(False)
        axis.imshow(
            np.ma.masked_not_equal(here, 0), cmap=ListedColormap([ZERO]), aspect="auto", vmin=0
        )
        image = axis.imshow(
            np.ma.masked_where((here == 0) | np.isnan(here), here),
            cmap=colour_map,
            norm=norm,
            aspect="auto",
        )
        for name, (its, layer) in cells.items():
            rank = (ranks or {}).get(name)
            if its == row and rank is not None and rank < len(values[name]):
                axis.vlines(rank - 0.5, layer - 0.5, layer + 0.5, color=INK, linewidth=1.6)
        axis.set_title(title(part), fontsize=9, loc="center")
        every = max(1, k // 4)
        axis.set_xticks(range(0, k, every), [str(i + 1) for i in range(0, k, every)])
        some = range(0, len(layers), 1 if len(layers) <= 16 else 4)
        axis.set_yticks(some, ["" if layers[i] is None else str(layers[i]) for i in some])
        axis.tick_params(length=2, labelsize=8)
        axis.spines[:].set_visible(False)
    return image
