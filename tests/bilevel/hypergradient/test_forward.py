"""`forward` against `unrolled` and differences of whole runs; its random directions; its memory."""

import gc
import weakref

import pytest
import torch

from bilevel.errors import UserError
from bilevel.hypergradient import Forward, NoHypergradient, Unrolled, check
from bilevel.hypergradient import forward as forward_module
from tests.bilevel.hypergradient.test_step_settings import LOSSES, OPTIMISERS
from tests.bilevel.hypergradient.test_unrolled import RUNS, options_of
from tests.bilevel.text_toys import two_text_levels
from tests.bilevel.toys import (
    STRICT,
    Recorder,
    brute_force,
    flat,
    relative_error,
    two_levels,
    upper_gradient,
)

pytestmark = STRICT

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


def implicit(estimator, **options):
    """The implicit term of the last upper step, as one vector."""
    total = upper_gradient(*two_levels(estimator, **options)[::2])
    return total - upper_gradient(*two_levels(NoHypergradient(), **options)[::2])


@pytest.mark.parametrize("T1", [1, 4])
@pytest.mark.parametrize("run", RUNS)
def test_equals_reverse_mode(run, T1):
    """Of the implicit term; the second window starts from an optimiser state that is not zero."""
    options = options_of(run, T1, steps=2)
    assert relative_error(implicit(Forward(), **options), implicit(Unrolled(), **options)) < 1e-9


@pytest.mark.parametrize("run", ["nesterov-decay", "amsgrad", "clipping", "schedule"])
def test_equals_difference_of_the_whole_run(run):
    options = options_of(run, 3, steps=2)
    found = upper_gradient(*two_levels(Forward(), **options)[::2])
    expected = brute_force(lambda: two_levels(NoHypergradient(), **options), before=1)
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize("run", ["sgd", "adamw", "accumulation"])
def test_central_difference_products_come_close(run):
    options = options_of(run, 3, steps=2)
    exact = implicit(Forward(), **options)
    assert relative_error(implicit(Forward(product="central_difference"), **options), exact) < 1e-4


def test_every_upper_step_is_that_of_reverse_mode():
    """T2 = 2, the upper level moves, a warm-up before."""

    def gradients(estimator):
        engine, _, upper = two_levels(
            estimator,
            optimizer=lambda p: AdamW(p, lr=0.05),
            upper_optimizer=lambda p: SGD(p, lr=1.0),
            unroll_steps=2,
            upper_steps=2,
            dropout=0.3,
            steps=4,
            lower_options={"warmup_steps": 4},
        )
        recorder = Recorder(upper)
        engine.run()
        return [flat(g) for g in recorder.grads]

    found, expected = gradients(Forward()), gradients(Unrolled())
    assert len(found) == 4
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-9


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_settings_of_the_optimiser_have_tangents_too(name, losses):
    """Rates and decays that E decides, in Phi alone and in the losses too."""
    options = {"optimizer": OPTIMISERS[name], "classes": LOSSES[losses], "clipping": 0.3}
    options |= {"unroll_steps": 3, "dropout": 0.3, "steps": 2}
    found, expected = (
        upper_gradient(*two_levels(estimator, **options)[::2])
        for estimator in (Forward(), Unrolled())
    )
    assert found[:3].abs().min() > 0
    assert relative_error(found, expected) < 1e-9


def test_nothing_is_computed_in_a_warm_up():
    engine, lower, _ = two_levels(Forward(), steps=2, lower_options={"warmup_steps": 2})
    engine.run()
    assert lower.recorded.carried == {}


@pytest.mark.parametrize("clipping", [0.0, 0.1])
def test_zero_factor_gives_finite_gradients(clipping):
    """LoRA's start: B = 0, so A's gradient, Adam's second moment and 0/0 at A."""

    def gradient(estimator):
        engine, lower, upper = two_levels(
            estimator, optimizer=lambda p: AdamW(p, lr=0.05), unroll_steps=3, clipping=clipping
        )
        with torch.no_grad():
            lower.module.B.zero_()
        return upper_gradient(engine, upper)

    assert relative_error(gradient(Forward()), gradient(Unrolled())) < 1e-9


