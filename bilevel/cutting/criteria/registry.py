"""Name the criteria."""

from __future__ import annotations

from bilevel.cutting.criteria.base import Criterion
from bilevel.cutting.criteria.singular import Singular

__all__ = ["CRITERIA"]

CRITERIA: dict[str, type[Criterion]] = {criterion.name: criterion for criterion in (Singular,)}
"""Name -> criterion."""
