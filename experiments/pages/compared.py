"""Make tables of what a comparison of methods found: scores with intervals, differences."""

from __future__ import annotations

from experiments.comparing.comparison import Comparison, Family, Method
from experiments.pages.grids import Cell, Column, Grid, number, without_empty

__all__ = ["LEGEND", "tables"]

LEGEND = (
    "Intervals are 95 %: of several seeds over seeds and test examples, of one over test examples "
    "alone, and not adjusted for how many there are."
)


def tables(comparison: Comparison) -> list[Grid]:
    """The methods, the best by validation first, and their differences to the baseline."""
    return [_methods(comparison), *(_differences(comparison, f) for f in comparison.families)]


def _methods(c: Comparison) -> Grid:
    by = "validation loss" if c.chosen_by == "loss" else f"validation {c.chosen_by}"
    columns = [
        *(Column("method"), Column("variant"), Column("seeds", True), Column(by, True)),
        *(Column(f"test {c.metric}", True), Column("95 % interval", True)),
        *(Column(name, True) for name in ("test loss", "parameters", "processor s")),
        Column("notes"),
    ]
    rows = [
        [
            *(Cell(m.method), Cell(m.variant), number(len(m.runs)), number(m.validation_shown)),
            *(number(m.score), _interval(m.low, m.high), number(m.test_loss)),
            *(number(round(m.parameters)), number(m.processor_seconds, 0), Cell(_notes(m))),
        ]
        for m in c.methods
    ]
    return without_empty(Grid(f"{c.task} with {c.model}", columns, rows))


def _notes(m: Method) -> str:
    notes = [("best by validation", m.best), ("on the Pareto front", m.on_front)]
    trained = m.trained_on and m.validation_shown is not None
    return "; ".join(
        [words for words, said in notes if said] + ["trains on its validation data (†)"] * trained
    )


def _interval(low: float | None, high: float | None) -> Cell:
    if low is None or high is None:
        return Cell("")
    return Cell(f"{low:.4f} to {high:.4f}", low)


def _differences(c: Comparison, family: Family) -> Grid:
    title = (
        f"{c.task} with {c.model}: differences in {family.measure} to {c.baseline} "
        f"({c.baseline_reason}); {family.adjustment}"
    )
    names = ("seeds", "test examples", "difference", "95 % interval", "p (Holm)")
    columns = [Column("method"), *(Column(name, True) for name in names), Column("said")]
    rows = [
        [
            *(Cell(d.name), number(len(d.seeds)), number(d.examples)),
            *(Cell(f"{d.mean:+.4f}", d.mean), Cell(f"{d.low:+.4f} to {d.high:+.4f}", d.low)),
            Cell(d.p_words, d.p_holm),
            Cell(family.word(d)),
        ]
        for d in family.differences
    ]
    return Grid(title, columns, rows)
