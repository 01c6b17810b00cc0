"""Order the components of all layers together, and keep the first ones of that order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

import torch
from peft import PeftModel
from torch import Tensor

from bilevel.errors import UserError
from bilevel.lowrank.layers import component_costs, down_and_up, lora_layers
from bilevel.lowrank.ranks import Keep, budget

__all__ = ["Ranking", "masked"]


class Ranking:
    """The components of all layers in the order in which they are worth their parameters.

    Args:
        scores: layer -> (k,), what a component is worth **per parameter**, not negative; the larger
            the longer it is kept.
        costs: layer -> parameters of one of its components.

    Raises:
        UserError: a score is negative or not finite.
    """

    def __init__(self, scores: Mapping[str, Tensor], costs: Mapping[str, int]) -> None:
        self.scores = {name: row.detach().cpu().double() for name, row in scores.items()}
        self.costs = {name: int(costs[name]) for name in scores}
        for name, row in self.scores.items():
            if not (torch.isfinite(row).all() and (row >= 0).all()):
                raise UserError(f"scores of {name} are negative or not finite: {row.tolist()}")
        self.total = sum(len(row) * self.costs[name] for name, row in self.scores.items())

    @cached_property
    def order(self) -> list[tuple[str, int]]:
        """(layer, component) of all components, the last to be dropped first.

        Equal scores are shared out evenly over the layers, as the rank rule ``budget`` does.
        """
        found = []
        for layer, (name, row) in enumerate(self.scores.items()):
            by_size = row.argsort(descending=True, stable=True).tolist()
            found += [(-row[j].item(), place, layer, name, j) for place, j in enumerate(by_size)]
        return [(name, j) for _, _, _, name, j in sorted(found)]

    def parameters(self, count: int) -> int:
        """Parameters of the first ``count`` components."""
        return sum(self.costs[name] for name, _ in self.order[:count])

    def first(self, count: int) -> Keep:
        """Masks that keep the first ``count`` components of the order."""
        return budget.keep(self.scores, costs=self.costs, budget=self.parameters(count))

    def within(self, parameters: int) -> Keep:
        """Masks of what fits into a number of parameters, the rank rule ``budget``."""
        return budget.keep(self.scores, costs=self.costs, budget=parameters)

    def even(self, rank: int) -> Keep:
        """Masks that keep the ``rank`` best components of every layer."""
        keep = {}
        for name, row in self.scores.items():
            keep[name] = torch.zeros(len(row), dtype=torch.bool)
            keep[name][row.argsort(descending=True, stable=True)[:rank]] = True
        return keep

    def cost(self, keep: Keep) -> int:
        """Parameters of the components that masks keep."""
        return sum(int(mask.sum()) * self.costs[name] for name, mask in keep.items())

    @classmethod
    def of(cls, model: PeftModel, scores: Mapping[str, Tensor]) -> Ranking:
        """Of a model's LoRA layers, each at its own cost."""
        return cls(scores, component_costs(model))


@contextmanager
def masked(model: PeftModel, keep: Keep, adapter: str = "default") -> Iterator[None]:
    """The model without the components that are not kept; at the end it is what it was."""
    ups = {
        name: down_and_up(layer, adapter)[1] for name, layer in lora_layers(model, adapter).items()
    }
    before = {name: up.weight.detach().clone() for name, up in ups.items()}
    try:
        with torch.no_grad():
            for name, up in ups.items():
                up.weight *= keep[name].to(up.weight)
        yield
    finally:
        with torch.no_grad():
            for name, up in ups.items():
                up.weight.copy_(before[name])
