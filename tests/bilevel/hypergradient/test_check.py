"""`check` measures what it says, and leaves the engine exactly as it found it."""

import pytest
import torch

from bilevel import BilevelEngine, BilevelEngineConfig, Callback, LowerProblem, ResumableLoader
from bilevel.errors import UserError
from bilevel.hypergradient import (
    Alignment,
    FiniteDifference,
    Neumann,
    NoHypergradient,
    Sama,
    Unrolled,
    check,
)
from tests.bilevel.text_toys import two_text_levels
from tests.bilevel.toys import STRICT, Net, cosine, dataset, flat, relative_error, stack, two_levels

pytestmark = STRICT


def adamw(p):
    return torch.optim.AdamW(p, lr=0.05)


def test_numbers_are_those_of_a_run():
    """Cosine, error and norms, recomputed from the gradients of three engines."""
    options = {"optimizer": adamw, "unroll_steps": 3, "dropout": 0.3}
    engine, _, _ = two_levels(Unrolled(), **options)
    (fd,) = check(engine, [FiniteDifference(difference="central")])

    def gradient(estimator):
        engine, _, upper = two_levels(estimator, **options)
        found = []
        upper.gradient_hooks.append(lambda p, loss: found.append(flat([p.module.logits.grad])))
        engine.run()
        return found[0]

    direct = gradient(NoHypergradient())
    exact = gradient(Unrolled()) - direct
    term = gradient(FiniteDifference(difference="central")) - direct
    assert fd.cosine == pytest.approx(cosine(term, exact), rel=1e-9)
    assert fd.relative_error == pytest.approx(relative_error(term, exact), rel=1e-9)
    assert fd.norm == pytest.approx(float(term.norm()), rel=1e-9)
    assert fd.exact_norm == pytest.approx(float(exact.norm()), rel=1e-9)
    assert fd.direct_norm == pytest.approx(float(direct.norm()), rel=1e-9)
    assert fd.total_cosine == pytest.approx(cosine(direct + term, direct + exact), rel=1e-9)
    assert fd.seconds > 0
    assert fd.name == "finite_difference(difference=central)"


def test_exact_estimators_are_found_exact():
    engine, *_ = two_levels(FiniteDifference(), optimizer=adamw, unroll_steps=2, dropout=0.3)
    results = check(engine, [Unrolled(), Unrolled(depth=1), NoHypergradient()], batches=2)
    assert len(results) == 6
    assert results[0].cosine == pytest.approx(1.0)
    assert results[3].relative_error < 1e-12
    assert results[1].relative_error > 1e-3
    assert results[2].relative_error == pytest.approx(1.0)
    assert results[0].exact_norm != results[3].exact_norm  # another window


def test_a_callback_sees_nothing_of_it():
    """Gradients of the check's own steps are not reported as training."""

    class Counter(Callback):
        seen = 0

        def on_gradient(self, problem, loss):
            self.seen += 1

    counter = Counter()
    engine, *_ = two_levels(Unrolled(), callbacks=[counter])
    check(engine, [FiniteDifference()])
    assert counter.seen == 0
    engine.run()
    assert counter.seen == 2


@pytest.mark.parametrize("levels", [two_levels, two_text_levels])
def test_the_run_goes_on_as_if_unchecked(levels):
    """Bit-equal weights, gates and losses, whether or not a check comes between (also mid-epoch,
    with momenta, dropout and a calibrated scale)."""

    def finish(checked):
        estimator = Unrolled() if levels is two_levels else Alignment(calibrate_every=3)
        engine, lower, upper = levels(
            estimator,
            optimizer=adamw,
            upper_optimizer=adamw,
            unroll_steps=2,
            dropout=0.3,
            steps=9,
        )
        for _ in range(3):
            engine.train_iters = engine.global_step + 3
            engine.run()
            if checked:
                every = [FiniteDifference(), Unrolled(), Neumann(), Sama(), NoHypergradient()]
                check(engine, every, batches=3)
        return flat(lower.trainable_parameters()), flat(upper.trainable_parameters())

    for a, b in zip(finish(False), finish(True), strict=True):
        assert torch.equal(a, b)


def test_an_engine_without_two_levels_is_refused():
    net = Net()

    class Alone(LowerProblem):
        def training_step(self, batch):
            raise AssertionError

    problem = Alone(
        "alone",
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        train_data_loader=ResumableLoader(dataset(8, 0), 4, stack),
    )
    engine = BilevelEngine([problem], BilevelEngineConfig())
    with pytest.raises(UserError, match=r"this engine has alone"):
        check(engine, [Unrolled()])
