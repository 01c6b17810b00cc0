"""Put an interval on a run's score, over its test examples, for its model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from experiments.comparing import predictions
from experiments.comparing.scored_run import ScoredRun, draw

__all__ = ["score_interval"]


def score_interval(folder: Path, result: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of a run's primary metric, as ``experiments.report`` has it.

    Args:
        folder: the run's, with predictions.jsonl.
        result: what its result.json says.

    Returns:
        Its ends; None where the file says too little: fewer than two examples, a metric that is
        not taken apart by examples (METEOR, CIDEr, chrF), an older run, a task of one's own.
    """
    metric = str(result["primary_metric"])
    try:
        run = ScoredRun(result, predictions.read(folder, result))
    except UserError:  # the card says the score alone
        return None
    if run.measure(metric) is None:
        return None
    draw([run], metric)
    found = run.score(metric)
    if found.low is None or found.high is None:
        return None
    ends = found.low, found.high
    return ends if all(map(math.isfinite, ends)) else None
