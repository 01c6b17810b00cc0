"""Tell a run that takes settings of modules which were found with something else than it has."""

from __future__ import annotations

import logging
from typing import Any

from bilevel.errors import listed
from experiments.config.plan import Plan
from problems.lora import DEFAULT_LR, LoRA

__all__ = ["rate", "tell_others"]

log = logging.getLogger(__name__)


def rate(own: float | None, given: float | None) -> float:
    """The learning rate that LoRA trains with.

    Args:
        own: method.optimizer.lr, which comes first.
        given: train.lr.
    """
    return next((lr for lr in (own, given) if lr is not None), DEFAULT_LR)


def tell_others(plan: Plan) -> None:
    """Warn of a model, rank, alpha or learning rate that ``method.settings`` are not for.

    Args:
        plan: of the run.
    """
    method = plan.method
    if not isinstance(method, LoRA) or not method.settings.given:
        return
    found = method.settings.found_with
    own = method.optimizer.lr
    word = "train.lr" if own is None else "method.optimizer.lr"
    here: dict[str, tuple[Any, Any]] = {
        "model": (found.model, plan.names.get("model", found.model)),
        "method.rank": (found.rank, method.rank),
        "method.lora_alpha": (found.lora_alpha, method.lora_alpha),
        word: (found.lr, rate(own, plan.settings.lr)),
    }
    other = {key: both for key, both in here.items() if both[0] is not None and both[0] != both[1]}
    if not other:
        return
    log.warning(
        "method.settings were found with %s, and this run has %s: they may be wrong for it%s",
        listed(f"{key}={was}" for key, (was, _) in other.items()),
        listed(f"{key}={now}" for key, (_, now) in other.items()),
        f", and learning rates are factors of {word}" if word in other else "",
    )
