"""Choose ranks from gate values: which rank-one components of every layer are kept.

Every rule is called the same way: ``rule(values, ...)`` returns layer name -> rank, and
``rule.keep(values, ...)`` returns layer name -> boolean mask (k,) of the components to keep.
``values`` is a :class:`Gates`, a dict of layer name -> (k,) tensor, or an (n, k) tensor with
``names=``. ``RULES`` maps each rule's name to the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bilevel.errors import UserError
from bilevel.lowrank.gates import Gates

__all__ = ["RULES", "Keep", "Rule", "budget", "fixed", "mean", "positive", "raw_share", "threshold"]

Keep = dict[str, Tensor]
"""Layer name -> boolean mask (k,): True for the components that stay."""

# Relative slack of the comparisons: k softmax values of 1/k need not come out at exactly 1/k.
TOLERANCE = 1e-6


class Rule:
    """A rank rule; see the module's docstring for how to call it."""

    def __init__(self, choose: Callable[..., Keep], uses_logits: bool = False) -> None:
        self.name = choose.__name__.lstrip("_")
        self.__doc__ = choose.__doc__
        self._choose = choose
        self._uses_logits = uses_logits

    def keep(
        self,
        values: Gates | Tensor | Mapping[str, Tensor],
        *,
        names: Sequence[str] | None = None,
        **options: Any,
    ) -> Keep:
        """Return the mask of kept components of every layer.

        Raises UserError when values are not finite, or an (n, k) tensor comes without n names.
        """
        if isinstance(values, Gates):
            names = values.names
            values = values.logits if self._uses_logits else values.values()
        if isinstance(values, Tensor):
            if names is None or len(names) != len(values):
                raise UserError("gate values as one tensor need as many layer names as rows")
            values = dict(zip(names, values, strict=True))
        plain = {name: row.detach().cpu().double() for name, row in values.items()}
        for name, row in plain.items():
            if not torch.isfinite(row).all():
                raise UserError(f"the gates of {name} are not finite: {row.tolist()}")
        return self._choose(plain, **options)

    def __call__(
        self,
        values: Gates | Tensor | Mapping[str, Tensor],
        *,
        names: Sequence[str] | None = None,
        **options: Any,
    ) -> dict[str, int]:
        """Return the rank of every layer."""
        keep = self.keep(values, names=names, **options)
        return {name: int(mask.sum()) for name, mask in keep.items()}

    def __repr__(self) -> str:
        return f"Rule({self.name})"


def _at_least(row: Tensor, bound: Tensor | float) -> Tensor:
    bound = torch.as_tensor(bound, dtype=row.dtype)
    return row >= bound - TOLERANCE * bound.abs()


def _threshold(values: Keep) -> Keep:
    """Keep softmax gates of at least 1/k (AutoLoRA): between 1 and k components a layer."""
    keep = {}
    for name, row in values.items():
        mask = _at_least(row, 1 / len(row))
        mask[row.argmax()] = True  # also for gates that do not sum to 1
        keep[name] = mask
    return keep


def _mean(values: Keep) -> Keep:
    """Keep gates of at least their layer's mean (AutoLoRA's ablation without constraint)."""
    # Rounding of the mean grows with the largest value, not with the mean itself.
    return {name: row >= row.mean() - TOLERANCE * row.abs().max() for name, row in values.items()}


def _fixed(values: Keep, bound: float = 0.5) -> Keep:
    """Keep gates whose size is at least ``bound`` (sigmoid gates: 0.5); rank 0 is possible."""
    return {name: _at_least(row.abs(), bound) for name, row in values.items()}


def _positive(values: Keep) -> Keep:
    """Keep gates above 0: SaLoRA's rule for hard-concrete gates; rank 0 is possible."""
    return {name: row > 0 for name, row in values.items()}


def _raw_share(logits: Keep) -> Keep:
    """Keep logits that are at least their layer's mean logit (AutoLoRA's released GLUE code).

    The code tests logit_j / sum(logits) >= 1/k on the raw logits, without softmax; for the positive
    sums it starts from that is logit_j >= mean, and this form also holds for other sums. Softmax's
    own threshold is log-mean-exp >= mean, so this rule keeps at least as many as ``threshold``.
    """
    return _mean(logits)


def _budget(values: Keep, *, costs: Mapping[str, int], budget: int, at_least: int = 0) -> Keep:
    """Keep the largest gates of all layers together that fit into ``budget`` parameters.

    costs: layer name -> parameters of one component (see ``component_costs``). at_least: components
    every layer keeps whatever their size. A component that no longer fits is passed over; smaller
    ones in cheaper layers may still fit. Equal gates are shared out evenly over the layers.

    Raises UserError when a layer has no cost, or ``at_least`` alone is over the budget.
    """
    missing = [name for name in values if name not in costs]
    if missing:
        raise UserError(f"no cost is given for layer {missing[0]}")
    keep = {name: torch.zeros(len(row), dtype=torch.bool) for name, row in values.items()}
    candidates = []
    left = int(budget)
    for order, (name, row) in enumerate(values.items()):
        ranking = row.abs().argsort(descending=True, stable=True).tolist()
        for place, component in enumerate(ranking):
            if place < at_least:
                keep[name][component] = True
                left -= costs[name]
            else:
                candidates.append((-row[component].abs().item(), place, order, name, component))
    if left < 0:
        raise UserError(
            f"{at_least} component(s) in every layer take {budget - left} parameters, "
            f"more than the budget of {budget}"
        )
    for _, _, _, name, component in sorted(candidates):
        if costs[name] <= left:
            keep[name][component] = True
            left -= costs[name]
    return keep


threshold = Rule(_threshold)
mean = Rule(_mean)
fixed = Rule(_fixed)
positive = Rule(_positive)
budget = Rule(_budget)
raw_share = Rule(_raw_share, uses_logits=True)

RULES: dict[str, Rule] = {
    rule.name: rule for rule in (threshold, mean, fixed, positive, budget, raw_share)
}
