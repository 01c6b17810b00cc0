"""`unrolled` against TorchOpt, and against differences of whole training runs, in float64."""

import pytest
import torch
import torchopt
from torch import nn

from bilevel.hypergradient import NoHypergradient, Unrolled
from tests.bilevel.toys import (
    STRICT,
    Lower,
    Recorder,
    Upper,
    brute_force,
    cosine,
    flat,
    relative_error,
    two_levels,
    upper_gradient,
)

pytestmark = STRICT

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW

# Optimisers that TorchOpt has too: (torch's, TorchOpt's).
BOTH = {
    "sgd": (lambda p: SGD(p, lr=0.3), lambda m: torchopt.MetaSGD(m, lr=0.3)),
    "sgd-momentum-decay": (
        lambda p: SGD(p, lr=0.2, momentum=0.9, weight_decay=0.05),
        lambda m: torchopt.MetaSGD(m, lr=0.2, momentum=0.9, weight_decay=0.05),
    ),
    "sgd-nesterov": (
        lambda p: SGD(p, lr=0.2, momentum=0.8, nesterov=True),
        lambda m: torchopt.MetaSGD(m, lr=0.2, momentum=0.8, nesterov=True),
    ),
    "adam-decay": (
        lambda p: Adam(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1),
        lambda m: torchopt.MetaAdam(m, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1),
    ),
    "adamw": (
        lambda p: AdamW(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1),
        lambda m: torchopt.MetaAdamW(
            m, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, moment_requires_grad=True
        ),
    ),
}


def torchopt_gradient(engine, lower, upper, make, windows, T1):
    """The last of ``windows`` upper gradients, by TorchOpt's differentiable steps (upper lr 0)."""
    frozen = lower.module._parameters.pop("frozen")  # TorchOpt would train it
    lower.module.register_buffer("frozen", frozen.detach())
    optimiser = make(lower.module)
    for window in range(windows):
        torchopt.stop_gradient(lower.module)
        torchopt.stop_gradient(optimiser)
        for _ in range(T1):
            optimiser.step(lower.training_step(lower.get_batch()))
        loss = upper.training_step(upper.get_batch())
        if window == windows - 1:
            (gradient,) = torch.autograd.grad(loss, upper.module.logits)
    return gradient.reshape(-1)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("T1", [1, 3, 8])
@pytest.mark.parametrize("name", BOTH)
def test_equals_torchopt(name, T1, dropout):
    ours, theirs = BOTH[name]

    def build():
        # A second window starts from an optimiser state that is not zero.
        return two_levels(Unrolled(), ours, unroll_steps=T1, dropout=dropout, steps=2)

    found = upper_gradient(*build()[::2])
    engine, lower, upper = build()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # or TorchOpt rounds its bias corrections to fp32
    try:
        expected = torchopt_gradient(engine, lower, upper, theirs, windows=2, T1=T1)
    finally:
        torch.set_default_dtype(default)
    assert relative_error(found, expected) < 1e-10


# What a training run may do to the lower steps; TorchOpt has only part of it.
RUNS = {
    "sgd": {"optimizer": lambda p: SGD(p, lr=0.3)},
    "nesterov-decay": {
        "optimizer": lambda p: SGD(p, lr=0.2, momentum=0.8, nesterov=True, weight_decay=0.1)
    },
    "dampening": {"optimizer": lambda p: SGD(p, lr=0.2, momentum=0.8, dampening=0.3)},
    "adam-decay": {"optimizer": lambda p: Adam(p, lr=0.05, weight_decay=0.1)},
    "amsgrad": {"optimizer": lambda p: AdamW(p, lr=0.05, betas=(0.5, 0.6), amsgrad=True)},
    "adamw": {"optimizer": lambda p: AdamW(p, lr=0.05, weight_decay=0.3)},
    "clipping": {"optimizer": lambda p: AdamW(p, lr=0.05), "clipping": 0.1},
    "clipping-sgd": {"optimizer": lambda p: SGD(p, lr=0.5, momentum=0.9), "clipping": 0.1},
    "schedule": {
        "optimizer": lambda p: AdamW(p, lr=0.05),
        "scheduler": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.7),
    },
    "accumulation": {"optimizer": lambda p: AdamW(p, lr=0.05), "gas": 3, "clipping": 0.1},
    "groups": {
        "optimizer": lambda p: AdamW(
            [{"params": p[:1], "lr": 0.02}, {"params": p[1:], "lr": 0.1, "weight_decay": 0.3}]
        )
    },
    "ascent": {
        "optimizer": lambda p: SGD(p, lr=0.2, momentum=0.5, maximize=True),
        "lower_options": {"maximize": True},
    },
    "ascending-lower": {
        "optimizer": lambda p: SGD(p, lr=0.1),
        "lower_options": {"maximize": True},
    },
}


