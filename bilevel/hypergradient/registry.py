"""Find the estimator that a problem's configuration asks for, and enter all in Betty's mapping."""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from bilevel.config import ProblemConfig

# To register them.
from bilevel.hypergradient import alignment as alignment
from bilevel.hypergradient import betty_darts as betty_darts
from bilevel.hypergradient import cg as cg
from bilevel.hypergradient import finite_difference as finite_difference
from bilevel.hypergradient import forward as forward
from bilevel.hypergradient import neumann as neumann
from bilevel.hypergradient import none as none
from bilevel.hypergradient import nystrom as nystrom
from bilevel.hypergradient import penalty as penalty
from bilevel.hypergradient import sama as sama
from bilevel.hypergradient import soba as soba
from bilevel.hypergradient import unrolled as unrolled
from bilevel.hypergradient.base import Hypergradient, each_registered, registered

if TYPE_CHECKING:
    from betty.configs import Config

    from bilevel.protocols import LowerLevel

__all__ = ["enter_in", "estimator_of"]


def estimator_of(config: Config) -> Hypergradient | None:
    """The estimator that a problem's config asks for; None if it is one of Betty's own.

    A config without an estimator object gets default options, or Betty's fields where an option
    has one (``neumann_iterations``, ``neumann_alpha``, ``cg_iterations``).
    """
    if isinstance(config, ProblemConfig) and config.hypergradient is not None:
        return config.hypergradient
    cls = registered(config.type)
    if cls is None:
        return None
    bettys = {name: f"{cls.name}_{name}" for name in (field.name for field in fields(cls))}
    return _made(cls, tuple((n, vars(config)[b]) for n, b in bettys.items() if b in vars(config)))


@functools.cache  # asked for in every backward pass
def _made(cls: type[Hypergradient], options: tuple[tuple[str, Any], ...]) -> Hypergradient:
    return cls(**dict(options))


def enter_in(
    mapping: MutableMapping[str, Callable[..., Any]],
    as_level: Callable[[Any, Hypergradient], LowerLevel],
) -> None:
    """Enter every estimator in Betty's ``jvp_fn_mapping`` under its name.

    Args:
        mapping: Betty's.
        as_level: makes of any problem, Betty's own too, what an estimator can use.
    """

    def estimate(vector: Any, curr: Any, prev: Any, sync: bool = False) -> Any:
        estimator = estimator_of(curr.config)
        assert estimator is not None
        return estimator(vector, as_level(curr, estimator), as_level(prev, estimator), sync)

    def enter(name: str) -> None:
        mapping[name] = estimate

    each_registered(enter)
