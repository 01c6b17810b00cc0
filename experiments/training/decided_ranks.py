"""Read out of a run's metrics.jsonl how far its ranks are decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bilevel.cutting import Cut
from bilevel.cutting.decided import (
    RECORDS,
    Decided,
    RankChoice,
    decided,
    decided_by_rule,
    last_quarter,
)
from experiments.plots.records import Record, kept_step, last_stage, values_over_steps
from problems.common.method import Method

__all__ = ["of_cut", "of_gates", "of_method"]


def of_method(
    method: Method,
    records: Sequence[Record],
    ranks: Mapping[str, int] | None,
    cut: Cut | None = None,
) -> Decided | None:
    """How far the ranks are decided that a method chose.

    Args:
        method: which.
        records: the lines of the run's metrics.jsonl.
        ranks: layer -> rank; None where there are none.
        cut: of what its first stage trained, where the ranks came of it.

    Returns:
        None of a method that chooses none.
    """
    if cut is None:
        return of_gates(method.rank_choice(), records, ranks)
    first = method.stages()[0].name
    return of_cut(cut, [line for line in records if line["stage"] == first])


def of_cut(cut: Cut, records: Sequence[Record] | None) -> Decided | None:
    """How far the ranks of a cut are decided.

    Only the order by singular values can be followed through the training, of which a run that
    trains LoRA records them (lines of kind ``singular``). A component is the j-th largest of its
    layer, and its value the square root of its score, sigma_j over the root of its parameters. Of
    weights that were the best of an early step, what came after it is left out.

    Args:
        cut: what stays.
        records: the lines of the run's metrics.jsonl; None where there is no run.

    Returns:
        None where nothing is cut.
    """
    if cut.keep is None:
        return None
    scores = cut.ranking.scores
    components = len(cut.ranking.order)

    def unknown(why: str) -> Decided:
        return Decided.unknown(components, sum((cut.ranks or {}).values()), why)

    if cut.frontier is not None and not cut.frontier.learned:
        return unknown("nothing was learned, so that no component is worth more than another")
    if cut.criterion != "singular":
        return unknown(
            f"what is recorded of a training is singular values, not criterion={cut.criterion}"
        )
    lines = last_stage(records or (), "singular")
    if not lines:
        return unknown("no record of the training")
    sizes = {name: len(row) for name, row in scores.items()}
    roots = np.sqrt([cut.ranking.costs[name] for name, size in sizes.items() for _ in range(size)])
    rows = [_as_sized(line, sizes) for line in lines]
    if any(row is None for row in rows):
        return unknown("the record of the training is of other layers, or of before they were cut")
    steps = np.array([line["step"] for line in lines])
    kept = kept_step(records or (), lines[-1]["stage"])
    chosen = last_quarter(steps, kept=kept)
    if kept is not None and chosen.sum() < RECORDS:
        return unknown(
            f"the saved weights are the best ones, of step {kept}, and {chosen.sum()} records of "
            "the quarter before it are too few (engine.keep=last saves the last ones)"
        )
    order = {name: row.argsort(descending=True, stable=True) for name, row in scores.items()}
    now = np.concatenate([row[order[name]].sqrt().numpy() for name, row in scores.items()])
    keep = np.concatenate([mask[order[name]].numpy() for name, mask in cut.keep.items()])
    return decided(np.array(rows)[chosen] / roots, keep, now=now)


def of_gates(
    choice: RankChoice | None, records: Sequence[Record], ranks: Mapping[str, int] | None
) -> Decided | None:
    """How far the ranks are decided that a method made of its gates or singular values.

    Args:
        choice: how it did; None for a method that does not choose.
        records: the lines of the run's metrics.jsonl.
        ranks: layer -> rank.

    Returns:
        None where no ranks are chosen.
    """
    if choice is None or not ranks:
        return None
    steps, history = values_over_steps(records)
    if not history:
        total = sum(ranks.values())
        return Decided.unknown(total, total, "no record of the training")
    stage = last_stage(records, "gates")[-1]["stage"]
    return decided_by_rule(history, steps, ranks, choice, kept_step(records, stage))


def _as_sized(line: Record, sizes: Mapping[str, int]) -> list[float] | None:
    """Values of a line for these layers, as they were trained or as they are saved."""
    found = (_padded(line[key], sizes) for key in ("singular", "saved") if line.get(key))
    return next((row for row in found if row is not None), None)


def _padded(values: Mapping[str, Sequence[float]], sizes: Mapping[str, int]) -> list[float] | None:
    """Singular values of all layers in order, zeros after those that a layer can have."""
    if set(values) != set(sizes) or any(len(values[n]) > size for n, size in sizes.items()):
        return None
    return [x for n, size in sizes.items() for x in [*values[n], *[0.0] * (size - len(values[n]))]]