def options_of(run, T1, **more):
    return {"dropout": 0.3, "unroll_steps": T1, **RUNS[run], **more}


@pytest.mark.parametrize("T1", [1, 3, 8])
@pytest.mark.parametrize("run", RUNS)
def test_equals_difference_of_the_whole_run(run, T1):
    """Within 1e-4 of a central difference of T1 steps of torch's own optimisers."""
    options = options_of(run, T1, steps=2)
    found = upper_gradient(*two_levels(Unrolled(), **options)[::2])
    expected = brute_force(lambda: two_levels(NoHypergradient(), **options), before=1)
    assert relative_error(found, expected) < 1e-4
    direct = upper_gradient(*two_levels(NoHypergradient(), **options)[::2])
    assert relative_error(direct, expected) > 1e-3  # the implicit term matters here


def test_clipping_was_active():
    """The runs called clipping do clip, on every step."""
    for run in ("clipping", "clipping-sgd", "accumulation"):
        engine, lower, _ = two_levels(Unrolled(keep_graph=False), **options_of(run, 3, steps=2))
        engine.run()
        norms = [float(flat(step.gradient).norm()) for step in lower.recorded.steps]
        assert len(norms) == 3
        assert min(norms) > 0.1


@pytest.mark.parametrize("run", ["adamw", "clipping", "schedule", "nesterov-decay"])
def test_kept_graph_equals_recomputation(run):
    options = options_of(run, 1, steps=3)
    kept, recomputed = (
        upper_gradient(*two_levels(Unrolled(keep_graph=keep), **options)[::2])
        for keep in (True, False)
    )
    assert relative_error(kept, recomputed) < 1e-12


def test_graph_is_kept_only_where_it_is_used():
    for options, kept in [
        ({}, True),
        ({"unroll_steps": 2}, False),
        ({"gas": 2}, False),
        ({"upper_steps": 2}, False),
    ]:
        _, lower, _ = two_levels(Unrolled(), **options)
        assert lower.recorder.needs.graph is kept


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_depth_equals_truncation(depth):
    """depth=K is the exact derivative of a run whose first T1-K steps do not depend on E."""

    class Detached(Lower):
        """Sees a constant gate until the last ``depth`` steps of the window."""

        def training_step(self, batch):
            x, y = batch
            gate = self.upper()
            if 5 - depth > (self.count - 1) % 5:
                gate = self.start
            return nn.functional.cross_entropy(self.module(x, gate), y)

    def options():
        optimizer = RUNS["adamw"]["optimizer"]
        return {"unroll_steps": 5, "optimizer": optimizer, "dropout": 0.3, "steps": 1}

    found = upper_gradient(*two_levels(Unrolled(depth=depth), **options())[::2])

    def truncated():
        engine, lower, upper = two_levels(NoHypergradient(), classes=(Detached, Upper), **options())
        lower.start = upper().detach()
        return engine, lower, upper

    expected = brute_force(truncated)
    assert relative_error(found, expected) < 1e-6
    whole = upper_gradient(*two_levels(Unrolled(), **options())[::2])
    assert (relative_error(whole, found) < 1e-12) == (depth == 5)


