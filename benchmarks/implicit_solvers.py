"""How far are the implicit estimators from the closed form, on a problem that has one?

    python -m benchmarks.implicit_solvers [--out docs/figures/implicit_solvers.png]

Ridge regression of 40 weights in float64, a penalty for each weight at the upper level, so that
the Hessian and the hypergradient are known: L1 = |X w - y|^2 / n + sum_i exp(E_i) w_i^2. Left, E
is held: the error of `penalty` against its lambda after 50, 200 and 2,000 lower steps, and that
of `cg` after the longest. Right, both levels train (T1 = 1): the error of `cg`, `neumann`,
`nystrom` and `soba` against the second-order products that they take at an upper step. Prints
both as tables and draws them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    LowerProblem,
    ProblemConfig,
    UpperProblem,
)
from bilevel.hypergradient import (
    ConjugateGradient,
    Hypergradient,
    Neumann,
    Nystrom,
    Penalty,
    Soba,
)

DIM, ROWS = 40, 120
MULTIPLIERS = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5]
LOWER_STEPS = [50, 200, 2000]
UPPER_STEPS = 200  # of the right half, of which the second hundred counts


class Numbers(nn.Module):
    """DIM parameters."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start)


class Ridge(LowerProblem):
    """The fit, with a penalty for each weight."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        w = self.module.w
        return (x @ w - y).pow(2).mean() + (self.upper.module.w.exp() * w.pow(2)).sum()


class Judge(UpperProblem):
    """The fit of other rows."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return (x @ self.lower.module.w - y).pow(2).mean()


def problem(
    estimator: Hypergradient, unroll_steps: int, upper_steps: int, upper_lr: float
) -> tuple[BilevelEngine, Ridge, Judge]:
    """The same data and start each time."""
    generator = torch.Generator().manual_seed(0)

    def rows(count: int, truth: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, DIM, dtype=torch.float64, generator=generator) * scales
        return x, x @ truth + 0.5 * torch.randn(count, dtype=torch.float64, generator=generator)

    scales = torch.logspace(0, -1, DIM, dtype=torch.float64)
    truth = torch.randn(DIM, dtype=torch.float64, generator=generator)
    train, held_out = rows(ROWS, truth, scales), rows(ROWS, truth, scales)
    lower_module = Numbers(torch.zeros(DIM, dtype=torch.float64))
    upper_module = Numbers(torch.full((DIM,), -4.0, dtype=torch.float64))
    lower = Ridge(
        "lower",
        ProblemConfig(hypergradient=estimator, unroll_steps=unroll_steps),
        module=lower_module,
        optimizer=torch.optim.SGD(lower_module.parameters(), lr=0.2),
        train_data_loader=[train],
    )
    upper = Judge(
        "upper",
        ProblemConfig(),
        module=upper_module,
        optimizer=torch.optim.SGD(upper_module.parameters(), lr=upper_lr),
        train_data_loader=[held_out],
    )
    engine = BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(train_iters=upper_steps),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    return engine, lower, upper


def implicit_gradient(lower: Ridge, upper: Judge, solved: bool) -> Tensor:
    """-d2L1/dEdV H^-1 v in closed form, at the weights as they are or at L1's minimum."""
    (x, y), (x_val, y_val) = lower.train_data_loader[0][0], upper.train_data_loader[0][0]
    with torch.no_grad():
        penalty = upper.module.w.exp()
        hessian = 2 * x.T @ x / ROWS + 2 * torch.diag(penalty)
        w = torch.linalg.solve(hessian, 2 * x.T @ y / ROWS) if solved else lower.module.w
        v = 2 * x_val.T @ (x_val @ w - y_val) / ROWS
        return -2 * penalty * w * torch.linalg.solve(hessian, v)


def errors(
    estimator: Hypergradient, unroll_steps: int, upper_steps: int, upper_lr: float, solved: bool
) -> list[float]:
    """Relative error of each upper gradient of a run; the direct partial is 0 here."""
    engine, lower, upper = problem(estimator, unroll_steps, upper_steps, upper_lr)
    found: list[float] = []

    def look() -> None:
        exact = implicit_gradient(lower, upper, solved)
        found.append(float((upper.module.w.grad - exact).norm() / exact.norm()))

    upper.grad_callback = look
    engine.run()
    return found


