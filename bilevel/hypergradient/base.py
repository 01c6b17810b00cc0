"""Define what every hypergradient estimator has in common, and register it by its name.

Notation. L1(V, E) is the lower loss on D_train, L2(V, E) the upper loss on D_val, V the lower
level's trainable parameters (LoRA factors, head), E the upper level's (selection variables). At
the weights V that the lower steps reached, with v = dL2/dV,

    dL2/dE (total) = dL2/dE (direct partial) + (dV/dE)^T v.

An estimator computes the second summand, the implicit term. Lists of tensors stand for vectors in
the space of V or E, in the order of the problems' trainable parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.replay.recording import Needs
from bilevel.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel
    from bilevel.replay.recording import StepRecord

__all__ = ["Hypergradient", "each_registered", "register", "registered"]


@dataclass(frozen=True)
class Hypergradient(Settings, ABC):
    """An estimator of the implicit term; subclasses are frozen dataclasses of their options.

    The module of an estimator is read whenever a configuration names it: it imports torch inside
    the functions that compute.
    """

    name: ClassVar[str] = ""
    is_zero: ClassVar[bool] = False
    needs_vary: ClassVar[bool] = False  # needs() is asked anew before each T1 steps
    needs_records: ClassVar[bool] = True  # or the latest batch will do, as Betty's problems have it
    knows_step_settings: ClassVar[bool] = False  # has dPhi/dE of LowerLevel.step_settings
    changes_steps: ClassVar[bool] = (
        False  # at_step changes the gradient that the step is taken with
    )

    @property
    def twice(self) -> bool:
        """Whether its options insist on differentiating gradients again."""
        return False

    @abstractmethod
    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """(dV/dE)^T v.

        Args:
            vector: v = dL2/dV, one tensor per trainable parameter of ``lower``.
            lower: the problem whose steps are differentiated.
            upper: the problem whose parameters E the result belongs to.

        Returns:
            One tensor per trainable parameter of ``upper``.
        """

    def needs(self, lower: LowerLevel) -> Needs:
        """What ``lower`` must record between two upper steps."""
        return Needs(depth=1)

    @property
    def most_variables(self) -> int | None:
        """Upper variables that it takes at the most; None for any number."""
        return None

    def check_variables(self, variables: int, upper: str) -> None:
        """Refuse more upper variables than ``most_variables``, naming the way out.

        Args:
            variables: numbers in E.
            upper: the name of the problem that has them.
        """

    def prepare(self, lower: LowerLevel) -> None:
        """Called once before training: refuse what cannot work, naming the way out."""

    def at_step(self, lower: LowerLevel, step: StepRecord) -> None:
        """Called at each recorded lower step, with dL1/dV in place and before the optimiser steps.

        An estimator that goes along with the steps, instead of looking back at them, overrides it.
        What it carries through one window of T1 steps it keeps in ``lower.recorded.carried``, which
        is empty at the window's start; what outlives the window and belongs into checkpoints, in
        ``lower.estimator_state``. It puts new values there and changes none in place.
        """

    def __call__(
        self,
        vector: Sequence[Tensor],
        curr: LowerLevel,
        prev: UpperLevel,
        sync: bool = False,
    ) -> list[Tensor] | None:
        """Betty's signature; with ``sync`` the result is added to the gradients of ``prev``."""
        result = self.implicit_term(vector, curr, prev)
        if sync:
            prev.set_grads(prev.trainable_parameters(), result)
            return None
        return result


_classes: dict[str, type[Hypergradient]] = {}
_told: list[Callable[[str], None]] = []


def register(cls: type[Hypergradient]) -> type[Hypergradient]:
    """Class decorator: a problem can then ask for the estimator by ``Config(type=NAME)``.

    Raises:
        TypeError: the class has no ``name``.
    """
    if not cls.name:
        raise TypeError(f"{cls.__name__} must set a class attribute `name`")
    _classes[cls.name] = cls
    for tell in _told:
        tell(cls.name)
    return cls


def registered(name: str) -> type[Hypergradient] | None:
    """The estimator of that name."""
    return _classes.get(name)


def each_registered(tell: Callable[[str], None]) -> None:
    """Call ``tell`` with every estimator's name, now and when another one is registered."""
    _told.append(tell)
    for name in _classes:
        tell(name)
