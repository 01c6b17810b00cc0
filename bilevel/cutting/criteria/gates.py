r"""``gates``: what D_val keeps when all components are learned together under one budget.

    min over log theta of  E_g[L_val(g)]   where   C(theta) = b,
    C = sum_i c_i P(g_i > 0) / sum_i c_i,

with one hard-concrete gate g_i (Louizos et al., arXiv 1712.01312) on every component i of all
layers in the singular basis, c_i = in + out of its layer, and the factors fixed.  Its stationary
points are those of L_val + lambda (C - b), lambda solved for at every step and not climbed to:

    lambda = - sum_i dL/dv_i / sum_i dC/dv_i,       v = log theta,
    v <- v - Adam(dL/dv + lambda dC/dv),   then   v <- v - nu   with   C(v - nu) = b_t by bisection,

so that C is b_t exactly, whatever the size of the loss.  By ascent with the rates of
``problems.salora`` (one adapter of the demonstration, one seed) C ended at 0.250 for b = 0.25 and
at 0.063 for 0.0625; with the loss multiplied by 12 at 0.206 for 0.125 and at 0.182 for 0.0625 (at
0.108 from log theta = 0, where problems.salora starts; the others from 2).
b_t falls from 1 to b
(``density``) in the first half of the steps, by one factor a step, and stays there.

    score_i = E[g_i]

It is per parameter as it is: a gate stays open where it is worth lambda c_i.  Below b the order is
one of gates that were all to stay, and poor: at 4 of the demonstration's 64 components b = 0.25
lost +0.077 +- 0.027, where singular values lost -0.001 +- 0.009 and gates by ascent, from the same
b, -0.004 +- 0.009. Take for b about what is to be kept.

Cost: ``steps`` forward and backward passes over one batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt, Lt

from bilevel.cutting.criteria.base import Criterion, ScoringData
from bilevel.settings import Natural

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

__all__ = ["LearnedGates"]


@dataclass(frozen=True)
class LearnedGates(Criterion):
    """Expected gate, learned jointly on held-out examples."""

    name: ClassVar[str] = "gates"
    needs_data: ClassVar[bool] = True

    density: Annotated[float, Gt(0), Lt(1)] = 0.25
    """b, share of the adapter's parameters that the gates are to leave."""
    steps: Annotated[int, Ge(20)] = 240
    """Steps of the gates, one batch each."""
    seed: Natural = 0
    """Of the gates' noise and the order of the batches."""

    def score(self, model: PeftModel, data: ScoringData | None) -> dict[str, Tensor]:
        """See the module."""
        import torch

        from bilevel.cutting.criteria.gate_learning import learn
        from bilevel.lowrank.gate_kinds import HardConcrete
        from bilevel.lowrank.layers import component_costs
        from bilevel.lowrank.singular import to_singular_basis

        assert data is not None
        sigma = to_singular_basis(model)
        own = component_costs(model)
        sizes = {name: len(row) for name, row in sigma.items()}
        costs = torch.cat(
            [torch.full((size,), own[name], dtype=torch.float64) for name, size in sizes.items()]
        )
        logits = learn(model, data.batches, sizes, costs, self.density, self.steps, self.seed)
        expected = HardConcrete().mean(logits)
        return dict(zip(sizes, expected.split(list(sizes.values())), strict=True))
