"""Measure hypergradient estimators against the exact value, on your own model and data.

    results = check(engine, [FiniteDifference(), Unrolled(depth=1)])

takes T1 lower steps and the data of an upper one from where the engine stands, computes the exact
implicit term (``unrolled`` through all T1 steps) and every estimator's on the same steps, and puts
the engine back: weights, optimisers, data position and random state are as if it had not been
called.

An estimator that remembers (``alignment``) starts from what the run's own has remembered so far and
goes on from batch to batch. One that changes the lower steps takes steps of its own, on the same
data, and its term is held against the exact one of the plain steps.

Exact is meant for the steps that were taken, with the gradients that they were taken with, and for
the first upper step after them. Where a model leaves a part out of its gradient (PEFT's DoRA: the
norm), steps and v = dL2/dV lack it, and the value is the run's derivative but for that part. What a
cosine or a ratio is of a zero vector is ``nan``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient
from bilevel.hypergradient.derivatives import dot, norm
from bilevel.hypergradient.rehearsal import Apart, Moment, Run, lower_steps
from bilevel.hypergradient.settings_adjoint import check_step_settings
from bilevel.hypergradient.unrolled import Unrolled
from bilevel.problem import BilevelProblem
from bilevel.replay.recorder import StepRecorder
from bilevel.replay.recording import Needs

if TYPE_CHECKING:
    from bilevel.protocols import EngineView

__all__ = ["CheckResult", "check", "check_differentiated", "two_levels"]


@dataclass(frozen=True)
class CheckResult:
    """One estimator on one batch.

    Attributes:
        name: the estimator with its options.
        cosine: of the implicit term to the exact one.
        relative_error: |term - exact| / |exact|.
        total_cosine: of direct partial + implicit term to the exact total.
        total_error: |total - exact total| / |exact total|.
        norm: |term|.
        exact_norm: |exact|.
        direct_norm: |direct partial|.
        exact_direct_cosine: of the exact implicit term to the direct partial.
        seconds: to compute the term, after the lower steps and the upper gradient; with what the
            estimator did at the steps.
    """

    name: str
    cosine: float
    relative_error: float
    total_cosine: float
    total_error: float
    norm: float
    exact_norm: float
    direct_norm: float
    exact_direct_cosine: float
    seconds: float


def check(
    engine: EngineView,
    estimators: Sequence[Hypergradient],
    batches: int = 1,
    reference: Hypergradient | None = None,
) -> list[CheckResult]:
    """Measure ``estimators`` on ``batches`` successive T1 lower steps.

    Args:
        engine: a two-level engine; it is left exactly as it was.
        estimators: what to measure.
        batches: how many times to take T1 lower steps and measure.
        reference: the exact value; default ``unrolled`` through all T1 steps.

    Returns:
        ``batches * len(estimators)`` results, batch by batch.

    Raises:
        UserError: the engine has no upper problem that depends on a lower one, or none that
            differentiates through the steps that come.
    """
    problems = [p for p in engine.problems if isinstance(p, BilevelProblem)]
    lower, upper = two_levels(problems)
    check_differentiated(lower, engine.global_step)
    exact_estimator = reference or Unrolled(keep_graph=False)
    for estimator in (exact_estimator, *estimators):
        estimator.prepare(lower)
        check_step_settings(estimator, lower)
    # The callbacks' states stay: restoring them could cut what they have written since.
    before = Moment.of(problems)
    runs = [Run(estimator, dict(lower.estimator_state)) for estimator in estimators]
    apart = [Apart(run, before) for run in runs if run.estimator.changes_steps]
    together = [run for run in runs if not run.estimator.changes_steps]
    needs = Needs(depth=None, optimizer=True)
    for estimator in (exact_estimator, *(run.estimator for run in together)):
        needs |= estimator.needs(lower)
    # A kept graph serves one estimator only; recomputing it is as exact.
    needs = dataclasses.replace(needs, graph=False)
    results = []
    try:
        with _untold(lower):
            for done in range(batches):
                check_differentiated(lower, engine.global_step + done)
                now = Moment.of(problems) if apart else None
                for one in apart:
                    one.go_on(problems, lower, upper)
                if now is not None:
                    now.restore(problems)
                lower.recorder = StepRecorder(needs, together)
                vector, direct = lower_steps(lower, upper)
                exact = exact_estimator.implicit_term(vector, lower, upper)
                for run in together:
                    run.estimate(vector, lower, upper)
                results += [
                    _compare(run.estimator, run.term, exact, direct, run.seconds) for run in runs
                ]
    finally:
        before.restore(problems)
    return results


def check_differentiated(lower: BilevelProblem, step: int) -> None:
    """Refuse to check where no upper level takes a hypergradient.

    Raises:
        UserError: none does through the lower steps that come after global step ``step``.
    """
    if not lower.differentiated:
        raise UserError(
            f"after global step {step} no upper level differentiates through problem "
            f"{lower.name!r}, so there is no hypergradient to check: some methods take one in a "
            "part of their steps only (SaLoRA on two levels from method.start to method.end), and "
            "some never (SaLoRA on one); choose another step, or a method that does"
        )


def two_levels(problems: Sequence[BilevelProblem]) -> tuple[BilevelProblem, BilevelProblem]:
    """A lower level and the upper one that depends on it.

    Raises:
        UserError: there is no such pair.
    """
    for upper in problems:
        for path in upper.paths:
            if len(path) == 3:
                return path[1], upper
    raise UserError(
        "a hypergradient check needs an upper problem that depends on a lower one; this engine "
        f"has {', '.join(p.name for p in problems)} and no such pair"
    )


@contextmanager
def _untold(lower: BilevelProblem) -> Iterator[None]:
    """Steps inside the block are nobody's training, whatever recorder they have."""
    kept = lower.recorder, lower.gradient_hooks
    lower.gradient_hooks = []
    try:
        yield
    finally:
        lower.recorder, lower.gradient_hooks = kept


def _compare(
    estimator: Hypergradient,
    term: list[Tensor],
    exact: list[Tensor],
    direct: list[Tensor],
    seconds: float,
) -> CheckResult:
    def cosine(a: list[Tensor], b: list[Tensor]) -> float:
        length = norm(a) * norm(b)
        if not float(length) > 0:
            return float("nan")
        return float((dot(a, b) / length).clamp(-1, 1))  # rounding leaves 1 + 1e-7 of equal ones

    def ratio(a: float, b: float) -> float:
        return a / b if b else float("nan")

    total = [d + t for d, t in zip(direct, term, strict=True)]
    exact_total = [d + t for d, t in zip(direct, exact, strict=True)]
    difference = [t - x for t, x in zip(term, exact, strict=True)]
    exact_norm = float(norm(exact))
    return CheckResult(
        name=_describe(estimator),
        cosine=cosine(term, exact),
        relative_error=ratio(float(norm(difference)), exact_norm),
        total_cosine=cosine(total, exact_total),
        total_error=ratio(float(norm(difference)), float(norm(exact_total))),
        norm=float(norm(term)),
        exact_norm=exact_norm,
        direct_norm=float(norm(direct)),
        exact_direct_cosine=cosine(exact, direct),
        seconds=seconds,
    )


def _describe(estimator: Hypergradient) -> str:
    """Name with the options that differ from the defaults."""
    default = asdict(type(estimator)())
    options = [
        f"{key}={value}" for key, value in asdict(estimator).items() if value != default[key]
    ]
    return estimator.name + (f"({', '.join(options)})" if options else "")
