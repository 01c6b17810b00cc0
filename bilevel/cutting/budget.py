"""Say how much of an adapter is to stay, in one of three ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le, Lt

from bilevel.errors import UserError
from bilevel.settings import Count, Settings

if TYPE_CHECKING:
    from bilevel.cutting.ranking import Ranking

__all__ = ["Budget", "Part", "check_part", "parameters_of", "part_of"]

Part = Count | Annotated[float, Gt(0), Lt(1)]
"""Parameters, or a share of all: the option ``method.parameter_budget``."""


def part_of(total: int, share: float) -> int:
    """The whole parameters that a share of them comes to: 0.7 of 5,760 is 4,032, not one less."""
    return int(round(share * total, 6))


def parameters_of(told: int | float, total: int) -> int:
    """The parameters that a :data:`Part` of ``total`` is."""
    return part_of(total, told) if isinstance(told, float) else told


def check_part(told: int | float | None, costs: Mapping[str, int], rank: int) -> None:
    """Hold a :data:`Part` against a model's layers.

    Args:
        told: None where nothing was.
        costs: layer -> parameters of one component.
        rank: components of each layer.

    Raises:
        UserError: it is less than one component, or more than all.
    """
    whole, least = rank * sum(costs.values()), min(costs.values())
    if told is not None and not least <= parameters_of(told, whole) <= whole:
        said = f" ({parameters_of(told, whole)} parameters)" if isinstance(told, float) else ""
        raise UserError(
            f"method.parameter_budget={told}{said} is not between the {least} parameters of one "
            f"component and the {whole} of all"
        )


@dataclass(frozen=True)
class Budget(Settings):
    """How many parameters of the adapter stay; nothing given leaves it to the frontier."""

    budget: Annotated[float, Gt(0), Le(1)] | None = None
    """Share of the adapter's parameters that stays."""
    parameters: Count | None = None
    """Parameters that stay."""
    rank: Count | None = None
    """Mean rank that stays: as many parameters as this rank in every layer has."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [
            name for name in ("budget", "parameters", "rank") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise UserError(f"{given[0]} and {given[1]} say the same thing twice: give one of them")

    @classmethod
    def of_part(cls, told: int | float | None) -> Budget:
        """Of a :data:`Part`, or of nothing."""
        return cls(budget=told) if isinstance(told, float) else cls(parameters=told)

    @property
    def told(self) -> bool:
        """Whether anything is given."""
        return (self.budget, self.parameters, self.rank) != (None, None, None)

    def of(self, ranking: Ranking) -> int:
        """Parameters that stay.

        Raises:
            UserError: more than there are, or fewer than one component has.
        """
        if self.budget is not None:
            asked, said = part_of(ranking.total, self.budget), f"budget={self.budget:g}"
        elif self.rank is not None:
            asked, said = self.rank * sum(ranking.costs.values()), f"rank={self.rank}"
        else:
            assert self.parameters is not None
            asked, said = self.parameters, f"parameters={self.parameters}"
        if asked > ranking.total:
            raise UserError(
                f"{said} asks for {asked} parameters, and the adapter has {ranking.total}"
            )
        least = min(ranking.costs.values())
        if asked < least:
            raise UserError(
                f"{said} leaves no component: {asked} of the adapter's {ranking.total} parameters "
                f"stay, and the smallest component has {least}"
            )
        return asked
