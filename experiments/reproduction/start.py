"""Start MRPC, RTE and STS-B from the MNLI run of their row, model and seed (warm_start=mnli).

So it is in LoRA's published runs, and in those of papers that keep its settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bilevel.errors import UserError
from experiments.reproduction.cells import START, Cell
from experiments.results import record

__all__ = ["APART", "FOLDER", "LABEL", "OTHERS", "first", "warmed"]

SOURCE = "mnli"
STARTING = ("mrpc", "rte", "stsb")
# Of the tables and figures; runs have it at the end of their folder's name.
FOLDER = "from-mnli"
LABEL = (
    "warm start: MRPC, RTE and STS-B start from the MNLI run of the same row, model and seed, "
    "whatever the paper has"
)
# What these leave is beside the weights, and cannot be merged into them.
APART = ("houlsby", "ia3", "pfeiffer", "prefix", "prompt")
OTHERS = "starts from the pretrained model: nothing that its method leaves can be merged into it"


def warmed(cells: Sequence[Cell], name: str) -> list[Cell]:
    """The runs of an entry, those of MRPC, RTE and STS-B with the run that they start from.

    Args:
        cells: all of the entry.
        name: of the entry.

    Raises:
        UserError: no run starts from MNLI, or one that does has no such run to start from.
    """
    found = [_warmed(cell, cells, name) for cell in cells]
    if all(cell.start is None for cell in found):
        raise UserError(f"warm_start=mnli: {name} has no run of MRPC, RTE or STS-B to start so")
    return found


def _warmed(cell: Cell, cells: Sequence[Cell], name: str) -> Cell:
    row = cell.block.rows[cell.row]
    if cell.task not in STARTING or row.method in APART:
        return cell
    for other in cells:
        same = other.block is cell.block and (other.row, other.seed) == (cell.row, cell.seed)
        point = all(other.settings[key] == cell.settings[key] for key in row.grid)
        if same and point and other.task == SOURCE:
            return replace(
                cell,
                start=other,
                settings={**cell.settings, START: str(other.folder)},
                folder=cell.folder.with_name(f"{cell.folder.name}_{FOLDER}"),
            )
    raise UserError(f"warm_start=mnli: {name} has no MNLI run that {cell.label} could start from")


def first(cells: Sequence[Cell]) -> list[Cell]:
    """The runs, each after the one that it starts from, which is added where it is needed."""
    found: dict[object, Cell] = {}
    for cell in cells:
        if cell.start is not None and not (cell.folder / record.FILE).is_file():
            found.setdefault(cell.start.folder, cell.start)
        found.setdefault(cell.folder, cell)
    return list(found.values())
