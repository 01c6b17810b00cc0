r"""Draw the loss of an adapter against its parameters, and choose the least that lose nothing.

With L(b) the mean loss of the b best components, on examples that the weights never trained on,

    choose the smallest b with   d(b) + se(b) <= delta,      d(b) = L(b) - L(all),
    delta = share * (L(0) - L(all)),

d and its standard error se paired over the examples. L(0) is the trained head on the untouched
layers. Where L(all) is not below L(0) by two standard errors nothing was learned, and nothing is
chosen. Coarse budgets come first, then bisection between the smallest that will do and the largest
below it that will not, to a single component.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bilevel.cutting.losses import Losses, difference
from bilevel.cutting.ranking import Ranking
from bilevel.lowrank.ranks import Keep

__all__ = ["Frontier", "Point"]

# Shares of the parameters that are looked at first, besides none and all.
COARSE = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)


@dataclass(frozen=True)
class Point:
    """The loss of a part of the adapter.

    Attributes:
        components: how many are kept.
        parameters: of them.
        loss: mean loss.
        difference: of the loss to that of the whole adapter.
        error: the difference's standard error over examples.
    """

    components: int
    parameters: int
    loss: float
    difference: float
    error: float


@dataclass
class Frontier:
    """Losses of the adapter's parts; :meth:`draw` makes one.

    Attributes:
        points: of the best components, by their number, 0 and all included.
        even: of the best ``rank`` components of every layer, rank -> point, beside it.
        delta: the loss that may be lost.
        learned: whether the whole is better than nothing by two standard errors.
        chosen: components of the smallest part that loses no more; None where nothing was learned.
        examples: how many drew it.
    """

    points: list[Point]
    even: dict[int, Point]
    delta: float
    learned: bool
    chosen: int | None
    examples: int

    @classmethod
    def draw(
        cls, ranking: Ranking, losses: Callable[[Keep], Losses], share: float = 0.02
    ) -> Frontier:
        """Look at some twenty parts of an adapter.

        Args:
            ranking: its components in order.
            losses: of the model with only the kept components, always on the same examples.
            share: of what was learned, which may be lost.

        Raises:
            UserError: fewer than two examples.
        """
        count = len(ranking.order)
        whole = losses(ranking.first(count))
        seen: dict[int, Point] = {}

        def point(keep: Keep) -> Point:
            found = losses(keep)
            d = difference(found, whole)
            kept = sum(int(mask.sum()) for mask in keep.values())
            return Point(kept, ranking.cost(keep), found.mean, d.mean, d.error)

        def look(components: int) -> Point:
            if components not in seen:
                seen[components] = point(ranking.first(components))
            return seen[components]

        nothing, everything = look(0), look(count)
        delta = share * nothing.difference
        learned = nothing.difference > 2 * nothing.error
        for part in COARSE:
            look(_components(ranking, part))

        def enough(components: int) -> bool:
            return look(components).difference + look(components).error <= delta

        chosen = None
        if learned:
            chosen = min((c for c in seen if enough(c)), default=everything.components)
            below = max(c for c in seen if c < chosen)  # 0 is seen, and not enough
            while chosen - below > 1:
                middle = (chosen + below) // 2
                if enough(middle):
                    chosen = middle
                else:
                    below = middle
        longest = max(len(row) for row in ranking.scores.values())
        ranks = [2**i for i in range(longest.bit_length()) if 2**i < longest]
        return cls(
            points=[seen[c] for c in sorted(seen)],
            even={rank: point(ranking.even(rank)) for rank in ranks},
            delta=delta,
            learned=learned,
            chosen=chosen,
            examples=len(whole.terms),
        )

    @property
    def choice(self) -> Point | None:
        """The chosen part; None where nothing was learned."""
        return next((p for p in self.points if p.components == self.chosen), None)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Frontier | None:
        """Out of what :meth:`as_json` says; None where none was drawn."""
        if values["frontier"] is None:
            return None
        chosen = values["chosen"]
        return cls(
            points=[Point(**point) for point in values["frontier"]],
            even={int(rank): Point(**point) for rank, point in values["even"].items()},
            delta=values["delta"],
            learned=values["learned"],
            chosen=None if chosen is None else chosen["components"],
            examples=values["examples"],
        )

    @property
    def doubt(self) -> str | None:
        """Why the choice may be too small; None where there is no doubt.

        Where the standard error is above delta, only a difference that came out negative by luck
        can pass, and the smallest of many sizes that do is likely to be one.
        """
        chosen = self.choice
        if not self.learned or chosen is None or chosen.error <= self.delta:
            return None
        return (
            f"{self.examples} held-out examples do not tell a loss of delta = {self.delta:.4f}: at "
            f"the choice the difference has a standard error of {chosen.error:.4f}, so the choice "
            "may be too small; hold out more examples, or take a larger delta or a size of your own"
        )

    def as_json(self) -> dict[str, Any]:
        """What ranks.json says of it."""
        return {
            "frontier": [asdict(point) for point in self.points],
            "even": {str(rank): asdict(point) for rank, point in self.even.items()},
            "delta": self.delta,
            "learned": self.learned,
            "chosen": None if self.choice is None else asdict(self.choice),
            "examples": self.examples,
            "doubt": self.doubt,
        }


def _components(ranking: Ranking, share: float) -> int:
    """How many of the first components a share of the parameters has room for, 1 at the least."""
    room, count = share * ranking.total, 0
    for name, _ in ranking.order:
        room -= ranking.costs[name]
        if room < 0:
            break
        count += 1
    return max(1, count)
