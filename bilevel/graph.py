"""Answer questions about the graph of levels: who is upper, who owns and differentiates what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bilevel.errors import UserError, listed
from bilevel.hypergradient.registry import estimator_of

__all__ = [
    "ancestors",
    "check_estimators",
    "check_owners",
    "owned_parameters",
    "stops_gradient",
]

_SHOWN = 5  # names in a message


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
        UserError: none of them requires a gradient, or one is given twice.
    """
    if optimizer is not None:
        candidates = [p for group in optimizer.param_groups for p in group["params"]]
    else:
        candidates = list(module.parameters())
    parameters = [p for p in candidates if p.requires_grad]
    if not parameters:
        raise UserError(f"problem {name!r} has no parameter that requires a gradient")
    if len({id(p) for p in parameters}) < len(parameters):
        names = names_of(module)
        twice = [p for i, p in enumerate(parameters) if any(p is q for q in parameters[:i])]
        raise UserError(
            f"the optimizer of problem {name!r} holds a parameter twice, whose gradient would "
            f"count twice: {listed([names.get(id(p), 'one without a name') for p in twice])}"
        )
    return parameters


def check_owners(problems: Sequence[Any]) -> None:
    """Every parameter belongs to one level: two would train it, each as if it were a constant.

    Raises:
        UserError: a parameter of two levels, or two that share memory.
    """
    for place, problem in enumerate(problems):
        mine = _pieces(problem.trainable_parameters())
        for other in problems[:place]:
            shared = [p for p in other.trainable_parameters() if _meets(p, mine)]
            if shared:
                names = names_of(problem.module) | names_of(other.module)
                told = [names.get(id(p), "a parameter without a name") for p in shared[:_SHOWN]]
                rest = len(shared) - len(told)
                raise UserError(
                    f"problems {other.name!r} and {problem.name!r} both own {listed(told)}"
                    f"{f' and {rest} more' if rest else ''}: a hypergradient takes what one level "
                    "trains for a constant of the other, so leave each parameter to the optimizer "
                    "of one problem"
                )


def check_estimators(paths: Iterable[Sequence[Any]], known: Collection[str]) -> None:
    """Refuse hypergradients that do not exist.

    Raises:
        UserError: a problem between the ends of a path names one that is not ``known``, or Betty's
            ``reinforce``, which is not written to its end and fails at the first upper step.
    """
    known = set(known) - {"reinforce"}
    for problem in {p for path in paths for p in path[1:-1]}:
        name = problem.config.type
        if name not in known:
            why = ", which Betty has not finished" if name == "reinforce" else ""
            raise UserError(
                f"problem {problem.name!r} names the hypergradient {name!r}{why}; "
                f"allowed: {listed(sorted(known))}"
            )


def stops_gradient(path: Sequence[Any]) -> bool:
    """Whether the implicit term along ``path`` is zero by a level's choice of estimator."""
    estimators = [estimator_of(problem.config) for problem in path[1:-1]]
    return any(e is not None and e.is_zero for e in estimators)


def names_of(module: nn.Module) -> dict[int, str]:
    """Names of a module's parameters by their identity."""
    return {id(p): name for name, p in module.named_parameters()}


def _pieces(parameters: Iterable[torch.Tensor]) -> dict[int, list[torch.Tensor]]:
    """Parameters by the memory that they, or a larger tensor of which they are a part, lie in."""
    found: dict[int, list[torch.Tensor]] = {}
    for p in parameters:
        found.setdefault(p.untyped_storage().data_ptr(), []).append(p)
    return found


def _meets(p: torch.Tensor, others: Mapping[int, Sequence[torch.Tensor]]) -> bool:
    """Whether a parameter is one of ``others``, or shares elements with one."""
    beside = others.get(p.untyped_storage().data_ptr(), ())
    return any(p is q or _overlap(p, q) for q in beside)


def _overlap(p: torch.Tensor, q: torch.Tensor) -> bool:
    if not (p.numel() and q.numel()) or "meta" in (p.device.type, q.device.type):
        return False
    if not (p.is_contiguous() and q.is_contiguous()):  # columns of one matrix, say
        return p.data_ptr() == q.data_ptr()
    ends = [t.data_ptr() + t.numel() * t.element_size() for t in (p, q)]
    return max(p.data_ptr(), q.data_ptr()) < min(ends)
