"""`finite_difference` under dropout, against the exact mixed product; stock Betty's beside it."""

import itertools

import pytest
import torch
from betty.hypergradient.darts import darts

from bilevel.errors import UserError
from bilevel.hypergradient import FiniteDifference, NoHypergradient, Unrolled
from tests.bilevel.text_toys import mixed_product, two_text_levels
from tests.bilevel.toys import STRICT, Spy, cosine, flat, relative_error, two_levels, upper_gradient

pytestmark = STRICT


def eight_batches(estimator, look, **options):
    looked = []

    def counted(*arguments):
        looked.append(1)
        look(*arguments)

    engine, *_ = two_text_levels(Spy(estimator, counted), steps=8, **options)
    engine.run()
    assert len(looked) == 8


@pytest.mark.parametrize(
    ("difference", "point"), [("central", "before"), ("central", "after"), ("forward", "before")]
)
def test_exact_under_dropout_where_stock_betty_is_drowned_in_noise(difference, point):
    """The reason this project exists: dropout 0.1, fp32, eight batches of a gated LoRA BERT."""
    ours, stock, stock_errors = [], [], []

    def look(vector, lower, upper, answer):
        after = lower.trainable_parameters()
        weights = lower.recorded.steps[-1].weights if point == "before" else after
        exact = flat(mixed_product(lower, upper, weights, vector))
        ours.append(cosine(flat(answer), exact))
        with torch.random.fork_rng():  # Betty draws masks of its own
            betty = flat(darts(vector, lower, upper, sync=False))
        target = flat(mixed_product(lower, upper, after, vector))  # Betty's point is after
        stock.append(cosine(betty, target))
        stock_errors.append(relative_error(betty, target))

    eight_batches(FiniteDifference(difference=difference, point=point), look)
    print("\ncosine to the exact mixed product, ours :", [f"{c:.6f}" for c in ours])
    print("cosine to the exact mixed product, stock:", [f"{c:.3f}" for c in stock])
    print("stock's relative errors                 :", [f"{e:.2f}" for e in stock_errors])
    assert len(ours) == 8
    assert min(ours) > 0.999
    assert sum(stock) / 8 < 0.9
    assert sorted(stock_errors)[4] > 0.5


def test_without_dropout_stock_betty_agrees():
    """Same formula: what differs is the noise."""

    def look(vector, lower, upper, answer):
        betty = flat(darts(vector, lower, upper, sync=False))
        assert relative_error(flat(answer), betty) < 1e-2

    eight_batches(FiniteDifference(point="after"), look, dropout=0.0)


def test_forward_difference_is_close():
    """One pass less; an error of first order in epsilon."""
    errors = {}

    def look(vector, lower, upper, answer):
        step = lower.recorded.steps[-1]
        exact = flat(mixed_product(lower, upper, step.weights, vector))
        for epsilon in (None, 1e-2):
            one_sided = FiniteDifference(difference="forward", epsilon=epsilon)
            found = flat(one_sided.implicit_term(vector, lower, upper))
            errors.setdefault(epsilon, []).append(relative_error(found, exact))
        two_sided = FiniteDifference(difference="central")
        central = flat(two_sided.implicit_term(vector, lower, upper))
        errors.setdefault("central", []).append(relative_error(central, exact))

    eight_batches(FiniteDifference(difference="forward"), look)
    print({key: f"{max(values):.1e}" for key, values in errors.items()})
    assert max(errors[None]) < 0.05
    assert max(errors["central"]) < 2e-3


@pytest.mark.parametrize("difference", ["central", "forward", "auto"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": lambda p: torch.optim.SGD(p, lr=0.3, weight_decay=0.1)},
        {"optimizer": lambda p: torch.optim.SGD([{"params": p[:1], "lr": 0.5}, {"params": p[1:]}])},
        {"gas": 2},
        {"scheduler": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)},
        {"lower_options": {"maximize": True}},
        {"upper_options": {"maximize": True}},
    ],
)
def test_inner_lr_is_one_step_of_sgd(options, difference):
    """scale=inner_lr is exact reverse mode through one step of gradient descent."""
    options = {"dropout": 0.3, "steps": 3, **options}
    fd = FiniteDifference(scale="inner_lr", difference=difference, epsilon=1e-5)
    found, exact, direct = (
        upper_gradient(*two_levels(e, **options)[::2]) for e in (fd, Unrolled(), NoHypergradient())
    )
    tolerance = 1e-7 if difference == "central" else 1e-4
    assert relative_error(found - direct, exact - direct) < tolerance


@pytest.mark.parametrize(("difference", "order"), [("central", 2), ("forward", 1)])
def test_order_of_the_error(difference, order):
    exact = upper_gradient(*two_levels(Unrolled(), dropout=0.3)[::2])
    errors = [
        relative_error(
            upper_gradient(
                *two_levels(
                    FiniteDifference(scale="inner_lr", difference=difference, epsilon=e),
                    dropout=0.3,
                )[::2]
            ),
            exact,
        )
        for e in (1e-1, 1e-2, 1e-3)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert fine == pytest.approx(coarse / 10**order, rel=0.3)


@pytest.mark.parametrize("difference", ["central", "forward"])
def test_second_upper_step_uses_the_gates_the_lower_step_saw(difference):
    """T2 = 2 with moving gates: both implicit terms are mixed products at E0, not at E1."""
    found, expected = [], []

    def look(vector, lower, upper, answer):
        now = [p.detach().clone() for p in upper.trainable_parameters()]
        start.setdefault(lower.count, now)
        with torch.no_grad():
            for p, value in zip(upper.trainable_parameters(), start[lower.count], strict=True):
                p.copy_(value)
            weights = lower.recorded.steps[-1].weights
        expected.append(flat(mixed_product(lower, upper, weights, vector)))
        with torch.no_grad():
            for p, value in zip(upper.trainable_parameters(), now, strict=True):
                p.copy_(value)
        found.append(flat(answer))

    start = {}
    engine, *_ = two_text_levels(
        Spy(FiniteDifference(difference=difference, epsilon=1e-3), look),
        upper_steps=2,
        steps=3,
        dtype=torch.float64,
        upper_optimizer=lambda p: torch.optim.SGD(p, lr=20.0),
    )
    engine.run()
    assert len(found) == 6
    for f, e in zip(found, expected, strict=True):
        assert relative_error(f, e) < (1e-4 if difference == "central" else 1e-2)


def test_zero_vector_gives_zero():
    engine, lower, upper = two_levels(FiniteDifference())
    engine.run()
    vector = [torch.zeros_like(p) for p in lower.trainable_parameters()]
    term = FiniteDifference().implicit_term(vector, lower, upper)
    assert all(torch.equal(t, torch.zeros_like(t)) for t in term)


def test_weights_are_untouched():
    """Nothing is perturbed in place: the parameters are the same objects with the same bits."""
    engine, lower, upper = two_levels(FiniteDifference(), dropout=0.3)
    engine.run()
    before = [(p, p.detach().clone()) for p in lower.trainable_parameters()]
    vector = [torch.randn_like(p) for p in lower.trainable_parameters()]
    FiniteDifference().implicit_term(vector, lower, upper)
    for (p, value), now in zip(before, lower.module.parameters(), strict=False):
        assert p is now
        assert torch.equal(p, value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": "lr"}, r"\.scale=lr: .*identity, inner_lr"),
        ({"difference": "both"}, r"\.difference=both: .*central, forward"),
        ({"point": "now"}, r"\.point=now: .*before, after"),
        ({"difference": "forward", "point": "after"}, "needs point=before"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(UserError, match=words):
        FiniteDifference(**options)
