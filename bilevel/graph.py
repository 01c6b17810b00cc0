"""Answer questions about the graph of levels: who is upper, who owns and differentiates what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from bilevel.errors import UserError, listed
from bilevel.hypergradient.registry import estimator_of

__all__ = ["ancestors", "check_estimators", "owned_parameters", "stops_gradient"]


def ancestors(parents: Sequence[Any]) -> list[Any]:
    """``parents`` and their own, nearest first."""
    found: list[Any] = []
    waiting = list(parents)
    while waiting:
        problem = waiting.pop(0)
        if problem not in found:
            found.append(problem)
            waiting += problem.parents
    return found


def owned_parameters(
    name: str, module: nn.Module, optimizer: torch.optim.Optimizer | None
) -> list[nn.Parameter]:
    """The parameters that the level ``name`` trains: the optimiser's, else the module's.

    Raises:
        UserError: none of them requires a gradient.
    """
    if optimizer is not None:
        candidates = [p for group in optimizer.param_groups for p in group["params"]]
    else:
        candidates = list(module.parameters())
    parameters = [p for p in candidates if p.requires_grad]
    if not parameters:
        raise UserError(f"problem {name!r} has no parameter that requires a gradient")
    return parameters


def check_estimators(paths: Iterable[Sequence[Any]], known: Collection[str]) -> None:
    """Refuse hypergradients that do not exist.

    Raises:
        UserError: a problem between the ends of a path names one that is not ``known``.
    """
    for problem in {p for path in paths for p in path[1:-1]}:
        if problem.config.type not in known:
            raise UserError(
                f"problem {problem.name!r} names the hypergradient {problem.config.type!r}; "
                f"allowed: {listed(sorted(known))}"
            )


def stops_gradient(path: Sequence[Any]) -> bool:
    """Whether the implicit term along ``path`` is zero by a level's choice of estimator."""
    estimators = [estimator_of(problem.config) for problem in path[1:-1]]
    return any(e is not None and e.is_zero for e in estimators)
