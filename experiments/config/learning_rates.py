"""Tell whether a method takes the learning rate of train.lr, or has its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["own_rates"]

# Optimisers of the weights; those of an upper level never take train.lr.
WEIGHTS = ("optimizer", "lower", "retrain")


def own_rates(method: Mapping[str, Any]) -> dict[str, float]:
    """The rates with precedence over train.lr, by option; empty if some optimiser takes train.lr.

    Args:
        method: the configuration of a method, as conf/method has it.
    """
    rates = {
        f"method.{part}.lr": method[part]["lr"]
        for part in WEIGHTS
        if isinstance(method.get(part), Mapping) and "lr" in method[part]
    }
    return {} if None in rates.values() else rates
