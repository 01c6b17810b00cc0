"""Cut an adapter by held-out examples: some are for the criterion, the others draw the frontier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from peft import PeftModel
from torch import Tensor

from bilevel.cutting.budget import Budget
from bilevel.cutting.counted import Counted, counted
from bilevel.cutting.criteria.base import Criterion, ScoringData
from bilevel.cutting.cut import Cut, cut
from bilevel.cutting.frontier import COARSE
from bilevel.cutting.losses import Losses
from bilevel.cutting.options import CutOptions
from bilevel.data import some
from bilevel.errors import UserError
from bilevel.lowrank.layers import lora_layers
from bilevel.sharding import device_of

__all__ = ["cut_by", "halves", "least_examples"]

Row = dict[str, Any]
BATCH = 16  # examples that a criterion is given at once


def cut_by(
    model: PeftModel,
    rows: Sequence[Row],
    options: CutOptions,
    budget: Budget,
    *,
    collate: Callable[[list[Row]], dict[str, Tensor]],
    losses: Callable[[list[Row]], Losses],
) -> Cut:
    """Order the components of a model's adapter, and choose those that stay.

    On a terminal a bar says how far that is.

    Args:
        model: as :func:`bilevel.cutting.cut` takes and leaves it.
        rows: tokenised examples that its weights never trained on; none draws no frontier.
        options: the criterion, and what may be lost.
        budget: what was told; if nothing was, the frontier chooses.
        collate: makes a padded batch of tensors out of rows.
        losses: of the model as it is, in evaluation mode.

    Raises:
        UserError: a budget is larger than the adapter, or there are too few examples.
    """
    criterion = options.named()
    scoring, drawing = halves(rows, options.examples, criterion)
    if budget.told and len(drawing) < 2:  # what was told needs no frontier
        drawing = []
    device = device_of(model)
    with ExitStack() as bars:

        def shown(part: list[Row], label: str, expected: int | None = None) -> Callable[[], Losses]:
            return bars.enter_context(counted(lambda: losses(part), label, expected))

        data = None
        if scoring:
            batches = [
                {key: tensor.to(device) for key, tensor in collate(scoring[i : i + BATCH]).items()}
                for i in range(0, len(scoring), BATCH)
            ]
            label = f"criterion {options.criterion}"
            passed = bars.enter_context(counted(lambda: None, label, unit="batch"))
            data = ScoringData(Counted(batches, passed), shown(scoring, label))
        return cut(
            model,
            criterion,
            budget=budget,
            scoring=data,
            losses=shown(drawing, "frontier", _evaluations(model)) if drawing else None,
            share=options.delta,
            errors=options.errors,
        )


def _evaluations(model: PeftModel) -> int:
    """Parts of an adapter that a frontier looks at, roughly: bisection is not known beforehand."""
    ranks = [layer.r["default"] for layer in lora_layers(model).values()]
    bisection = round(math.log2(sum(ranks))) - 2
    return 2 + len(COARSE) + max(1, bisection) + round(math.log2(max(ranks)))


def least_examples(criterion: Criterion) -> int:
    """How many held-out examples a cut needs: two to draw the frontier, two to score by."""
    return 4 if criterion.needs_data else 2


def halves(rows: Sequence[Row], limit: int, criterion: Criterion) -> tuple[list[Row], list[Row]]:
    """Examples for the criterion to score by, and others to draw the frontier by.

    Args:
        rows: held-out examples.
        limit: of both together at most.
        criterion: one without data leaves all to the frontier.

    Raises:
        UserError: a criterion with data has fewer than two for each.
    """
    chosen = [rows[i] for i in some(len(rows), limit)]
    if not chosen or not criterion.needs_data:
        return [], chosen
    if len(chosen) < least_examples(criterion):
        raise UserError(
            f"criterion={criterion.name} needs {least_examples(criterion)} held-out examples or "
            f"more, and here are {len(chosen)}"
        )
    order = np.random.default_rng(1).permutation(len(chosen))  # files may alternate
    middle = len(chosen) // 2
    return [chosen[i] for i in order[:middle]], [chosen[i] for i in order[middle:]]
