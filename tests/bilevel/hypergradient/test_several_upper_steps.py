"""T2 > 1: the upper steps after the first take dV/dE where the lower level took its steps."""

import pytest
import torch

from bilevel.hypergradient import NoHypergradient, Unrolled
from tests.bilevel.toys import STRICT, Recorder, brute_force, flat, relative_error, two_levels

pytestmark = STRICT


def error_of_the_second_step(lr, lower_lr, unroll_steps):
    """Of its whole gradient, against the derivative of the run at the E that it is taken at."""
    options = {
        "optimizer": lambda p: torch.optim.AdamW(p, lr=lower_lr),
        "unroll_steps": unroll_steps,
        "upper_steps": 2,
        "dropout": 0.2,
    }
    engine, _, upper = two_levels(
        Unrolled(), upper_optimizer=lambda p: torch.optim.Adam(p, lr=lr), **options
    )
    recorder, values = Recorder(upper), []
    upper.gradient_hooks.append(
        lambda problem, loss: values.append(flat(problem.trainable_parameters()).clone())
    )
    engine.run()
    second = flat(recorder.grads[1])

    def build():
        """The same run, whose lower steps see what the second upper step starts from."""
        again = two_levels(NoHypergradient(), **options)
        with torch.no_grad():
            again[2].trainable_parameters()[0].copy_(values[1])
        return again

    return relative_error(second, brute_force(build))


@pytest.mark.parametrize(
    ("lower_lr", "unroll_steps", "expected"), [(0.05, 3, (1.6e-3, 0.07)), (0.2, 8, (3e-2, 4.9))]
)
def test_the_error_grows_with_the_upper_levels_rate(lower_lr, unroll_steps, expected):
    """By the numbers of docs/hypergradients.md."""
    errors = [error_of_the_second_step(lr, lower_lr, unroll_steps) for lr in (0.0, 0.03, 3.0)]
    assert errors[0] < 1e-8
    assert errors[1:] == pytest.approx(expected, rel=0.1)
