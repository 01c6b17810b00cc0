r"""Tell how far ranks are decided: how near to the cut components lie, against how much they move.

A choice of ranks keeps the components whose values x_j are above a cut c: one value for all layers
(a budget), or one a layer (1/k of a softmax, say). Of the records t = 1..T of the last quarter of
the training up to the weights that are kept, or to where the choice was fixed, each component has a
position

    d_j(t) = x_j(t) / c(t) - 1      under a budget, where c(t) is half-way between the last
                                    component that K of them keep at record t, and the first that
                                    they drop;
    d_j(t) = x_j(t) - c(t)          under a threshold of each layer's own,

relative to the cut of the same record, so that what grows or shrinks together is no noise. With s_j
the standard deviation of d_j over the records and d_j the position now,

    component j lies within noise of the cut  when  |d_j| <= 2 s_j + 1e-6,

the last for the digits that are written. The ranks are called decided when at most one in twenty of
the components that could change sides does, which are as many as the smaller of those kept and
those dropped. The noise is that of one training: another seed
of it may do worse, and will hardly do better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bilevel.errors import UserError

__all__ = ["RECORDS", "Decided", "RankChoice", "decided", "decided_by_rule", "last_quarter"]

RECORDS = 3  # fewer have no spread to speak of
SHARE = 0.05  # of the components that could change sides
NOISE = 2.0  # standard deviations
WRITTEN = 1e-6  # what rounding may have moved a record by


@dataclass(frozen=True)
class Decided:
    """How far ranks are decided.

    Attributes:
        components: of all layers, M.
        near: components within noise of the cut, N; None where it is not known.
        kept: components above it.
        margin: position of the last kept less that of the first dropped component, now; None where
            all or none are kept, or it is not known.
        spread: of these two, the root of their summed variances.
        records: of the training that it was told by.
        why: it is not known, in words; empty where it is.
    """

    components: int
    near: int | None
    kept: int
    margin: float | None = None
    spread: float | None = None
    records: int = 0
    why: str = ""

    @property
    def decided(self) -> bool | None:
        """Whether hardly any component lies near the cut; None where it is not known."""
        if self.near is None:
            return None
        return self.near <= SHARE * min(self.kept, self.components - self.kept)

    @property
    def words(self) -> str:
        """The verdict for people, and what it goes by."""
        if self.near is None:
            return f"it is not known how far these ranks are decided: {self.why}"
        if self.kept == self.components and not self.near:
            return "nothing was cut, so there is nothing to decide in these ranks"
        return (
            f"these ranks are {'' if self.decided else 'not '}decided: {self.near} of "
            f"{self.components} components lie within noise of the cut"
        )

    def as_json(self) -> dict[str, Any]:
        """What ranks.json and result.json say."""
        values = asdict(self)
        del values["why"]
        return {"decided": self.decided, **values, "words": self.words}

    @classmethod
    def unknown(cls, components: int, kept: int, why: str) -> Decided:
        """It cannot be told."""
        return cls(components, None, kept, why=why)


@dataclass(frozen=True)
class RankChoice:
    """How a method makes ranks of the values that it records over the steps.

    Attributes:
        rule: a name of :data:`bilevel.lowrank.RULES`.
        bound: of the rule ``fixed``.
        gate: the kind of the gates, by which ``raw_share`` comes back to their logits.
        start: share of the stage's steps before which the values stand still.
        until: share of the steps after which the choice is fixed.
    """

    rule: str
    bound: float = 0.5
    gate: str = "real"
    start: float = 0.0
    until: float = 1.0


def last_quarter(
    steps: np.ndarray, start: float = 0.0, until: float = 1.0, kept: int | None = None
) -> np.ndarray:
    """Mask of the records (T,) in the last quarter of the steps up to ``until``, after ``start``.

    Args:
        steps: (T,), of the records, the last one of the stage among them.
        start, until: shares of all steps.
        kept: the step whose weights are kept, after which nothing counts; None for the last one.
    """
    last = steps[-1] if len(steps) else 0
    end = min(until * last, last if kept is None else kept)
    return (steps > max(0.75 * end, start * last)) & (steps <= end)


def decided(
    history: np.ndarray,
    keep: np.ndarray,
    cut: np.ndarray | None = None,
    now: np.ndarray | None = None,
) -> Decided:
    """How many components lie within noise of the cut.

    Args:
        history: (T, M), values of all layers' components at T records, not negative under a budget.
        keep: (M,) of bool, the components that are kept.
        cut: (T, M), a threshold for each component at each record; None is a budget.
        now: (M,), the values that were chosen by, where they are not the last record's; under a
            budget only.

    Raises:
        UserError: sizes do not agree.
    """
    records, components = history.shape
    kept = int(keep.sum())
    if keep.shape != (components,) or (cut is not None and cut.shape != history.shape):
        raise UserError(f"{components} components were recorded, and the masks are of {keep.shape}")
    if records < RECORDS:
        why = f"too few records of the training's end ({records})"
        return Decided.unknown(components, kept, why)
    if not np.isfinite(history).all():
        return Decided.unknown(components, kept, "recorded values are not finite")
    if cut is not None:
        moved = history - cut
        here = moved[-1]
    elif kept in (0, components):
        return Decided(components, 0, kept, records=records)
    else:
        middles = [_middle(row, kept) for row in (*history, *([] if now is None else [now]))]
        if min(middles) <= 0:
            return Decided.unknown(components, kept, "the recorded values at the cut are 0")
        moved = history / np.array(middles[:records])[:, None] - 1
        here = moved[-1] if now is None else now / middles[-1] - 1
    spread = moved.std(axis=0, ddof=1)
    near = np.abs(here) <= NOISE * spread + WRITTEN
    margin = apart = None
    if 0 < kept < components:
        last = int(np.flatnonzero(keep)[here[keep].argmin()])
        first = int(np.flatnonzero(~keep)[here[~keep].argmax()])
        margin = float(here[last] - here[first])
        apart = float(np.hypot(spread[last], spread[first]))
    return Decided(components, int(near.sum()), kept, margin, apart, records)


def decided_by_rule(
    history: Mapping[str, np.ndarray],
    steps: np.ndarray,
    ranks: Mapping[str, int],
    choice: RankChoice,
    kept: int | None = None,
) -> Decided:
    """How far the ranks are decided that a rule made of recorded values.

    Args:
        history: layer -> (T, k), the values at all records of the stage.
        steps: (T,), of the records, the first of which is before ``kept``.
        ranks: layer -> rank; kept are as many of the largest values of the last record up to the
            weights that are kept.
        choice: how they came about.
        kept: the step whose weights are kept; None for the last one.

    Raises:
        UserError: a rule that is not known.
    """
    if set(history) != set(ranks):
        components = sum(x.shape[1] for x in history.values())
        why = "the values recorded are of other layers"
        return Decided.unknown(components, sum(ranks.values()), why)
    sized = {name: _compared(values, choice) for name, values in history.items()}
    at = len(steps) - 1 if kept is None else int(np.flatnonzero(steps <= kept)[-1])
    keep = np.concatenate([_largest(x[at], ranks[name]) for name, x in sized.items()])
    chosen = last_quarter(steps, choice.start, choice.until, kept)
    values = np.concatenate([x[chosen] for x in sized.values()], axis=1)
    if choice.rule == "budget":
        return decided(values, keep)
    cuts = [_threshold(x[chosen], choice) for x in sized.values()]
    return decided(values, keep, np.concatenate(cuts, axis=1))


def _threshold(values: np.ndarray, choice: RankChoice) -> np.ndarray:
    """The cut of one layer at each record, (T, k), by the rules of :mod:`bilevel.lowrank.ranks`."""
    if choice.rule == "threshold":
        return np.full_like(values, 1 / values.shape[1])
    if choice.rule in ("mean", "raw_share"):
        return np.repeat(values.mean(axis=1, keepdims=True), values.shape[1], axis=1)
    if choice.rule == "fixed":
        return np.full_like(values, choice.bound)
    if choice.rule == "positive":
        return np.zeros_like(values)
    raise UserError(f"there is no rank rule {choice.rule!r}")


def _compared(values: np.ndarray, choice: RankChoice) -> np.ndarray:
    """What a rule compares of recorded values: their sizes, their logits, or what they are."""
    if choice.rule in ("budget", "fixed"):
        return np.abs(values)
    if choice.rule != "raw_share":
        return values
    tiny = 5e-7  # half of the last digit that is written, where 0 is
    if choice.gate == "softmax":
        return np.log(np.maximum(values, tiny))  # up to what a layer's logits share
    if choice.gate == "sigmoid":
        inside = np.clip(values, tiny, 1 - tiny)
        return np.log(inside) - np.log1p(-inside)
    return values


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask


def _middle(values: np.ndarray, kept: int) -> float:
    """Half-way between the last of ``kept`` values and the next one."""
    ordered = np.sort(values)[::-1]
    return float(ordered[kept - 1] + ordered[kept]) / 2
