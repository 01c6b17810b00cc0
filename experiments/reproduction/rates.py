"""Learning rates of an entry's rows: none may be set that its method does not use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from experiments.config.learning_rates import own_rates

__all__ = ["SHARED", "own", "unused"]

SHARED = "train.lr"


def own(method: str, settings: Mapping[str, Any]) -> dict[str, float]:
    """The rates of a row that go before train.lr, by option; empty where train.lr is used.

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
    """Learning rate of each optimiser of a method, as its file and those it starts from have it."""
    path = Path(str(resources.files("conf"))) / "method" / f"{method}.yaml"
    if not path.is_file():
        return {}
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for base in values.get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            found |= _defaults(base)
    for part, options in values.items():
        if isinstance(options, dict) and "lr" in options:
            found[part] = options["lr"]
    return found
