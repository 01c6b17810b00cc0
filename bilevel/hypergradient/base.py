"""What every hypergradient estimator has in common, and its place in Betty's own mapping.

Notation. L1(V, E) is the lower loss on D_train, L2(V, E) the upper loss on D_val, V the lower
level's trainable parameters (LoRA factors, head), E the upper level's (selection variables). At
the weights V that the lower steps reached, with v = dL2/dV,

    dL2/dE (total) = dL2/dE (direct partial) + (dV/dE)^T v.

An estimator computes the second summand, the implicit term. Lists of tensors stand for vectors in
the space of V or E, in the order of the problems' trainable parameters.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from betty.hypergradient import jvp_fn_mapping
from torch import Tensor

from bilevel.errors import UserError
from bilevel.replay.recording import Needs, StepRecord

if TYPE_CHECKING:
    from bilevel.problem import BilevelProblem

__all__ = ["Hypergradient", "estimator_of", "register"]

_classes: dict[str, type[Hypergradient]] = {}


class Hypergradient(ABC):
    """An estimator of the implicit term; subclasses are frozen dataclasses of their options."""

    name: ClassVar[str] = ""
    is_zero: ClassVar[bool] = False
    per_window: ClassVar[bool] = False  # needs() is asked anew before each window

    @abstractmethod
    def implicit_term(
        self, vector: Sequence[Tensor], lower: BilevelProblem, upper: BilevelProblem
    ) -> list[Tensor]:
        """(dV/dE)^T v.

        Args:
            vector: v = dL2/dV, one tensor per trainable parameter of ``lower``.
            lower: the problem whose steps are differentiated.
            upper: the problem whose parameters E the result belongs to.

        Returns:
            One tensor per trainable parameter of ``upper``.
        """

    def needs(self, lower: BilevelProblem) -> Needs:
        """What ``lower`` must record between two upper steps."""
        return Needs(depth=1)

    def prepare(self, lower: BilevelProblem) -> None:  # noqa: B027 - optional hook
        """Called once before training: refuse what cannot work, naming the way out."""

    def __call__(
        self,
        vector: Sequence[Tensor],
        curr: BilevelProblem,
        prev: BilevelProblem,
        sync: bool = False,
    ) -> list[Tensor] | None:
        """Betty's signature; with ``sync`` the result is added to the gradients of ``prev``."""
        result = self.implicit_term(vector, curr, prev)
        if sync:
            prev.set_grads(prev.trainable_parameters(), result)
            return None
        return result


def register(cls: type[Hypergradient]) -> type[Hypergradient]:
    """Class decorator: enter an estimator in Betty's ``jvp_fn_mapping`` under its ``name``.

    A plain Betty problem can then ask for it by ``Config(type=NAME)``, with default options.
    """
    if not cls.name:
        raise TypeError(f"{cls.__name__} must set a class attribute `name`")

    def estimate(vector: Any, curr: Any, prev: Any, sync: bool = False) -> Any:
        estimator = estimator_of(curr.config)
        assert estimator is not None
        return estimator(vector, curr, prev, sync)

    _classes[cls.name] = cls
    jvp_fn_mapping[cls.name] = estimate
    return cls


def estimator_of(config: Any) -> Hypergradient | None:
    """The estimator that a problem's config asks for; None if it is one of Betty's own.

    A config without an estimator object gets default options, or Betty's fields where an option
    has one (``neumann_iterations``, ``neumann_alpha``, ``cg_iterations``).
    """
    given = getattr(config, "hypergradient", None)
    if given is not None:
        return given
    cls = _classes.get(config.type)
    if cls is None:
        return None
    options = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        betty_name = f"{cls.name}_{field.name}"
        if hasattr(config, betty_name):
            options[field.name] = getattr(config, betty_name)
    return cls(**options)


def last_step(lower: BilevelProblem, estimator: str) -> StepRecord:
    """The latest recorded step of ``lower``.

    Raises:
        UserError: the problem keeps no record, because it is a plain Betty problem.
    """
    window = getattr(lower, "window", None)
    if window is None or not window.steps:
        raise UserError(
            f"hypergradient {estimator!r} needs the recorded steps of a bilevel.LowerProblem, but "
            f"problem {lower.name!r} is a {type(lower).__name__}; use LowerProblem, or "
            "finite_difference, neumann or cg"
        )
    return window.steps[-1]
