"""Refuse slips in what an engine is given: problems without a part, dependencies that cannot be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from betty.problems import Problem

from bilevel.errors import UserError, listed
from bilevel.problem import BilevelProblem, UpperProblem

__all__ = ["check_dependencies", "check_problems"]

FORM = "{'u2l': {upper: [lower]}, 'l2u': {lower: [upper]}}"


def check_problems(problems: Sequence[Any]) -> None:
    """Refuse problems that an engine cannot run.

    Raises:
        UserError: one is none of ours, has a name that another has, is of another engine, or lacks
            a module, a loss or data.
    """
    if isinstance(problems, Problem):
        raise UserError(f"problems must be a list: [{problems.name}]")
    for problem in problems:
        if not isinstance(problem, BilevelProblem):
            name = repr(getattr(problem, "name", problem))
            raise UserError(
                f"problem {name} is a {type(problem).__name__}, which this engine "
                "cannot run: derive it from LowerProblem or UpperProblem"
            )
    names = [problem.name for problem in problems]
    for problem in problems:
        name = problem.name
        if names.count(name) > 1:
            raise UserError(f"two problems are named {name!r}: give each a name of its own")
        # What Betty sets in initialize, or before it, where the engine was refused in between.
        if problem.ready is not None or problem.parents or problem.children:
            raise UserError(
                f"problem {name!r} was given to an engine before: make new problems for a new "
                "engine (engine.load_state_dict takes over what the old ones learned)"
            )
        _check_parts(problem)


def _check_parts(problem: BilevelProblem) -> None:
    name = repr(problem.name)
    if problem.module is None and not problem.is_implemented("configure_module"):
        raise UserError(f"problem {name} has no module: give it module=")
    if _is_bettys(problem, "training_step"):
        raise UserError(
            f"problem {name} has no loss: define training_step(self, batch) in "
            f"{type(problem).__name__}"
        )
    has_data = problem.train_data_loader is not None
    configured = problem.is_implemented("configure_train_data_loader")
    if not has_data and not configured and _is_bettys(problem, "get_batch"):
        raise UserError(
            f"problem {name} has no data: give it train_data_loader=, or define get_batch(self) in "
            f"{type(problem).__name__}"
        )


def _is_bettys(problem: BilevelProblem, method: str) -> bool:
    """Whether a problem has Betty's own version of a method, which does not serve it."""
    return getattr(getattr(problem, method), "__func__", None) is vars(Problem)[method]


def check_dependencies(problems: Sequence[Any], dependencies: Any) -> None:
    """Refuse dependencies that Betty would fail at, or train nothing by.

    Raises:
        UserError: they are not of the form ``{"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}``,
            name a problem that the engine has not, run in a circle, or upside down.
    """
    if not isinstance(dependencies, Mapping) or set(dependencies) != {"u2l", "l2u"}:
        given = listed(dependencies) if isinstance(dependencies, Mapping) else repr(dependencies)
        raise UserError(f"dependencies must be {FORM}, got {given}")
    for key, edges in dependencies.items():
        _check_edges(problems, key, edges)
    u2l, l2u = dependencies["u2l"], dependencies["l2u"]
    circle = _circle(l2u)
    if circle:
        raise UserError(
            f"the dependencies run in a circle: dependencies['l2u'] leads from {listed(circle)} "
            "to itself, and there is no lowest problem to begin with"
        )
    for upper, lowers in u2l.items():
        for lower in lowers:
            if upper not in _above(lower, l2u):
                raise UserError(
                    f"dependencies['u2l'] has {lower.name!r} below {upper.name!r}, but "
                    f"dependencies['l2u'] does not lead from {lower.name!r} up to {upper.name!r}: "
                    f"add {{{lower.name}: [{upper.name}]}} to it, or the levels between them"
                )
    uppers = {upper for above in l2u.values() for upper in above}
    for problem in problems:
        if isinstance(problem, UpperProblem) and l2u.get(problem) and problem not in uppers:
            raise UserError(
                f"problem {problem.name!r} is an UpperProblem and has an upper level but no lower "
                "one: are u2l and l2u swapped?"
            )


def _check_edges(problems: Sequence[Any], key: str, edges: Any) -> None:
    """One of the two mappings: problems to lists of problems, all of them the engine's."""
    place = f"dependencies[{key!r}]"
    if not isinstance(edges, Mapping):
        raise UserError(f"{place} must map problems to lists of problems, as in {FORM}")
    for start, ends in edges.items():
        if not isinstance(ends, Collection) or isinstance(ends, str):
            raise UserError(
                f"{place} must map problems to lists of problems: write [{_named(ends)}] for what "
                f"{_named(start)} leads to"
            )
        for problem in (start, *ends):
            if not isinstance(problem, BilevelProblem):
                raise UserError(
                    f"{place} names {problem!r}, which is no problem: give the problems themselves"
                )
            if not any(problem is known for known in problems):
                raise UserError(
                    f"{place} names problem {problem.name!r}, which is not among the engine's "
                    f"problems ({listed(p.name for p in problems)})"
                )
        if len({id(end) for end in ends}) < len(ends):
            raise UserError(f"{place} names a problem twice in what {start.name!r} leads to")


def _named(item: Any) -> str:
    return str(getattr(item, "name", repr(item)))


def _circle(l2u: Mapping[Any, Collection[Any]]) -> list[str]:
    """Names of the problems that lie above themselves."""
    return [lower.name for lower in l2u if lower in _above(lower, l2u)]


def _above(lower: Any, l2u: Mapping[Any, Collection[Any]]) -> set[Any]:
    """All that ``l2u`` leads to from a problem."""
    found: set[Any] = set()
    waiting = list(l2u.get(lower, ()))
    while waiting:
        problem = waiting.pop()
        if problem not in found:
            found.add(problem)
            waiting += l2u.get(problem, ())
    return found
