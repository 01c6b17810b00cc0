"""Cut an adapter: score its components, draw the frontier, and say which stay."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from peft import PeftModel

from bilevel.cutting.budget import Budget
from bilevel.cutting.criteria.base import Criterion, ScoringData
from bilevel.cutting.frontier import Frontier, NotFiniteError
from bilevel.cutting.losses import Losses
from bilevel.cutting.ranking import Ranking, masked
from bilevel.lowrank.ranks import Keep

__all__ = ["Cut", "cut"]

log = logging.getLogger(__name__)

# What there is of a frontier, null where none was drawn.
DRAWN = (
    *("frontier", "even", "constant", "delta", "errors", "learned", "chosen", "examples", "doubt"),
)


@dataclass(frozen=True)
class Cut:
    """Which components of an adapter stay.

    Attributes:
        criterion: by which they were ordered.
        ranking: their order.
        keep: layer -> mask of those that stay; None where nothing was learned and nothing was told.
        frontier: loss against parameters; None without examples to draw it by.
    """

    criterion: str
    ranking: Ranking
    keep: Keep | None
    frontier: Frontier | None

    @property
    def ranks(self) -> dict[str, int] | None:
        """Layer -> rank that stays, 0 included."""
        if self.keep is None:
            return None
        return {name: int(mask.sum()) for name, mask in self.keep.items()}

    def as_json(self) -> dict[str, Any]:
        """What ranks.json says."""
        drawn: dict[str, Any] = dict.fromkeys(DRAWN)
        if self.frontier is not None:
            drawn = self.frontier.as_json()
        kept = None if self.keep is None else self.ranking.cost(self.keep)
        return {
            "criterion": self.criterion,
            "ranks": self.ranks,
            "parameters": kept,
            "whole_parameters": self.ranking.total,
            **drawn,
        }

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON data and tensors, for :meth:`of_state`."""
        return {
            "criterion": self.criterion,
            "scores": self.ranking.scores,
            "costs": self.ranking.costs,
            "keep": self.keep,
            "frontier": None if self.frontier is None else self.frontier.as_json(),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Cut:
        """The cut of which :meth:`state` was taken."""
        drawn = state["frontier"]
        return cls(
            state["criterion"],
            Ranking(state["scores"], state["costs"]),
            state["keep"],
            None if drawn is None else Frontier.read(drawn),
        )


def cut(
    model: PeftModel,
    criterion: Criterion,
    *,
    budget: Budget,
    scoring: ScoringData | None = None,
    losses: Callable[[], Losses] | None = None,
    share: float = 0.02,
    errors: float = 2.0,
) -> Cut:
    """Order the components of a model's adapter, and choose those that stay.

    The model's factors are rewritten in the criterion's basis, and compute what they did; nothing
    is cut off yet (``lowrank.export_adapter(model, folder, keep=...)`` does).

    Args:
        model: with a finished adapter of plain LoRA.
        criterion: what a component is worth.
        budget: what was told; if nothing was, the frontier chooses.
        scoring: held-out examples for the criterion.
        losses: of the model as it is, on other held-out examples; None draws no frontier.
        share, errors: delta over what was learned, and the standard errors that must fit into it,
            see :mod:`bilevel.cutting.frontier`.

    Raises:
        UserError: a budget is larger than the adapter, there are fewer than two examples, or
            nothing is told and a loss is no finite number.
    """
    ranking = Ranking.of(model, criterion.score(model, scoring))
    told = ranking.within(budget.of(ranking)) if budget.told else None
    if losses is None:
        return Cut(criterion.name, ranking, told, None)

    def of(keep: Keep) -> Losses:
        with masked(model, keep):
            return losses()

    try:
        kept = None if told is None else sum(int(mask.sum()) for mask in told.values())
        frontier = Frontier.draw(ranking, of, share, errors, kept)
    except NotFiniteError as error:
        if not budget.told:
            raise
        log.warning("no frontier is drawn: %s", error)
        return Cut(criterion.name, ranking, told, None)
    chosen = None if frontier.chosen is None else ranking.first(frontier.chosen)
    return Cut(criterion.name, ranking, told if budget.told else chosen, frontier)
