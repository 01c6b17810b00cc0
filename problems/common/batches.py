"""Draw batches of a job's data, and count the steps that some passes over it take."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from bilevel.data import ResumableLoader
from bilevel.streams import Streamed, StreamedLoader
from problems.common.method import Job
from problems.common.records import TrainData

__all__ = ["loader", "steps_per_epoch", "total_steps"]

log = logging.getLogger(__name__)


def loader(
    job: Job,
    indices: Sequence[int] | None = None,
    stream: int = 0,
    numbered: bool = False,
    data: TrainData | None = None,
) -> ResumableLoader:
    """Shuffled batches of the job's data, or of ``indices`` of it, drawn by its weights if any.

    ``stream`` tells apart loaders that should not see their data in related orders. The batches of
    a ``numbered`` one say which examples of it they are made of. Other ``data`` are taken in the
    place of the job's.
    """
    data = job.data if data is None else data
    streamed = isinstance(data.examples, Streamed)
    kind = StreamedLoader if streamed else ResumableLoader
    return kind(
        data.examples,  # type: ignore[arg-type]
        batch_size=job.settings.batch_size,
        collate=data.collate,
        seed=job.seed + 1000 * stream,
        lengths=data.lengths if job.settings.group_by_length and not streamed else None,
        indices=indices,
        numbered=numbered,
        weights=data.draw_weights,
    )


def steps_per_epoch(job: Job, batches: ResumableLoader) -> int:
    """Optimiser steps in an epoch, whose last one takes the batches that are left."""
    several = job.settings.gradient_accumulation
    if several > len(batches):
        log.warning(
            "train.gradient_accumulation=%d is more than the %d batches in a pass over the data: "
            "every optimiser step takes these %d",
            *(several, len(batches), len(batches)),
        )
    return math.ceil(len(batches) / several)


def total_steps(job: Job, batches: ResumableLoader, epochs: float, unroll_steps: int = 1) -> int:
    """Global steps in ``epochs`` passes, T1 = ``unroll_steps`` lower steps each."""
    wanted = epochs * steps_per_epoch(job, batches) / unroll_steps
    steps = max(1, math.ceil(wanted - 1e-9))  # 0.07 * 100 is a little above 7
    return steps if job.settings.max_steps is None else min(steps, job.settings.max_steps)