def test_random_directions_are_unbiased_and_as_noisy_as_said():
    """Mean, and expected squared error (N - 1)/K, within four standard errors of 150 draws."""
    exact_term, estimates, draws, K = [], [], 150, 2
    engine, lower, upper = two_levels(
        Forward(), optimizer=lambda p: AdamW(p, lr=0.05), unroll_steps=2, dropout=0.3, steps=2
    )
    engine.run()
    v = [torch.randn_like(p) for p in lower.trainable_parameters()]
    for estimator, times, found in (
        (Forward(), 1, exact_term),
        (Forward(directions=K), draws, estimates),
    ):
        for draw in range(times):
            lower._count = draw  # which the directions are drawn by
            lower.recorded.carried = {}
            estimator.at_step(lower, lower.recorded.last)
            found.append(flat(estimator.implicit_term(v, lower, upper)))
    exact, found = exact_term[0], torch.stack(estimates)
    bias = (found.mean(0) - exact) / (found.std(0) / draws**0.5)
    assert float(bias.abs().max()) < 4
    errors = (found - exact).square().sum(1)
    expected = (len(exact) - 1) / K * exact.square().sum()
    assert float(abs(errors.mean() - expected)) < 4 * float(errors.std()) / draws**0.5
    assert float(errors.std()) / draws**0.5 < 0.15 * float(expected)


def test_directions_differ_from_step_to_step_and_not_from_run_to_run():
    def seen():
        engine, lower, upper = two_levels(Forward(directions=3), steps=3, unroll_steps=2)
        found = []
        upper.gradient_hooks.append(
            lambda *_: found.append(
                torch.stack(
                    [flat(t.direction) for ts in lower.recorded.carried.values() for t in ts]
                )
            )
        )
        engine.run()
        return found

    first, again = seen(), seen()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])


@pytest.mark.parametrize("unroll_steps", [1, 256])
def test_one_step_is_kept_however_many_there_are(unroll_steps):
    """Weights, batches and optimiser states of one step; `unrolled` keeps those of T1."""
    kept = {}
    for estimator in (Forward(), Unrolled()):
        engine, lower, _ = two_levels(
            estimator, optimizer=lambda p: AdamW(p, lr=0.01), unroll_steps=unroll_steps
        )
        records = []
        opened = lower.recorder.open
        lower.recorder.open = lambda *given, open=opened, seen=records: _noted(open(*given), seen)
        engine.run()
        gc.collect()
        kept[estimator.name] = sum(record() is not None for record in records)
    assert kept == {"forward": 1, "unrolled": unroll_steps}


def _noted(record, seen):
    seen.append(weakref.ref(record))
    return record


def test_many_variables_need_random_directions(monkeypatch):
    monkeypatch.setattr(forward_module, "MOST_EXACT", 4)
    with pytest.raises(UserError, match=r"'upper' has 5 variables, more than 4.*directions=K"):
        two_levels(Forward())
    two_levels(Forward(directions=1))


def test_what_reverse_mode_refuses_is_refused():
    with pytest.raises(UserError, match=r"steps of optimiser RMSprop"):
        two_levels(Forward(), optimizer=lambda p: torch.optim.RMSprop(p, lr=0.1))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_transformer_with_dropout(attention):
    """16 gates of a BERT: the kernels have what forward mode asks for, in either attention."""
    options = {"attention": attention, "unroll_steps": 2, "steps": 2, "dtype": torch.float64}
    found, expected = (
        upper_gradient(*two_text_levels(estimator, **options)[::2])
        for estimator in (Forward(), Unrolled())
    )
    assert relative_error(found, expected) < 1e-9


def test_the_check_takes_it_along():
    """On the steps that all estimators share, several at once, and from batch to batch."""
    engine, *_ = two_levels(
        NoHypergradient(), optimizer=lambda p: AdamW(p, lr=0.05), unroll_steps=3
    )
    results = check(engine, [Forward(), Forward(directions=2), Forward()], batches=2)
    for exact, random, again in (results[:3], results[3:]):
        assert exact.relative_error < 1e-9
        assert again.relative_error < 1e-9
        assert random.relative_error > 1e-3
        assert random.seconds > 0
