"""Measure hypergradient estimators against the exact value, on your own model and data.

    results = check(engine, [FiniteDifference(), Unrolled(depth=1)])

takes T1 lower steps and the data of an upper one from where the engine stands, computes the exact
implicit term (``unrolled`` through all T1 steps) and every estimator's on the same steps, and puts
the engine back: weights, optimisers, data position and random state are as if it had not been
called.

Exact is meant for the steps that were taken, with the gradients that they were taken with, and for
the first upper step after them. Where a model leaves a part out of its gradient (PEFT's DoRA: the
norm), steps and v = dL2/dV lack it, and the value is the run's derivative but for that part. What a
cosine or a ratio is of a zero vector is ``nan``.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient
from bilevel.hypergradient.derivatives import dot, norm
from bilevel.hypergradient.settings_adjoint import check_step_settings
from bilevel.hypergradient.unrolled import Unrolled
from bilevel.nests import clone_nested
from bilevel.problem import BilevelProblem
from bilevel.replay.random_state import RandomState
from bilevel.replay.recorder import StepRecorder
from bilevel.replay.recording import Needs

if TYPE_CHECKING:
    from bilevel.protocols import EngineView

__all__ = ["CheckResult", "check", "check_differentiated"]


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
        seconds: to compute the term, after the lower steps and the upper gradient.
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
    lower, upper = _two_levels(problems)
    check_differentiated(lower, engine.global_step)
    exact_estimator = reference or Unrolled(keep_graph=False)
    for estimator in (exact_estimator, *estimators):
        estimator.prepare(lower)
        check_step_settings(estimator, lower)
    # The callbacks' states stay: restoring them could cut what they have written since.
    before = clone_nested({p.name: p.state_dict() for p in problems})
    random_state = RandomState.capture()
    estimator_state = dict(lower.estimator_state)
    needs = Needs(depth=None, optimizer=True)
    for estimator in (exact_estimator, *estimators):
        needs |= estimator.needs(lower)
    # A kept graph serves one estimator only; recomputing it is as exact.
    needs = dataclasses.replace(needs, graph=False)
    results = []
    try:
        with _untold(lower, needs):
            for done in range(batches):
                check_differentiated(lower, engine.global_step + done)
                vector, direct = _lower_steps(lower, upper)
                exact, _ = _timed(exact_estimator, vector, lower, upper)
                for estimator in estimators:
                    lower.estimator_state = dict(estimator_state)
                    term, seconds = _timed(estimator, vector, lower, upper)
                    results.append(_compare(estimator, term, exact, direct, seconds))
    finally:
        for problem in problems:
            problem.load_state_dict(before[problem.name])
        random_state.restore()
        lower.estimator_state = estimator_state
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


def _two_levels(problems: Sequence[BilevelProblem]) -> tuple[BilevelProblem, BilevelProblem]:
    for upper in problems:
        for path in upper.paths:
            if len(path) == 3:
                return path[1], upper
    raise UserError(
        "a hypergradient check needs an upper problem that depends on a lower one; this engine "
        f"has {', '.join(p.name for p in problems)} and no such pair"
    )


@contextmanager
def _untold(lower: BilevelProblem, needs: Needs) -> Iterator[None]:
    """Steps inside the block are recorded as ``needs`` says, and are nobody's training."""
    kept = lower.recorder, lower.gradient_hooks
    lower.recorder, lower.gradient_hooks = StepRecorder(needs), []
    try:
        yield
    finally:
        lower.recorder, lower.gradient_hooks = kept


def _lower_steps(lower: BilevelProblem, upper: BilevelProblem) -> tuple[list[Tensor], list[Tensor]]:
    """Take T1 lower steps and the data of an upper one; return v = dL2/dV and the direct dL2/dE."""
    lower.take_lower_steps()
    V, E = lower.trainable_parameters(), upper.trainable_parameters()
    grads = upper.new_gradient([*V, *E])
    return grads[: len(V)], grads[len(V) :]


def _timed(
    estimator: Hypergradient,
    vector: Sequence[Tensor],
    lower: BilevelProblem,
    upper: BilevelProblem,
) -> tuple[list[Tensor], float]:
    def finish() -> None:
        if torch.device(lower.device).type == "cuda":
            torch.cuda.synchronize(lower.device)

    finish()
    start = time.perf_counter()
    term = estimator.implicit_term(vector, lower, upper)
    finish()
    return term, time.perf_counter() - start


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
