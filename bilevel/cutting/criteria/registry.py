"""Name the criteria."""

from __future__ import annotations

from bilevel.cutting.criteria.activation import Activation
from bilevel.cutting.criteria.base import Criterion
from bilevel.cutting.criteria.gates import LearnedGates
from bilevel.cutting.criteria.greedy import Greedy
from bilevel.cutting.criteria.saliency import Saliency
from bilevel.cutting.criteria.singular import Singular

__all__ = ["CRITERIA"]

CRITERIA: dict[str, type[Criterion]] = {
    criterion.name: criterion
    for criterion in (Singular, Activation, Greedy, LearnedGates, Saliency)
}
"""Name -> criterion."""
