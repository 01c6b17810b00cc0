r"""``singular``: the squared singular values of the update, over the parameters of a component.

    score_lj = sigma_lj^2 / c_l,       s B A = U diag(sigma) V^T,       c_l = in + out

Dropping components costs the sum of their sigma^2 in squared Frobenius norm, so that the best ones
by score are those that keep most of all updates within a number of parameters (Eckart and Young
1936 for one matrix; a single threshold over all layers is PARA's, arXiv 2604.27796, which has
sigma_lj itself, the same order where all layers have one shape). It looks at no data: what a
layer's inputs are, and what the loss makes of its outputs, it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.cutting.criteria.base import Criterion, ScoringData

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

__all__ = ["Singular"]


@dataclass(frozen=True)
class Singular(Criterion):
    """Size of a component in the weights."""

    name: ClassVar[str] = "singular"

    def score(self, model: PeftModel, data: ScoringData | None) -> dict[str, Tensor]:
        """See the module."""
        from bilevel.lowrank.layers import component_costs
        from bilevel.lowrank.singular import to_singular_basis

        costs = component_costs(model)
        return {n: sigma**2 / costs[n] for n, sigma in to_singular_basis(model).items()}
