"""`sama` against its formula written out for each optimiser."""

import pytest
import torch

from bilevel.errors import UserError
from bilevel.hypergradient import FiniteDifference, Sama
from tests.bilevel.text_toys import mixed_product, two_text_levels
from tests.bilevel.toys import STRICT, Spy, flat, relative_error, two_levels

pytestmark = STRICT

BETA1, BETA2, EPS, LR = 0.8, 0.95, 1e-8, 1e-2


def adam_derivative(m, v, g, step):
    """d update / d gradient of Adam's step number ``step`` (1-based), m and v before the step.

    u = lr mh / (sqrt(vh) + eps), mh = (b1 m + (1-b1) g) / c1, vh = (b2 v + (1-b2) g^2) / c2.
    """
    c1, c2 = 1 - BETA1**step, 1 - BETA2**step
    mh = (BETA1 * m + (1 - BETA1) * g) / c1
    vh = (BETA2 * v + (1 - BETA2) * g**2) / c2
    root = vh.sqrt()
    d_mh = (1 - BETA1) / c1
    d_root = (1 - BETA2) * g / (c2 * root)
    return LR * (d_mh / (root + EPS) - mh * d_root / (root + EPS) ** 2)


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_formula(cls):
    errors, moments = [], {}

    def look(vector, lower, upper, answer):
        step = lower.recorded.steps[-1]
        scaled = []
        for i, (p, v, g) in enumerate(
            zip(lower.trainable_parameters(), vector, step.gradient, strict=True)
        ):
            m, s = moments.get(i, (torch.zeros_like(p), torch.zeros_like(p)))
            scaled.append(v * adam_derivative(m, s, g, lower.count))
            state = lower.optimizer.state[p]  # after this step
            moments[i] = (state["exp_avg"].clone(), state["exp_avg_sq"].clone())
        exact = mixed_product(lower, upper, step.weights, scaled)
        errors.append(relative_error(flat(answer), flat(exact)))

    engine, *_ = two_text_levels(
        Spy(Sama(epsilon=1e-4), look),
        optimizer=lambda p: cls(p, lr=LR, betas=(BETA1, BETA2), eps=EPS, weight_decay=0.0),
        steps=4,
        dtype=torch.float64,
    )
    engine.run()
    assert len(errors) == 4
    assert max(errors) < 1e-6


def test_for_sgd_it_is_the_identity_approximation():
    errors = []

    def look(vector, lower, upper, answer):
        fd = FiniteDifference(difference="central").implicit_term(vector, lower, upper)
        errors.append(relative_error(flat(answer), flat(fd)))

    engine, *_ = two_text_levels(
        Spy(Sama(), look),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        steps=3,
        dtype=torch.float64,
    )
    engine.run()
    assert len(errors) == 3
    assert max(errors) == 0.0


def test_optimisers_without_a_known_step_are_refused():
    with pytest.raises(UserError, match=r"RMSprop.*finite_difference"):
        two_levels(Sama(), optimizer=lambda p: torch.optim.RMSprop(p))
