"""Cut finished runs of LoRA to one size by the singular values that they recorded.

Ranks that are the same in every layer, or of adapters of different sizes, do not say how far runs
agree on where rank is needed. What is kept is what ``experiments.ranks`` would keep by
``criterion=singular``: sigma^2 / (in + out) puts the components of all layers in one order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.plots.records import Record, kept_step, last_stage

__all__ = ["Components", "components", "cut_to_one_size"]

SHARE = 0.5  # of the smallest adapter


class Components(NamedTuple):
    """The components of an adapter.

    Attributes:
        values: layer -> (k,), singular values.
        costs: layer -> parameters of a component.
    """

    values: Mapping[str, np.ndarray]
    costs: Mapping[str, int]

    @property
    def parameters(self) -> int:
        """Of all of them."""
        return sum(self.costs[name] * len(row) for name, row in self.values.items())

    def within(self, parameters: int) -> dict[str, int]:
        """Layer -> rank of what fits into so many parameters, by the rank rule ``budget``."""
        found = []
        for layer, (name, row) in enumerate(self.values.items()):
            worth = np.sort(row**2 / self.costs[name])[::-1].tolist()
            found += [(-value, place, layer, name) for place, value in enumerate(worth)]
        ranks, left = dict.fromkeys(self.values, 0), parameters
        for _, _, _, name in sorted(found):
            if self.costs[name] <= left:
                left -= self.costs[name]
                ranks[name] += 1
        return ranks


def components(records: Sequence[Record], result: Mapping[str, Any]) -> Components | None:
    """Of the adapter that a run ended with.

    Args:
        records: the lines of its metrics.jsonl.
        result: its result.json: after a cut by singular values the largest of each layer are left.

    Returns:
        None where nothing is recorded of plain LoRA, or (of older versions) not what a component
        costs, or what is recorded is of components that were not all saved.
    """
    lines = last_stage(records, "singular")
    costs = next((line["costs"] for line in lines if "costs" in line), None)
    if costs is None:
        return None
    kept = kept_step(records, lines[-1]["stage"])
    up_to = [line for line in lines if kept is None or line["step"] <= kept] or lines[:1]
    values = {name: np.array(row, dtype=float) for name, row in up_to[-1]["singular"].items()}
    if values.keys() != costs.keys():
        return None
    ranks, cut = result["ranks"] or {}, result.get("cut")
    if values.keys() <= ranks.keys():
        if cut == "singular":
            values = {name: np.sort(row)[::-1][: ranks[name]] for name, row in values.items()}
        saved = all(len(row) == ranks[name] for name, row in values.items())
    else:
        saved = cut is None  # fused layers have other names
    return Components(values, costs) if saved else None


def cut_to_one_size(
    runs: Sequence[tuple[Sequence[Record], Mapping[str, Any]]],
) -> tuple[int, list[dict[str, int]]] | None:
    """The ranks of several runs, cut to half of the parameters of the smallest one's adapter.

    Args:
        runs: the lines of each one's metrics.jsonl, and its result.json.

    Returns:
        So many parameters, and each run's ranks; None where a run has not recorded what is needed.
    """
    found = [components(*run) for run in runs]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found):
        return None
    size = int(SHARE * min(each.parameters for each in known))
    return size, [each.within(size) for each in known]
