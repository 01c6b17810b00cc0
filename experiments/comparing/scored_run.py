"""Put intervals on the scores of runs, and on the differences between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.comparing.comparison import CONFIDENCE, LOSS, RunScore
from experiments.comparing.predictions import Predictions
from experiments.metrics.crossed import Crossed, bootstrapped, crossed
from experiments.metrics.labels import SIGNED
from experiments.metrics.resampled import Resampled, draws_of, interval
from experiments.metrics.text import TEXT_METRICS

__all__ = ["ScoredRun", "draw", "mean_interval", "over_both", "same_examples"]


@dataclass
class ScoredRun:
    """A run with what its files say.

    Attributes:
        result: its result.json, with its folder.
        said: its predictions; None where they cannot be read.
        drawn: measure -> (B,) its scores on draws of its test examples; see :func:`draw`.
    """

    result: Mapping[str, Any]
    said: Predictions | None
    drawn: dict[str, np.ndarray] = field(default_factory=dict)

    def measure(self, name: str) -> Resampled | None:
        """A metric, or the test loss; None where it is not known of each example."""
        if self.said is None:
            return None
        return self.said.loss if name == LOSS else self.said.scores.get(name)

    def known(self, name: str) -> Resampled:
        """The same where it is known."""
        found = self.measure(name)
        if found is None:
            raise LookupError(f"{name} is not known of each example")
        return found

    def score(self, metric: str) -> RunScore:
        """The score with its interval over the run's test examples."""
        value, folder = self.result["metrics"].get(metric), self.result.get("folder")
        measured = self.measure(metric)
        ends = None if measured is None else interval(measured, self.drawn[metric], CONFIDENCE)
        return RunScore(folder, self.result["seed"], value, *(ends or (None, None)))


def draw(runs: Sequence[ScoredRun], metric: str) -> None:
    """Compute the runs' scores on draws, those with equally many examples on the same draws."""
    wanted: dict[int, list[tuple[ScoredRun, str, Resampled]]] = {}
    losses = [score for run in runs if (score := run.measure(LOSS)) is not None]
    ratio = any(score.each is None for score in losses)
    for run in runs:
        for name in (metric, LOSS):
            score = run.measure(name)
            # of a mean they are wanted for the run's own interval, and beside one that is none
            if score is not None and (name == metric or ratio):
                wanted.setdefault(score.size, []).append((run, name, score))
    for asked in wanted.values():
        drawn = draws_of([score for _, _, score in asked])
        for (run, name, _), column in zip(asked, drawn.T, strict=True):
            run.drawn[name] = column


def same_examples(runs: Sequence[ScoredRun]) -> bool:
    """Whether all were scored on the same examples, as far as their predictions say."""
    said = [run.said for run in runs if run.said is not None]
    return all(a.same_examples(b) for a in said for b in said)


def mean_interval(runs: Sequence[ScoredRun], metric: str) -> tuple[float, float]:
    """The interval of the mean over two or more seeds, scored on the same examples."""
    scores = [run.known(metric) for run in runs]
    values = {score.value for score in scores}
    if scores[0].share and len(values) == 1 and values <= {0.0, 1.0}:
        ends = runs[0].score(metric)  # all right with every seed: no variance to go by
        if ends.low is not None and ends.high is not None:
            return ends.low, ends.high
    found = over_both([(run, None) for run in runs], metric)
    if metric in TEXT_METRICS:  # without a common range
        return found.low, found.high
    return max(found.low, -1.0 if metric in SIGNED else 0.0), min(found.high, 1.0)


def over_both(pairs: Sequence[tuple[ScoredRun, ScoredRun | None]], measure: str) -> Crossed:
    """The mean over seeds of a measure, or of its differences, with its interval.

    Args:
        pairs: of each seed a run and what is taken off; all on the same examples.
        measure: a metric or the test loss, known of all of them.
    """
    each = [_each(run, measure) for run, _ in pairs]
    less = [np.zeros(1) if other is None else _each(other, measure) for _, other in pairs]
    if all(one is not None for one in (*each, *less)):
        rows = [a - b for a, b in zip(each, less, strict=True)]  # type: ignore[operator]
        return crossed(np.stack(rows), CONFIDENCE)
    values = [
        run.known(measure).value - (0.0 if other is None else other.known(measure).value)
        for run, other in pairs
    ]
    drawn = [
        run.drawn[measure] - (0.0 if other is None else other.drawn[measure])
        for run, other in pairs
    ]
    table = np.stack(drawn, axis=1)
    table = table[np.isfinite(table).all(axis=1)]
    return bootstrapped(np.array(values), table, pairs[0][0].known(measure).size, CONFIDENCE)


def _each(run: ScoredRun, measure: str) -> np.ndarray | None:
    return run.known(measure).each
