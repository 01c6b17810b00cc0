"""Say what a method offers that finds ranks before it trains, or goes on training, with them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from problems.common.method import Job, Method, Stage

if TYPE_CHECKING:
    from peft import PeftModel

    from bilevel.cutting import Cut
    from bilevel.cutting.budget import Budget
    from bilevel.cutting.options import CutOptions

__all__ = ["FoundRanks", "RankSearch", "cut_held_out"]


class FoundRanks(NamedTuple):
    """What a search found.

    Attributes:
        lora_options: of a ``LoraConfig`` with these ranks, each layer at its scale.
        ranks: layer -> rank, 0 included.
        cut: of a trained adapter, which they came of; None where it was another rule.
    """

    lora_options: dict[str, Any]
    ranks: dict[str, int]
    cut: Cut | None = None


@dataclass(frozen=True)
class RankSearch(Method):
    """A method that finds a rank for every layer."""

    def search_stages(self) -> Sequence[Stage]:
        """The stages after which the ranks are known; all but the last unless overridden."""
        return self.stages()[:-1]

    @abstractmethod
    def found_ranks(self, job: Job, found: Any) -> FoundRanks:
        """What the search found.

        Args:
            job: as the stages were handed it.
            found: by the last of :meth:`search_stages`.

        Raises:
            UserError: no layer is left.
        """


def cut_held_out(
    job: Job,
    model: PeftModel,
    rows: Sequence[dict[str, Any]],
    options: CutOptions,
    budget: Budget,
) -> Cut:
    """Cut what a method trained, by examples that its levels left alone.

    Args:
        job: of the method.
        model: with plain LoRA; its factors come out in the criterion's basis.
        rows: the examples; none draws no frontier.
        options, budget: what the method was told.

    Raises:
        UserError: as :func:`bilevel.cutting.cut_by`.
    """
    from bilevel.cutting import cut_by

    return cut_by(
        model,
        rows,
        options,
        budget,
        collate=job.data.collate,
        losses=lambda some: job.losses(model, some),
    )
