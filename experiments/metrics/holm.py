"""Adjust the p-values of a family of comparisons, by Holm's step-down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """The adjusted p-values, in the order given.

    With the m values in ascending order, p_(1) <= ... <= p_(m), the i-th becomes
    max over j <= i of min(1, (m - j + 1) p_(j)). Calling different what is below a level keeps the
    chance of one or more wrong calls in the whole family below that level, however the comparisons
    depend on one another (S. Holm, Scandinavian Journal of Statistics 6, 1979).

    Args:
        p_values: one each comparison, in [0, 1].
    """
    given = np.asarray(p_values, dtype=float)
    order = np.argsort(given, kind="stable")
    stepped = given[order] * np.arange(len(given), 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(p) for p in adjusted]
