"""Hold every hypergradient estimator against the exact value, on your own method, task and model.

    python -m experiments.check_hypergradient [method=... task=... ...] [steps=40] [batches=4]
        [horizon=0.9]

The first bilevel stage of the method is trained for ``steps`` global steps of the run that is asked
for, with its schedule; then, ``batches`` times, T1 lower steps are taken and each estimator's
implicit term is compared with the exact one (reverse mode through all T1 steps, dropout masks and
all). Options are those of experiments.run; engine.precision is fp32 unless given. Shown are means
over the batches, and last which estimators may be trusted here. With ``horizon=C`` it also names
the least T1 whose hypergradient has a cosine of C or more to that of 2 T1 steps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bilevel.errors import UserError
from bilevel.hypergradient import (
    Alignment,
    BettyDarts,
    ConjugateGradient,
    FiniteDifference,
    Forward,
    Neumann,
    NoHypergradient,
    Nystrom,
    Penalty,
    Sama,
    Soba,
    Unrolled,
)
from experiments.cli.command_line import CommandLine
from experiments.cli.program import program
from experiments.cli.quiet import quiet
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results.finished_run import take

if TYPE_CHECKING:
    from bilevel import Hypergradient
    from bilevel.hypergradient import CheckResult, Horizon

__all__ = ["ESTIMATORS", "Measurement", "main", "measure", "table", "verdict"]

ESTIMATORS: tuple[Hypergradient, ...] = (
    NoHypergradient(),
    FiniteDifference(difference="central"),
    FiniteDifference(difference="forward"),
    FiniteDifference(difference="central", scale="inner_lr"),
    FiniteDifference(difference="central", point="after"),
    BettyDarts(),
    Sama(),
    Neumann(),
    ConjugateGradient(),
    Nystrom(),
    Soba(),
    Alignment(),
    Unrolled(),
    Unrolled(depth=1),
    Unrolled(product="central_difference"),
    Forward(),
    Forward(directions=4),
    Penalty(),
)
# Largest error of the whole gradient, in shares of it, on any batch, of what may be trusted. It
# leaves a cosine of 0.995 at the least.
TRUSTED = 0.1


@dataclass(frozen=True)
class Measurement:
    """What was found.

    Attributes:
        results: batch by batch.
        refused: estimators that do not apply here, with the reason.
        notes: what the numbers are of, where that is not what one expects.
        asked: the estimator of the run, as the results name it.
        inexact: why the value that all are held against is not quite the run's derivative.
        horizon: which T1 is long enough, where that was asked.
    """

    results: list[CheckResult]
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    asked: str = ""
    inexact: str = ""
    horizon: Horizon | None = None


def measure(plan: Plan, steps: int, batches: int, cosine: float | None = None) -> Measurement:
    """Train the first stage a little, then hold the estimators against the exact value.

    Args:
        plan: its method has two levels.
        steps: global steps to train for; half of the stage where it is no longer than that.
        batches: of the upper level to measure on.
        cosine: find the least T1 with this cosine to 2 T1, on two batches; not asked without.

    Raises:
        UserError: the method has one level, its stage is too short to measure in, or what the plan
            names cannot be had.
    """
    # Here: what is wrong with the words is told without them.
    from bilevel.hypergradient import check, find_horizon
    from bilevel.hypergradient.accuracy import check_differentiated
    from bilevel.hypergradient.settings_adjoint import check_step_settings
    from experiments.training.fine_tuning_job import FineTuningJob, load_task
    from experiments.training.first_stage import ready, trained

    quiet()
    training = ready(plan, FineTuningJob.load(plan, load_task(plan)))
    notes = []
    start, whole = steps, training.steps
    if steps + batches > whole:
        start = min(whole // 2, whole - batches)
        if start < 1:
            raise UserError(
                f"batches={batches}: the stage has {whole} global steps, and the schedule of its "
                "learning rates ends with it, so there is nothing to measure after it: raise "
                "train.epochs, or give a smaller batches=N"
            )
        notes.append(
            f"steps={steps} and batches={batches} are more than the {whole} global steps of the "
            f"stage, where the schedule ends: measured after {start}"
        )
    engine = trained(plan, training, start)
    upper, lowers = next(iter(training.dependencies["u2l"].items()))
    lower = lowers[0]
    check_differentiated(lower, start)
    if upper.config.steps > 1:
        notes.append(
            f"method.upper_steps={upper.config.steps}: measured is the first; the others take the "
            "implicit term at the values that the lower level saw"
        )
    usable, refused = [], {}
    for estimator in dict.fromkeys((plan.hypergradient, *ESTIMATORS)):
        try:
            check_step_settings(estimator, lower)
            estimator.prepare(lower)
            check_step_settings(estimator, lower)
            usable.append(estimator)
        except UserError as error:
            refused[estimator.name] = str(error)
    results = check(engine, usable, batches)
    asked = results[0].name if usable and usable[0] is plan.hypergradient else ""
    horizon = None
    if cosine is not None:
        # No further than the schedule of the learning rates goes: two batches of 2 T1 steps each.
        left = (whole - start) * lower.config.unroll_steps // 4
        horizon = find_horizon(engine, cosine, min(32, left), batches=2)
    return Measurement(results, refused, notes, asked, plan.method.inexact, horizon)


def table(found: Measurement) -> str:
    """Mean over batches, one estimator a line; a dash where there is no number."""
    names = list(dict.fromkeys(r.name for r in found.results))
    width = max(map(len, names))
    lines = [
        f"{'estimator':{width}}  {'cosine':>8}  {'relative error':>14}  {'norm ratio':>12}  "
        f"{'total cosine':>12}  {'total error':>11}  {'seconds':>8}"
    ]
    for name in names:
        mine = [r for r in found.results if r.name == name]

        def mean(
            value: Callable[[CheckResult], float], form: str, of: list[CheckResult] = mine
        ) -> str:
            numbers = [x for x in map(value, of) if not math.isnan(x)]
            return format(statistics.fmean(numbers), form) if numbers else "-"

        ratio = mean(lambda r: r.norm / r.exact_norm if r.exact_norm else math.nan, ".3g")
        lines.append(
            f"{name:{width}}  {mean(lambda r: r.cosine, '.4f'):>8}  "
            f"{mean(lambda r: r.relative_error, '.3g'):>14}  {ratio:>12}  "
            f"{mean(lambda r: r.total_cosine, '.4f'):>12}  "
            f"{mean(lambda r: r.total_error, '.3g'):>11}  {mean(lambda r: r.seconds, '.3f'):>8}"
        )
    direct = statistics.fmean(r.direct_norm for r in found.results)
    exact = statistics.fmean(r.exact_norm for r in found.results)
    kind = "reference" if found.inexact else "exact"
    lines.append(
        f"norm of the direct partial {direct:.3g}, of the {kind} implicit term {exact:.3g}"
    )
    return "\n".join(lines)


def verdict(found: Measurement) -> str:
    """Which estimators may be trusted here and what they cost, in one line."""
    by_name: dict[str, list[CheckResult]] = {}
    for result in found.results:
        by_name.setdefault(result.name, []).append(result)
    batches = len(next(iter(by_name.values())))
    zero = sum(not r.exact_norm for r in next(iter(by_name.values())))
    if zero == batches:
        return (
            f"the implicit term is 0 on all {batches} batches, as where the learning rate is 0 or "
            "the lower level does not depend on the upper one: there is nothing to compare; choose "
            "another steps=N"
        )
    worst = {name: max(_error(r) for r in mine) for name, mine in by_name.items()}
    seconds = {name: statistics.fmean(r.seconds for r in mine) for name, mine in by_name.items()}
    good = sorted((name for name in worst if worst[name] <= TRUSTED), key=seconds.__getitem__)
    told = [f"{name} (error {worst[name]:.2g}, {seconds[name]:.3f} s)" for name in good]
    share = f"{TRUSTED:.0%}"
    line = (
        f"none is exact here, since {found.inexact}; within {share} of the derivative of the steps "
        "taken"
        if found.inexact
        else f"to be trusted here: whole gradient within {share} of the exact one"
    )
    line += f" on every batch, cheapest first: {', '.join(told) or 'no estimator'}"
    if zero:
        line += f"; the implicit term is 0 on {zero} of the {batches} batches"
    if found.asked:
        among = "is" if found.asked in good else "is not"
        line += (
            f"; the run's own, {found.asked}, {among} among them (error {worst[found.asked]:.2g}, "
            f"{seconds[found.asked]:.3f} s)"
        )
    return line


def _error(result: CheckResult) -> float:
    """Of the whole gradient; infinite where the estimator gave no number."""
    error = result.total_error
    if math.isnan(error) and not result.exact_norm and not result.norm:
        return 0.0  # nothing to find, and nothing found
    return math.inf if math.isnan(error) else error


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    line = CommandLine.of_one(words)
    own, overrides = take(line.overrides, steps="40", batches="4", horizon=None)
    cosine = own.pop("horizon")
    numbers = {}
    for name, value in own.items():
        if not (value or "").isdecimal() or int(value or 0) < 1:
            raise UserError(f"{name}={value}: this must be an integer of 1 or more")
        numbers[name] = int(value or 0)
    config = compose_config(["engine.precision=fp32", *overrides], line.config_dir)
    found = measure(Plan.of(config), **numbers, cosine=_cosine(cosine))
    print(table(found))
    for name, reason in found.refused.items():
        print(f"{name}: not here ({reason})")
    for note in found.notes:
        print(f"note: {note}")
    print(verdict(found))
    if found.horizon is not None:
        print(f"horizon: {found.horizon}")


def _cosine(word: str | None) -> float | None:
    if word is None:
        return None
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not -1 < value < 1:
        raise UserError(f"horizon={word}: this must be a cosine, a number between -1 and 1")
    return value


if __name__ == "__main__":
    main()
