"""Check the learning rates of an entry's rows: none may be set that its method does not use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf import DictConfig

from experiments.config.composition import compose_config
from experiments.config.learning_rates import own_rates

__all__ = ["SHARED", "own", "unused"]

SHARED = "train.lr"


def own(method: str, settings: Mapping[str, Any]) -> dict[str, float]:
    """A row's rates with precedence over train.lr, by option; empty where train.lr is used.

    Args:
        method: option of conf/method; one that is not there has no rates.
        settings: dotted options of the run.
    """
    rates = dict(_defaults(method))
    for part in rates:
        value = settings.get(f"method.{part}.lr", rates[part])
        # PyYAML reads 1e-3, without a point, as a text
        rates[part] = None if value is None else float(value)
    return own_rates({part: {"lr": value} for part, value in rates.items()})


def unused(method: str, settings: Mapping[str, Any]) -> str | None:
    """What is wrong with a row that sets train.lr for a method that does not use it.

    Args:
        method: option of conf/method.
        settings: what the row itself sets for a task.

    Returns:
        A sentence; None if nothing is wrong.
    """
    for key, value in settings.items():
        if key.endswith(".lr") and not _is_number(value):
            return f"has {key}={value}, which is no number"
    rates = own(method, settings)
    if settings.get(SHARED) is None or not rates:
        return None
    given = ", ".join(f"{name} ({value:g})" for name, value in rates.items())
    return f"sets {SHARED}, which method {method} does not use: set {given} instead"


def _is_number(value: Any) -> bool:
    try:
        float(value if value is not None else 0)
    except (TypeError, ValueError):
        return False
    return True


@cache
def _defaults(method: str) -> Mapping[str, Any]:
    """Learning rate of each optimiser of a method, as its file and its class have it."""
    try:
        node = compose_config([f"method={method}"]).method
    except MissingConfigException:
        return {}
    return {
        str(part): options["lr"]
        for part, options in node.items()
        if isinstance(options, DictConfig) and "lr" in options
    }
