"""Run a frozen model over examples once, and keep what a linear map on it is to be fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel.labels import NO_LABEL

if TYPE_CHECKING:
    from problems.common import Job
    from problems.linear_probe.model import Embedder

__all__ = ["Embedded", "embedded"]


@dataclass(frozen=True)
class Embedded:
    """Embeddings with their answers: a row a text, or a row a word of tagged sentences.

    Attributes:
        x: (m, d), float32.
        y: (m,), or of sets of labels (m, k).
        example: which example a row is of, (m,).
    """

    x: np.ndarray
    y: np.ndarray
    example: np.ndarray

    def of(self, examples: Sequence[int]) -> Embedded:
        """The rows of some examples."""
        chosen = np.isin(self.example, examples)
        return replace(self, x=self.x[chosen], y=self.y[chosen], example=self.example[chosen])


def embedded(job: Job, embedder: Embedder, rows: Sequence[dict[str, Any]]) -> Embedded:
    """Embed tokenised examples.

    Args:
        job: batches them.
        embedder: the frozen model, on the job's device.
        rows: the examples, numbered as they come.
    """
    x: list[Any] = [None] * len(rows)
    y: list[Any] = [None] * len(rows)
    for indices, states, batch in job.outputs(embedder, rows):
        found, labels = states.float().cpu().numpy(), batch["labels"].cpu().numpy()
        for place, index in enumerate(indices):
            if job.kind == "tags":
                words = labels[place] != NO_LABEL
                x[index], y[index] = found[place][words], labels[place][words]
            else:
                x[index], y[index] = found[place][None], labels[place][None]
    counts = [len(part) for part in x]
    return Embedded(np.concatenate(x), np.concatenate(y), np.repeat(np.arange(len(rows)), counts))
