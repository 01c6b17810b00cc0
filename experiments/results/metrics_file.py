"""Read metrics.jsonl, what was measured while a run trained."""

from __future__ import annotations

from pathlib import Path

from bilevel.errors import UserError
from bilevel.reading import parsed, read_text
from experiments.plots.records import Record
from experiments.results.shape import check_line

__all__ = ["read_metrics"]


def read_metrics(folder: Path, growing: bool = False) -> list[Record]:
    """The lines of metrics.jsonl; none without the file.

    Args:
        folder: the run's.
        growing: the run is not finished: a last line without its end is passed over.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    records: list[Record] = []
    *lines, last = read_text(path).split("\n")
    for number, line in enumerate([*lines, *([last] if last and not growing else [])], 1):
        place = f"{path}, line {number}"
        values = parsed(line, place)
        check_line(values, place)
        records.append(values)
    first: dict[str, dict[str, int]] = {}
    for number, made in enumerate(records, 1):
        if made["kind"] == "gates":
            sizes = {name: len(values) for name, values in made["gates"].items()}
            if first.setdefault(made["stage"], sizes) != sizes:
                raise UserError(f"{path}, line {number} is damaged: it has other gates than before")
    return records
