"""Fit a linear probe beside a run, on the same data, and hold the run against it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.tasks.task import TaskData
from experiments.training.final_scores import decided, records
from experiments.training.fine_tuning_job import FineTuningJob
from experiments.training.scoring import score
from experiments.training.trained_rows import held_share
from experiments.verdicts import chance
from problems.linear_probe import LinearProbe

__all__ = ["beside_probe"]

log = logging.getLogger(__name__)


def beside_probe(
    job: FineTuningJob,
    asked: TaskData,
    values: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """What ``run.probe=true`` finds; None where it is not asked for, or the run is a probe itself.

    What ``method.hold_out`` keeps out of the run's training stays out of the probe's too.

    Args:
        job: of the run.
        asked: its task as it was before the run chose a threshold: the probe chooses its own.
        values: what its result.json will say.
        predictions: of the run, as predictions.jsonl has them.

    Returns:
        ``score`` of the run and ``other`` of the probe (shares of right answers, of numbers mean
        squared errors), the standard ``error`` of their difference under none, the probe's
        ``metrics``, ``loss`` and ``penalty``, and what it took.
    """
    if not job.plan.probe or values.get("probe") is not None:
        return None
    started = time.perf_counter(), time.process_time()
    share = held_share(values)
    method = LinearProbe() if share is None else LinearProbe(hold_out=share, refit=False)
    outcome = method.finish(job, method.fit(job, None))
    task = decided(job, asked, outcome.model)
    found = score(outcome.model, task, job.tests, job.data.collate)
    compared = chance.between(job.kind, predictions, records(task, found.predictions))
    seconds = time.perf_counter() - started[0]
    log.info("run.probe: a linear map on the frozen model, in %.1f s", seconds)
    return {
        "score": compared.score,
        "other": compared.other,
        "error": compared.error,
        "metrics": found.metrics,
        "loss": found.loss,
        "penalty": outcome.probe["penalty"] if outcome.probe is not None else None,
        "seconds": round(seconds, 3),
        "processor_seconds": round(time.process_time() - started[1], 3),
    }
