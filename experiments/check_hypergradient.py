"""Hold every hypergradient estimator against the exact value, on your own method, task and model.

    python -m experiments.check_hypergradient [method=... task=... ...] [steps=40] [batches=4]

The first bilevel stage of the method is trained for ``steps`` global steps; then, ``batches``
times, T1 lower steps are taken and each estimator's implicit term is compared with the exact one
(reverse mode through all T1 steps, dropout masks and all). Options are those of experiments.run;
engine.precision is fp32 unless given. Shown are means over the batches.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bilevel.errors import UserError
from bilevel.hypergradient import (
    Alignment,
    BettyDarts,
    ConjugateGradient,
    FiniteDifference,
    Neumann,
    NoHypergradient,
    Sama,
    Unrolled,
)
from experiments.cli.command_line import CommandLine
from experiments.cli.program import program
from experiments.cli.quiet import quiet
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results.finished_run import take
from problems.common.method import Outcome

if TYPE_CHECKING:
    from bilevel import Hypergradient
    from bilevel.hypergradient import CheckResult

__all__ = ["ESTIMATORS", "main", "measure", "table"]

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
    Alignment(),
    Unrolled(depth=1),
    Unrolled(product="central_difference"),
)


def measure(plan: Plan, steps: int, batches: int) -> tuple[list[CheckResult], dict[str, str]]:
    """Train the first stage a little, then hold the estimators against the exact value.

    Args:
        plan: its method has two levels.
        steps: global steps to train for.
        batches: of the upper level to measure on.

    Returns:
        Results batch by batch, and the estimators that do not apply here with the reason.

    Raises:
        UserError: the method has one level, or what the plan names cannot be had.
    """
    from transformers import set_seed  # here: what is wrong with the words is told without it

    from bilevel import BilevelEngine, BilevelEngineConfig
    from bilevel.hypergradient import check
    from experiments.training.fine_tuning_job import FineTuningJob, load_task

    quiet()
    job = FineTuningJob.load(plan, load_task(plan))
    set_seed(plan.seed)
    training = plan.method.stages()[0].prepare(job, None)
    if isinstance(training, Outcome) or not training.dependencies["u2l"]:
        raise UserError(
            "this method has one level only, there is no hypergradient to check; take "
            "method=autolora"
        )
    engine = BilevelEngine(
        training.problems,
        config=BilevelEngineConfig(
            train_iters=min(training.steps, steps), strategy=plan.engine.strategy
        ),
        dependencies=training.dependencies,
    )
    engine.run()
    lower = next(iter(training.dependencies["u2l"].values()))[0]
    usable, refused = [], {}
    for estimator in dict.fromkeys((plan.hypergradient, *ESTIMATORS)):
        try:
            estimator.prepare(lower)
            usable.append(estimator)
        except UserError as error:
            refused[estimator.name] = str(error)
    return check(engine, usable, batches), refused


def table(results: Sequence[CheckResult]) -> str:
    """Mean over batches, one estimator a line."""
    names = list(dict.fromkeys(r.name for r in results))
    width = max(map(len, names))
    lines = [
        f"{'estimator':{width}}  {'cosine':>8}  {'relative error':>14}  {'norm / exact':>12}  "
        f"{'total cosine':>12}  {'seconds':>8}"
    ]
    for name in names:
        mine = [r for r in results if r.name == name]

        def mean(value: Callable[[CheckResult], float], of: list[CheckResult] = mine) -> float:
            return statistics.fmean(value(r) for r in of)

        ratio = mean(lambda r: r.norm / r.exact_norm if r.exact_norm else float("nan"))
        lines.append(
            f"{name:{width}}  {mean(lambda r: r.cosine):8.4f}  "
            f"{mean(lambda r: r.relative_error):14.3g}  {ratio:12.3g}  "
            f"{mean(lambda r: r.total_cosine):12.4f}  {mean(lambda r: r.seconds):8.3f}"
        )
    direct = statistics.fmean(r.direct_norm for r in results)
    exact = statistics.fmean(r.exact_norm for r in results)
    lines.append(f"norm of the direct partial {direct:.3g}, of the exact implicit term {exact:.3g}")
    return "\n".join(lines)


@program(lambda: str(__doc__))
def main(words: list[str]) -> None:
    """The program."""
    line = CommandLine.parse(words)
    own, overrides = take(line.overrides, steps="40", batches="4")
    numbers = {}
    for name, value in own.items():
        if not (value or "").isdecimal() or int(value or 0) < 1:
            raise UserError(f"{name}={value}: this must be an integer of 1 or more")
        numbers[name] = int(value or 0)
    config = compose_config(["engine.precision=fp32", *overrides], line.config_dir)
    results, refused = measure(Plan.of(config), **numbers)
    print(table(results))
    for name, reason in refused.items():
        print(f"{name}: not here ({reason})")


if __name__ == "__main__":
    main()