class FixedUpper(Upper):
    """Uses given logits, one set per call, in place of its own."""

    given = ()

    def training_step(self, batch):
        x, y = batch
        logits = self.given[(self.count - 1) % 2] + self.shift
        return nn.functional.cross_entropy(self.lower(x, torch.softmax(logits, 0)), y)


@pytest.mark.parametrize("T1", [1, 3])
def test_second_upper_step_differentiates_the_trajectory_that_was_taken(T1):
    """T2 = 2: the second gradient is that of L2(V(E0 + d), E1 + d) in d, at d = 0."""
    options = options_of("adamw", T1, upper_steps=2)
    engine, _, upper = two_levels(Unrolled(), upper_optimizer=lambda p: SGD(p, lr=1.0), **options)
    recorder, visited = Recorder(upper), []
    upper.gradient_hooks.append(lambda p, loss: visited.append(p.module.logits.detach().clone()))
    engine.run()
    assert len(recorder.grads) == 2
    assert not torch.equal(*visited)

    def loss(index, h):
        engine, _, upper = two_levels(NoHypergradient(), classes=(Lower, FixedUpper), **options)
        shift = torch.zeros(5, dtype=torch.float64)
        shift[index] = h
        upper.given, upper.shift = visited, shift
        with torch.no_grad():
            upper.module.logits += shift
        # FixedUpper's loss does not depend on its own parameter.
        upper.backward = lambda **kwargs: None
        upper.optimizer_step = lambda: None
        engine.run()
        return upper.last_loss

    h = 1e-5
    expected = torch.stack([(loss(i, h) - loss(i, -h)) / (2 * h) for i in range(5)])
    found = recorder.grads[1][0]
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize("run", ["sgd", "adamw", "accumulation"])
def test_central_difference_products_come_close(run):
    options = options_of(run, 3, steps=2)
    exact, close = (
        upper_gradient(*two_levels(Unrolled(product=product), **options)[::2])
        for product in ("double_backward", "central_difference")
    )
    direct = upper_gradient(*two_levels(NoHypergradient(), **options)[::2])
    implicit = exact - direct
    assert relative_error(close - direct, implicit) < 1e-4
    assert cosine(close - direct, implicit) > 0.9999


def test_recording_leaves_training_alone():
    """Same weights with and without an estimator, bit for bit, when the upper level stands."""
    ends = []
    for estimator in (NoHypergradient(), Unrolled(), Unrolled(keep_graph=False)):
        engine, lower, _ = two_levels(estimator, **options_of("adamw", 1, steps=5))
        engine.run()
        ends.append(flat(lower.trainable_parameters()))
    assert torch.equal(ends[0], ends[2])
    assert torch.allclose(ends[0], ends[1], rtol=1e-12)


def test_zero_factor_gives_finite_gradients():
    """LoRA's start: B = 0, so A's gradient, Adam's second moment and 0/0 at A."""
    engine, lower, upper = two_levels(
        Unrolled(), optimizer=lambda p: AdamW(p, lr=0.05), unroll_steps=3
    )
    with torch.no_grad():
        lower.module.B.zero_()
    found = upper_gradient(engine, upper)
    assert torch.isfinite(found).all()
    assert found.norm() > 0


def test_memory_of_a_window_is_the_adapter_only():
    """A record holds copies of the trainable parameters, never of the frozen ones."""
    engine, lower, _ = two_levels(Unrolled(), optimizer=lambda p: AdamW(p, lr=0.05), unroll_steps=4)
    engine.run()
    assert len(lower.recorded.steps) == 4
    owned = [p.shape for p in lower.trainable_parameters()]
    for step in lower.recorded.steps:
        assert [w.shape for w in step.weights] == owned
        assert step.graph is None
        assert not any(t.requires_grad for t in [*step.weights, *step.gradient])
