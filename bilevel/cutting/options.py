"""Say by what an adapter is cut, and how much a cut may lose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Lt

from bilevel.errors import UserError, listed, nearest
from bilevel.settings import Settings, from_values

if TYPE_CHECKING:
    from bilevel.cutting.criteria import Criterion

__all__ = ["CutOptions"]


@dataclass(frozen=True)
class CutOptions(Settings):
    """What every cut can be told, whoever makes it."""

    criterion: str = "singular"
    """What a component is worth, see docs/ranks.md."""
    criterion_options: dict[str, float | int | str] | None = None
    """The criterion's own, {density: 0.125} for gates; docs/ranks.md lists them."""
    delta: Annotated[float, Gt(0), Lt(1)] = 0.02
    """Share of what was learned that may be lost: of the loss without the adapter, or of the best
    constant answer if that is smaller, less that with it."""
    errors: Annotated[float, Ge(0)] = 2.0
    """Standard errors of a part's loss difference that must fit into delta too: the more, the
    larger and the safer the choice."""
    examples: Annotated[int, Ge(2)] = 512
    """Held-out examples at most; those of a criterion with data are half of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.named()  # a wrong name is told with the other words

    def named(self) -> Criterion:
        """The criterion, with its own options.

        Raises:
            UserError: there is none of that name, or it has no such option.
        """
        from bilevel.cutting.criteria import CRITERIA

        if self.criterion not in CRITERIA:
            raise UserError(
                f"criterion={self.criterion}: allowed are {listed(CRITERIA)}"
                f"{nearest(self.criterion, CRITERIA)}"
            )
        return from_values(
            CRITERIA[self.criterion], self.criterion_options or {}, "criterion_options"
        )
