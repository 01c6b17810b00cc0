"""Hold every estimator's implicit term against the same in float64 on the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from benchmarks.gpu.levels import difference, terms
from benchmarks.gpu.rows import Failed, Row, Setting
from bilevel import hypergradient
from bilevel.hypergradient import Hypergradient

__all__ = ["ESTIMATORS", "rows"]

IN_FLOAT64 = 1e-7  # the most that the order of sums may do


class Case(NamedTuple):
    """An estimator, how far off float32 may be, and T1; further options of the levels."""

    estimator: Hypergradient
    in_float32: float = 1e-3
    unroll_steps: int = 2
    width: int = 16
    windows: int = 2


ESTIMATORS: dict[str, Case] = {
    "none": Case(hypergradient.NoHypergradient()),
    "finite_difference, central": Case(hypergradient.FiniteDifference(difference="central")),
    "finite_difference, forward": Case(hypergradient.FiniteDifference(difference="forward")),
    "betty_darts": Case(hypergradient.BettyDarts()),
    "sama": Case(hypergradient.Sama()),
    "alignment": Case(hypergradient.Alignment()),
    "neumann": Case(hypergradient.Neumann(iterations=3, alpha=0.1)),
    "cg": Case(hypergradient.ConjugateGradient(iterations=3, damping=1.0)),
    # All directions there are: the answer does not depend on which were drawn.
    "nystrom": Case(hypergradient.Nystrom(rank=1000, damping=1.0), 5e-3, width=8, windows=1),
    "soba": Case(hypergradient.Soba()),
    "penalty": Case(hypergradient.Penalty()),
    "penalty, lambda by BOME's rule": Case(hypergradient.Penalty(eta=0.5)),
    "forward": Case(hypergradient.Forward()),
    "unrolled, graph kept": Case(hypergradient.Unrolled(), unroll_steps=1),
    "unrolled, recomputed": Case(hypergradient.Unrolled()),
    "unrolled, central difference": Case(hypergradient.Unrolled(product="central_difference")),
}


def rows(setting: Setting) -> dict[str, Row]:
    """One an estimator."""

    def row(case: Case) -> Row:
        def figures() -> dict[str, float]:
            options: dict[str, Any] = {
                "windows": case.windows,
                "unroll_steps": case.unroll_steps,
                "width": case.width,
            }
            exact = terms(case.estimator, torch.device("cpu"), **options)
            values = {"length": float(exact.norm())}
            for name, dtype, most in (
                ("float64", torch.float64, IN_FLOAT64),
                ("float32", torch.float32, case.in_float32),
            ):
                found = terms(case.estimator, setting.device, dtype=dtype, **options)
                values[name] = difference(found, exact)
                if not values[name] <= most:
                    raise Failed(f"in {name} off by {values[name]:.1e}, more than {most:g}", values)
            return values

        return figures

    return {name: row(case) for name, case in ESTIMATORS.items()}
