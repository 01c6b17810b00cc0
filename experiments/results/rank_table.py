"""Print ranks as a table, a row a layer and a column a kind of module."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.plots.modules import grid

__all__ = ["rank_table"]


def rank_table(ranks: Mapping[str, int]) -> str:
    """The lines of the table; a place without an adapter is a dash."""
    layers, parts, cells = grid(ranks)
    by_cell = {cell: ranks[name] for name, cell in cells.items()}
    widths = [max(6, len(part)) for part in parts]
    lines = ["  layer  " + "  ".join(f"{p:>{w}}" for p, w in zip(parts, widths, strict=True))]
    for column, layer in enumerate(layers):
        row = [by_cell.get((row, column), "-") for row in range(len(parts))]
        said = "-" if layer is None else str(layer)
        lines.append(
            f"  {said:>5}  " + "  ".join(f"{r:>{w}}" for r, w in zip(row, widths, strict=True))
        )
    return "\n".join(lines)
