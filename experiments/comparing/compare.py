"""Compare methods over seeds and test examples, from result.json and predictions.jsonl alone.

What is computed, and why so: docs/comparing.md. Nothing is printed here; the tables are made by
:mod:`.wording`, the figure by :mod:`experiments.plots.pareto`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, listed, nearest
from experiments.answers import TEXT
from experiments.cli.messages import sentence
from experiments.comparing import predictions
from experiments.comparing.comparison import LOSS, Comparison, Difference, Family, Method
from experiments.comparing.predictions import Predictions
from experiments.comparing.scored_run import (
    ScoredRun,
    draw,
    mean_interval,
    over_both,
    same_examples,
)
from experiments.metrics.holm import holm
from experiments.metrics.text import TEXT_METRICS

__all__ = ["compare"]

PLAIN = "lora"  # the baseline, where it is there


def compare(
    results: Sequence[Mapping[str, Any]], against: str | None = None, metric: str | None = None
) -> list[Comparison]:
    """Compare the methods of each task and model.

    Args:
        results: result.json of each run, with its ``folder`` and ``variant``
            (:func:`.variants.told_apart`). A run without a folder has a score and no interval.
        against: the baseline, a method or a method with its variant; None takes plain LoRA, else
            the best by validation.
        metric: which score to compare; None takes each task's primary one.

    Raises:
        UserError: ``against`` or ``metric`` is not there.
    """
    settings: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for r in results:
        settings.setdefault((r["task"], r["model"]), []).append(r)
    known = {name for r in results for name in (r["method"], _name(r))}
    if against is not None and against not in known:
        raise UserError(
            f"against={against}: no such method is in these runs: there are "
            f"{listed(sorted(known))}{nearest(against, known)}"
        )
    metrics = {name for r in results for name in r["metrics"]}
    if metric is not None and metric not in metrics:
        raise UserError(
            f"metric={metric}: these runs have no such score: there are "
            f"{listed(sorted(metrics))}{nearest(metric, metrics)}"
        )
    return [_Setting(*key, settings[key], metric, against).comparison() for key in sorted(settings)]


def _name(r: Mapping[str, Any]) -> str:
    return f"{r['method']} {r.get('variant', '')}".strip()


class _Setting:
    """One task and model, on the way to a `Comparison`."""

    def __init__(
        self,
        task: str,
        model: str,
        results: Sequence[Mapping[str, Any]],
        metric: str | None,
        against: str | None,
    ) -> None:
        self.task, self.model, self.against = task, model, against
        first = results[0]
        has = metric is not None and any(metric in r["metrics"] for r in results)
        self.metric: str = metric if metric and has else first["primary_metric"]
        known = TEXT_METRICS.get(self.metric)
        self.higher = known is None or known.higher_is_better
        self.notes: list[str] = []
        if metric is not None and metric != self.metric:
            self.notes.append(f"There is no {metric} of this task: scores are its {self.metric}.")
        self.groups = self._grouped(results)
        self._draw()

    def comparison(self) -> Comparison:
        methods = [self._method(runs) for runs in self.groups.values()]
        comparable = [m.validation for m in methods if m.validation is not None]
        methods.sort(key=lambda m: (-_or(m.validation, -math.inf), m.name))
        best = next((m for m in methods if m.validation is not None and not m.trained_on), None)
        front = _front(methods, self.higher)
        methods = [replace(m, on_front=m.name in front, best=m is best) for m in methods]
        self._say_of_validation(len(comparable), methods)
        baseline, reason = self._baseline(methods)
        families = [] if baseline is None else self._families(baseline)
        return Comparison(
            *(self.task, self.model, self.metric, self.higher),
            self._chosen_by(),
            methods,
            baseline,
            reason,
            [family for family in families if family.differences],
            list(dict.fromkeys(self.notes)),
        )

    def _grouped(self, results: Sequence[Mapping[str, Any]]) -> dict[str, list[ScoredRun]]:
        groups: dict[str, dict[int, ScoredRun]] = {}
        for r in results:
            seeds = groups.setdefault(_name(r), {})
            if r["seed"] in seeds:
                self.notes.append(
                    f"{_name(r)} has several runs of seed {r['seed']}: the first counts."
                )
                continue
            seeds[r["seed"]] = ScoredRun(r, self._predictions(r))
        return {name: [seeds[seed] for seed in sorted(seeds)] for name, seeds in groups.items()}

    def _predictions(self, r: Mapping[str, Any]) -> Predictions | None:
        if not r.get("folder"):
            return None
        try:
            return predictions.read(Path(r["folder"]), r)
        except UserError as error:
            self.notes.append(f"No interval: {sentence(error)}.")
            return None

    def _draw(self) -> None:
        every = [run for runs in self.groups.values() for run in runs]
        draw(every, self.metric)
        if any(
            run.said is not None
            and run.measure(self.metric) is None
            and run.result["metrics"].get(self.metric) is not None
            for run in every
        ):
            self.notes.append(
                f"No interval: {self.metric} is not known as a function of each example's part."
            )

    def _method(self, runs: Sequence[ScoredRun]) -> Method:
        first = runs[0].result
        scores = [run.score(self.metric) for run in runs]
        low, high = self._interval(runs)
        pairs = [_validation(run.result) for run in runs]
        by_loss = self._chosen_by() == "loss"
        validation = _mean([loss if by_loss else score for score, loss in pairs])
        return Method(
            method=first["method"],
            variant=first.get("variant", ""),
            runs=scores,
            examples=runs[0].said.size if runs[0].said else None,
            score=_mean([one.score for one in scores]),
            low=low,
            high=high,
            validation=-validation if by_loss and validation is not None else validation,
            validation_shown=validation,
            trained_on=any((run.result.get("validation") or {}).get("trained_on") for run in runs),
            test_loss=_mean([run.result["test_loss"] for run in runs]),
            parameters=statistics.fmean(
                run.result["adapter_parameters"] + run.result["head_parameters"] for run in runs
            ),
            processor_seconds=statistics.fmean(
                sum(run.result["processor_seconds"].values()) for run in runs
            ),
        )

    def _interval(self, runs: Sequence[ScoredRun]) -> tuple[float | None, float | None]:
        scores = [run.score(self.metric) for run in runs]
        if len(runs) == 1 or any(one.low is None for one in scores):
            return (scores[0].low, scores[0].high) if len(runs) == 1 else (None, None)
        if not same_examples(runs):
            self.notes.append(
                f"No interval of {_name(runs[0].result)}: its seeds were scored on different "
                "test examples."
            )
            return None, None
        return mean_interval(runs, self.metric)

    def _chosen_by(self) -> str:
        """The metric, where all that have validation data have it there, else the loss."""
        every = [run.result for runs in self.groups.values() for run in runs]
        pairs = [_validation(r) for r in every]
        usable = all(score is not None for score, loss in pairs if loss is not None)
        same = all(r["primary_metric"] == every[0]["primary_metric"] for r in every)
        return every[0]["primary_metric"] if usable and same else "loss"

    def _say_of_validation(self, known: int, methods: Sequence[Method]) -> None:
        if known == 0:
            self.notes.append(
                "No run has validation data: the table is sorted by name, and none is called best."
            )
            return
        if known < len(methods):
            self.notes.append("Methods without validation data are at the end.")
        if any(m.trained_on for m in methods if m.validation is not None):
            self.notes.append(
                "†: a level of the method trains on its validation data, so that it is not called "
                "best by them."
            )
        digests = {
            found["digest"]
            for runs in self.groups.values()
            for run in runs
            if (found := run.result.get("validation")) and found.get("digest")
        }
        seeds = max(len(runs) for runs in self.groups.values())
        if len(digests) > seeds:
            self.notes.append(
                "The methods' validation examples are not the same: small differences in "
                "validation say nothing."
            )

    def _baseline(self, methods: Sequence[Method]) -> tuple[str | None, str]:
        names = [m.name for m in methods]
        if len(names) < 2:
            return None, "there is one method"
        if self.against in names:
            return self.against, f"against={self.against}"
        if self.against is not None:
            found = [m.name for m in methods if m.method == self.against]
            if len(found) == 1:
                return found[0], f"against={self.against}"
            if not found:
                return None, f"against={self.against} was not run on this task and model"
            raise UserError(
                f"against={self.against}: there are several: name one of {listed(found)}"
            )
        if PLAIN in names:
            return PLAIN, "plain LoRA; another: against=METHOD"
        plain = [m for m in methods if m.method == PLAIN]
        if len(plain) == 1:
            return plain[0].name, "plain LoRA; another: against=METHOD"
        best = [m for m in (plain or methods) if m.best] or [
            m for m in (plain or methods) if m.validation is not None and not m.trained_on
        ]
        if best:
            of = "LoRA" if plain else "the methods"
            return best[0].name, f"the best of {of} by validation; another: against=METHOD"
        names = sorted(m.name for m in (plain or methods))
        why = "as none has validation data of its own"
        return names[0], f"the first by name, {why}; better say against=METHOD"

    def _families(self, baseline: str) -> list[Family]:
        found = []
        for measure, higher in ((self.metric, self.higher), (LOSS, False)):
            differences = [
                difference
                for name in self.groups
                if name != baseline
                and (difference := self._difference(name, baseline, measure)) is not None
            ]
            adjusted = holm([d.p for d in differences])
            found.append(
                Family(
                    measure,
                    higher,
                    [replace(d, p_holm=p) for d, p in zip(differences, adjusted, strict=True)],
                )
            )
        return found

    def _difference(self, name: str, baseline: str, measure: str) -> Difference | None:
        mine = {run.result["seed"]: run for run in self.groups[name]}
        other = {run.result["seed"]: run for run in self.groups[baseline]}
        seeds = sorted(mine.keys() & other.keys())
        if not seeds:
            self.notes.append(f"{name} is not compared: it has no seed in common with {baseline}.")
            return None
        pairs = [(mine[seed], other[seed]) for seed in seeds]
        every = [run for pair in pairs for run in pair]
        if any(run.measure(measure) is None for run in every):
            if measure != LOSS:
                self.notes.append(f"{name} is not compared: an interval is missing, as said here.")
            elif all(run.said for run in every):
                self.notes.append(
                    "Test losses are not compared: the runs' predictions.jsonl does not say the "
                    "loss of each example."
                )
            return None
        if not same_examples(every):
            self.notes.append(
                f"{name} is not compared: its test examples are not those of {baseline}."
            )
            return None
        found = over_both(pairs, measure)
        return Difference(
            name,
            seeds,
            found.examples,
            *(found.mean, found.low, found.high, found.p, found.p),
            found.shares,
        )


def _validation(r: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The primary metric on validation data, where it is known, and the loss.

    As :func:`.record.validation_score` has it: written text is scored on the test alone.
    """
    found = r.get("validation") or {"loss": r["validation_loss"]}
    score = (found.get("metrics") or {}).get(r["primary_metric"])
    return None if r.get("kind") == TEXT else score, found.get("loss")


def _front(methods: Sequence[Method], higher: bool) -> set[str]:
    """Those that no other method equals in one of score and parameters and beats in the other."""
    points = [
        (m.name, m.score if higher else -m.score, -m.parameters)
        for m in methods
        if m.score is not None
    ]
    return {
        name
        for name, score, size in points
        if not any(s >= score and p >= size and (s, p) != (score, size) for _, s, p in points)
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
