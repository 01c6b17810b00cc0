r"""Draw the loss of an adapter against its parameters, and choose the least that lose nothing.

With L(b) the mean loss of the b best components, on examples that the weights never trained on, a
part of b components passes when

    d(b) + errors * se(b) <= delta,      d(b) = L(b) - L(all),
    delta = share * (min(L(0), L(constant)) - L(all)),

d and its standard error se paired over the examples, L(0) that of the trained head on the untouched
layers, L(constant) that of the best answer which is the same for all examples, where the losses
tell it. Chosen is the smallest part that passes together with every larger one that was looked at.
Where L(all) is not below both by two standard errors nothing was learned, and nothing is chosen.
Coarse budgets come first, then bisection between the largest that does not pass and the next one
above it, to a single component.

**Why the constant answer.** A head that was trained together with an adapter is off without it, of
numbers by an offset that may be the most of L(0): on STS-B L(0) is 5.7 and L(all) 2.0, where to say
the mean every time costs 2.2. Two hundredths of that offset are more than a third of what was
learned beyond it, and parts that had lost it passed.

**Why every larger one too.** The smallest of all parts that pass is a minimum over noisy
comparisons: the more sizes are tried, the likelier is one that passes by luck. A loss that is above
delta at a larger size and below it at a smaller one is a sign of that, or of an order that puts a
component that does harm before one that does good. In the first case the smaller part is no good;
in the second it may be, and the larger choice costs parameters but no loss. So the sizes are taken
as tests in a fixed order, from the whole downwards to the first that fails, by which the chance of
any wrong pass among the coarse ones is that of a single test, whatever their number (fixed-sequence
testing: Maurer, Hothorn and Lehmacher 1995; to choose a threshold by it: Angelopoulos et al.,
arXiv 2110.01052): of a normal difference 0.16 at errors = 1, 0.05 at 1.64, 0.02 at 2 (of ten
examples 0.04). Bisection looks at sizes on both sides of where it ends, so that its few tests,
strongly correlated, are not covered by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bilevel.cutting.losses import Difference, Losses, difference
from bilevel.cutting.ranking import Ranking
from bilevel.errors import UserError
from bilevel.lowrank.ranks import Keep

__all__ = ["Frontier", "NotFiniteError", "Point"]

# Shares of the parameters that are looked at first, besides none and all.
COARSE = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
# Standard errors that leave little to luck, one in forty.
CAREFUL = 2.0


class NotFiniteError(UserError):
    """A loss is infinite, or no number."""


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

    def passes(self, delta: float, errors: float) -> bool:
        """Whether it loses no more than ``delta``, with ``errors`` standard errors to spare."""
        return self.difference + errors * self.error <= delta


@dataclass
class Frontier:
    """Losses of the adapter's parts; :meth:`draw` makes one.

    Attributes:
        points: of the best components, by their number, 0 and all included.
        even: of the best ``rank`` components of every layer, rank -> point, beside it.
        delta: the loss that may be lost.
        learned: whether the whole is better by two standard errors than nothing and than the best
            constant answer.
        chosen: components of the smallest part that passes with all larger ones; None where nothing
            was learned.
        examples: how many drew it.
        errors: standard errors that are added to a part's difference before it is held to delta.
        constant: mean loss of the best constant answer; None where the losses do not tell it.
    """

    points: list[Point]
    even: dict[int, Point]
    delta: float
    learned: bool
    chosen: int | None
    examples: int
    errors: float = 2.0
    constant: float | None = None

    @classmethod
    def draw(
        cls,
        ranking: Ranking,
        losses: Callable[[Keep], Losses],
        share: float = 0.02,
        errors: float = 2.0,
        told: int | None = None,
    ) -> Frontier:
        """Look at some twenty parts of an adapter.

        Args:
            ranking: its components in order.
            losses: of the model with only the kept components, always on the same examples.
            share: of what was learned, which may be lost.
            errors: standard errors of a difference that must fit into it too, not negative.
            told: components of a part that is looked at whatever is chosen; None for none.

        Raises:
            UserError: fewer than two examples.
            NotFiniteError: a loss is no finite number.
        """
        count = len(ranking.order)
        whole = _finite(losses(ranking.first(count)), count)
        seen = {count: Point(count, ranking.total, whole.mean, difference=0.0, error=0.0)}

        def point(keep: Keep) -> Point:
            kept = sum(int(mask.sum()) for mask in keep.values())
            found = _finite(losses(keep), kept)
            d = difference(found, whole)
            return Point(kept, ranking.cost(keep), found.mean, d.mean, d.error)

        def beside(keep: Keep) -> Point | None:
            try:
                return point(keep)
            except NotFiniteError:  # which decides nothing
                return None

        def look(components: int) -> Point:
            if components not in seen:
                seen[components] = point(ranking.first(components))
            return seen[components]

        nothing = look(0)
        starts, constant = [Difference(nothing.difference, nothing.error)], None
        if whole.constant is not None:
            same = Losses(whole.constant, whole.terms)
            constant = same.mean
            starts.append(difference(same, whole))
        delta = share * min(start.mean for start in starts)
        learned = all(start.mean > 2 * start.error for start in starts)
        for part in COARSE:
            look(_components(ranking, part))
        if told is not None:
            look(told)

        def enough(components: int) -> bool:
            return look(components).passes(delta, errors)

        chosen = None
        if learned:
            below = max(c for c in seen if not enough(c))  # there is one: 0, as share < 1
            chosen = min(c for c in seen if c > below)  # there is one: the whole, which loses 0
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
            even={rank: found for rank in ranks if (found := beside(ranking.even(rank)))},
            delta=delta,
            learned=learned,
            chosen=chosen,
            examples=len(whole.terms),
            errors=errors,
            constant=constant,
        )

    @property
    def from_constant(self) -> bool:
        """Whether what was learned is counted from the best constant answer, not from nothing."""
        return self.constant is not None and self.constant < self.points[0].loss

    @property
    def nothing_learned(self) -> str | None:
        """In words, where the whole is no better than what it is held against; or None."""
        if self.learned:
            return None
        also = (
            ""
            if self.constant is None
            else (f", or than the best constant answer's, {self.constant:.4f},")
        )
        return (
            "nothing learned: on the held-out examples the loss with the adapter is not lower than "
            f"without it{also} by two standard errors"
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
            errors=values.get("errors", 1.0),  # older versions knew no other
            constant=values.get("constant"),  # and no constant answer
        )

    @property
    def doubt(self) -> str | None:
        """Why the choice may be too small; None where there is no doubt.

        Where the standard error is above delta, a part that loses delta passes by luck hardly less
        often than one that loses nothing, unless two standard errors or more had to fit.
        """
        chosen = self.choice
        if not self.learned or chosen is None or chosen.error <= self.delta:
            return None
        if self.errors >= CAREFUL:
            return None
        return (
            f"{self.examples} held-out examples do not tell a loss of delta = {self.delta:.4f}: at "
            f"the choice the difference has a standard error of {chosen.error:.4f}, so the choice "
            "may be too small; hold out more examples, ask for errors=2, or take a larger delta or "
            "a size of your own"
        )

    @property
    def passed_over(self) -> Point | None:
        """The smallest part that passes and is not taken, as a larger one does not; or None."""
        if self.chosen is None:
            return None
        smaller = [p for p in self.points if p.components < self.chosen]
        return next((p for p in smaller if p.passes(self.delta, self.errors)), None)

    def as_json(self) -> dict[str, Any]:
        """What ranks.json says of it."""
        return {
            "frontier": [asdict(point) for point in self.points],
            "even": {str(rank): asdict(point) for rank, point in self.even.items()},
            "delta": self.delta,
            "errors": self.errors,
            "constant": self.constant,
            "learned": self.learned,
            "chosen": None if self.choice is None else asdict(self.choice),
            "examples": self.examples,
            "doubt": self.doubt,
        }


def _finite(losses: Losses, components: int) -> Losses:
    """Losses that can be compared.

    Raises:
        NotFiniteError: there is one that cannot.
    """
    wrong = int((~np.isfinite(losses.totals)).sum())
    if wrong:
        raise NotFiniteError(
            f"the loss of {wrong} of the {len(losses.totals)} held-out examples is not finite with "
            f"{components} components of the adapter: its training has diverged, or its numbers "
            "are too large for this precision"
        )
    return losses


def _components(ranking: Ranking, share: float) -> int:
    """How many of the first components a share of the parameters has room for, 1 at the least."""
    room, count = share * ranking.total, 0
    for name, _ in ranking.order:
        room -= ranking.costs[name]
        if room < 0:
            break
        count += 1
    return max(1, count)