def by_multiplier() -> dict[int, list[float]]:
    """Last error of `penalty` by the lower steps before it, for each lambda."""
    return {
        steps: [
            errors(Penalty(multiplier=m), steps // 10, 10, 0.0, solved=True)[-1]
            for m in MULTIPLIERS
        ]
        for steps in LOWER_STEPS
    }


def by_products() -> dict[str, list[tuple[int, float]]]:
    """Mean error while both levels train, by products of an upper step (that with dE dV too)."""

    def mean(estimator: Hypergradient) -> float:
        late = errors(estimator, 1, UPPER_STEPS, 0.05, solved=False)[UPPER_STEPS // 2 :]
        return sum(late) / len(late)

    counts = (1, 2, 4, 8, 16)
    return {
        "cg": [(k + 1, mean(ConjugateGradient(iterations=k))) for k in counts],
        "neumann": [(k + 1, mean(Neumann(iterations=k, alpha=0.4))) for k in counts],
        "nystrom": [(k + 1, mean(Nystrom(rank=k))) for k in counts],
        "soba": [(2, mean(Soba(rate=0.4)))],
    }


def draw(
    lambdas: Mapping[int, Sequence[float]],
    solved: float,
    products: Mapping[str, Sequence[tuple[int, float]]],
    path: Path,
) -> None:
    """Both halves beside each other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    colours = ("#56B4E9", "#0072B2", "#000000")
    for (steps, found), colour in zip(lambdas.items(), colours, strict=True):
        left.plot(MULTIPLIERS, found, marker="o", color=colour, label=f"{steps:,} lower steps")
    left.axhline(solved, color="#D55E00", linewidth=1, label=f"cg, {DIM} iterations")
    left.set(xlabel="lambda of penalty", title="E held")
    styles = (("#0072B2", "o"), ("#009E73", "s"), ("#CC79A7", "^"), ("#D55E00", "*"))
    for (name, pairs), (colour, marker) in zip(products.items(), styles, strict=True):
        size = 12 if marker == "*" else 6
        right.plot(*zip(*pairs, strict=True), marker=marker, color=colour, label=name, ms=size)
    right.set(xlabel="second-order products an upper step", title="both levels train")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", ylabel="relative error to the closed form")
    right.set_xticks([2, 3, 5, 9, 17], ["2", "3", "5", "9", "17"])
    right.minorticks_off()
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Ridge regression, {DIM} weights, a penalty for each, float64")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures/implicit_solvers.png"))
    options = parser.parse_args()
    _, lower, upper = problem(ConjugateGradient(iterations=DIM), 1, 1, 0.0)
    x = lower.train_data_loader[0][0][0]
    hessian = 2 * x.T @ x / ROWS + 2 * torch.diag(upper.module.w.detach().exp())
    values = torch.linalg.eigvalsh(hessian)
    print(f"eigenvalues of H at the start: {values[0]:.3f} to {values[-1]:.2f}\n")
    lambdas = by_multiplier()
    solved = errors(ConjugateGradient(iterations=DIM), LOWER_STEPS[-1] // 10, 10, 0.0, True)[-1]
    print("| lambda | " + " | ".join(f"{m:,.0f}" for m in MULTIPLIERS) + " |")
    print("|---" * (len(MULTIPLIERS) + 1) + "|")
    for steps, found in lambdas.items():
        print(f"| after {steps:,} lower steps | " + " | ".join(f"{e:.1e}" for e in found) + " |")
    print(f"\ncg with {DIM} iterations after {LOWER_STEPS[-1]:,} lower steps: {solved:.1e}\n")
    products = by_products()
    print("| products an upper step | " + " | ".join(products) + " |")
    print("|---" * (len(products) + 1) + "|")
    for count in sorted({count for pairs in products.values() for count, _ in pairs}):
        cells = (dict(pairs).get(count) for pairs in products.values())
        shown = " | ".join("" if cell is None else f"{cell:.1e}" for cell in cells)
        print(f"| {count} | {shown} |")
    draw(lambdas, solved, products, options.out)
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
