"""Fold learned gates into their factors, and say which components stay."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from bilevel import lowrank
from bilevel.cutting import CRITERIA, Cut, Frontier, Losses, Ranking
from bilevel.cutting.ranking import masked
from bilevel.lowrank.layers import down_and_up

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from bilevel.lowrank.ranks import Keep
    from problems.autolora_singular.rounds import Rounds

__all__ = ["cut_gated", "kept_weights"]

# Examples that draw the frontier, at most.
EXAMPLES = 512

Row = dict[str, Any]


def cut_gated(
    rounds: Rounds,
    budget: int | None,
    losses: Callable[[Any, Sequence[Row]], Losses],
    apart: Sequence[Row],
) -> Cut:
    """Order the components of a search's end, and choose those that stay.

    The gates are multiplied into the factors (drawn ones at their mean) and are gone, and the basis
    is turned once more; nothing is cut off yet.

    Args:
        rounds: of the search.
        budget: parameters that stay; None leaves it to the frontier.
        losses: of a model on examples.
        apart: examples that no level trained on; without any there is no frontier.
    """
    model, gates = rounds.model, rounds.gates
    gates.fix(gates.expected())
    lowrank.fold_gates(model)
    ranking = Ranking.of(model, CRITERIA["singular"]().score(model, None))
    frontier = None
    if apart:
        rows = _some(apart, EXAMPLES)

        def of(keep: Keep) -> Losses:
            with masked(model, keep):
                return losses(model, rows)

        frontier = Frontier.draw(ranking, of)
    keep = None
    if budget is not None:
        keep = ranking.within(budget)
    elif frontier is not None and frontier.chosen is not None:
        keep = ranking.first(frontier.chosen)
    return Cut(gates.kind.name, ranking, keep, frontier)


@torch.no_grad()
def kept_weights(model: PeftModel, keep: Keep) -> dict[str, Tensor]:
    """What is trained of a model with plain LoRA, by name, without the components that are cut."""
    names = {id(p): n for n, p in model.named_parameters()}
    found = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    for layer, module in lowrank.lora_layers(model).items():
        down, up = down_and_up(module)
        mask = keep[layer].to(up.weight.device)
        found[names[id(down.weight)]] = down.weight[mask].clone()
        found[names[id(up.weight)]] = up.weight[:, mask].clone()
    return found


def _some(rows: Sequence[Row], limit: int) -> Sequence[Row]:
    """A fixed random choice of ``limit`` examples at most, in their order."""
    if len(rows) <= limit:
        return rows
    return [rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), limit))]
