r"""``greedy``: remove what the loss on D_val misses least, again and again.

From all components of the singular basis, with K those that are left,

    l(j) = (L_val(K \ j) - L_val(K)) / c_j,        c_j = in + out of j's layer,

remove the ``block`` share of K with the least l, measure l anew, and so on.  A component's score is
its place in the order of removal, the last one's the highest.  It knows what removals do together,
as no score of single components does, and is the reference for the others.

Cost: one pass over D_val for every component that is left, in every round: about n / block passes
for n components (n = 96: some 390 by quarters, and n^2 / 2 = 4,600 one by one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Gt, Le

from bilevel.cutting.criteria.base import Criterion, ScoringData

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

__all__ = ["Greedy"]


@dataclass(frozen=True)
class Greedy(Criterion):
    """Place in the order of backward removal on held-out examples."""

    name: ClassVar[str] = "greedy"
    needs_data: ClassVar[bool] = True

    block: Annotated[float, Gt(0), Le(1)] = 0.25
    """Share of the components left that goes at a time, one at least."""

    def score(self, model: PeftModel, data: ScoringData | None) -> dict[str, Tensor]:
        """See the module."""
        import torch

        assert data is not None
        with torch.no_grad():
            return self._removed(model, data)

    def _removed(self, model: PeftModel, data: ScoringData) -> dict[str, Tensor]:
        import torch

        from bilevel.lowrank.layers import component_costs, down_and_up, lora_layers
        from bilevel.lowrank.singular import to_singular_basis

        sigma = to_singular_basis(model)
        costs = component_costs(model)
        ups = {name: down_and_up(layer)[1].weight for name, layer in lora_layers(model).items()}
        before = {name: up.clone() for name, up in ups.items()}
        scores = {name: torch.zeros_like(row) for name, row in sigma.items()}
        # The smallest first, where removals change the loss by the same.
        left = [(name, j) for name, row in sigma.items() for j in range(len(row))]
        left.sort(key=lambda at: float(sigma[at[0]][at[1]]))
        removed = []
        try:
            while len(left) > 1:
                whole = data.losses().mean
                missed = []
                for name, j in left:
                    ups[name][:, j] = 0
                    missed.append((data.losses().mean - whole) / costs[name])
                    ups[name][:, j] = before[name][:, j]
                order = sorted(range(len(left)), key=missed.__getitem__)
                going = [left[i] for i in order[: max(1, int(self.block * len(left)))]]
                for name, j in going:
                    ups[name][:, j] = 0
                removed += going
                left = [at for at in left if at not in going]
        finally:
            for name, up in ups.items():
                up.copy_(before[name])
        for place, (name, j) in enumerate([*removed, *left], start=1):
            scores[name][j] = place
        return scores
