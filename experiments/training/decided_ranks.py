"""Read out of a run's metrics.jsonl how far its ranks are decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bilevel.cutting import Cut
from bilevel.cutting.decided import Decided, RankChoice, decided, decided_by_rule, last_quarter
from experiments.plots.records import Record, last_stage, values_over_steps

__all__ = ["of_cut", "of_gates"]


def of_cut(cut: Cut, records: Sequence[Record] | None) -> Decided | None:
    """How far the ranks of a cut are decided.

    Only the order by singular values can be followed through the training, of which a run that
    trains LoRA records them (lines of kind ``singular``). A component is the j-th largest of its
    layer, and its value the square root of its score, sigma_j over the root of its parameters.

    Args:
        cut: what stays.
        records: the lines of the run's metrics.jsonl; None where there is no run.

    Returns:
        None where nothing is cut.
    """
    if cut.keep is None:
        return None
    scores = cut.ranking.scores
    components, kept = len(cut.ranking.order), sum((cut.ranks or {}).values())

    def unknown(why: str) -> Decided:
        return Decided.unknown(components, kept, why)

    if cut.criterion != "singular":
        return unknown(
            f"what is recorded of a training is singular values, not criterion={cut.criterion}"
        )
    lines = last_stage(records or (), "singular")
    if not lines:
        return unknown("no record of the training")
    best = [
        r["step"] for r in records or () if (r["kind"], r["stage"]) == ("kept", lines[-1]["stage"])
    ]
    if best and best[-1] < lines[0]["step"]:
        return unknown(
            f"the saved weights are the best ones, of step {best[-1]}, and what is recorded of the "
            f"training begins at step {lines[0]['step']} (engine.keep=last saves the last ones)"
        )
    sizes = {name: len(row) for name, row in scores.items()}
    roots = np.sqrt([cut.ranking.costs[name] for name, size in sizes.items() for _ in range(size)])
    rows = [_padded(line["singular"], sizes) for line in lines]
    if any(row is None for row in rows):
        return unknown("the record of the training is of other layers")
    order = {name: row.argsort(descending=True, stable=True) for name, row in scores.items()}
    now = np.concatenate([row[order[name]].sqrt().numpy() for name, row in scores.items()])
    keep = np.concatenate([mask[order[name]].numpy() for name, mask in cut.keep.items()])
    steps = np.array([line["step"] for line in lines])
    history = np.array(rows)[last_quarter(steps)] / roots
    return decided(history, keep, now=now)


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
        kept = sum(ranks.values())
        return Decided.unknown(kept, kept, "no record of the training")
    return decided_by_rule(history, steps, ranks, choice)


def _padded(values: Mapping[str, Sequence[float]], sizes: Mapping[str, int]) -> list[float] | None:
    """Singular values of all layers in order, zeros after those that a layer can have."""
    if set(values) != set(sizes) or any(len(values[n]) > size for n, size in sizes.items()):
        return None
    return [x for n, size in sizes.items() for x in [*values[n], *[0.0] * (size - len(values[n]))]]
