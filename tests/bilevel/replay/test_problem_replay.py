"""Replaying a lower step: randomness, kernels, checkpointing, masks."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    LowerProblem,
    ProblemConfig,
    ResumableLoader,
    UpperProblem,
)
from bilevel.errors import UserError
from bilevel.hypergradient import (
    Alignment,
    ConjugateGradient,
    FiniteDifference,
    Neumann,
    NoHypergradient,
    Sama,
    Unrolled,
)
from tests.bilevel.text_toys import mixed_product, two_text_levels
from tests.bilevel.toys import (
    STRICT,
    Gate,
    Lower,
    Net,
    Spy,
    Upper,
    brute_force,
    dataset,
    flat,
    relative_error,
    stack,
    two_levels,
    upper_gradient,
)

pytestmark = STRICT

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


ESTIMATORS = [
    FiniteDifference(difference="central"),
    FiniteDifference(difference="forward"),
    Unrolled(),
    Unrolled(keep_graph=False),
    Unrolled(product="central_difference"),
    Neumann(iterations=2),
    ConjugateGradient(iterations=2),
    Sama(),
]


class Noisy(Net):
    """Draws from Python, NumPy and torch, and keeps running statistics."""

    def __init__(self, *args):
        super().__init__(*args)
        self.norm = nn.BatchNorm1d(4, dtype=torch.float64, affine=False)

    def forward(self, x, gate):
        noise = random.random() + np.random.rand() + torch.rand(()).double()
        return super().forward(self.norm(x) * noise, gate)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_replay_leaves_no_trace(estimator):
    """Generators and batch-norm statistics go the same way with every estimator as with none."""
    traces = []
    for given in (NoHypergradient(), estimator):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        net, gate = Noisy(0.3), Gate()
        lower = Lower(
            "lower",
            ProblemConfig(hypergradient=given, unroll_steps=2 if "keep" in repr(given) else 1),
            module=net,
            optimizer=SGD([net.A, net.B], lr=0.1),
            train_data_loader=ResumableLoader(dataset(64, 1), 8, stack),
        )
        lower.config.unroll_steps = lower._unroll_steps = 1
        upper = Upper(
            "upper",
            ProblemConfig(),
            module=gate,
            optimizer=SGD(gate.parameters(), lr=0.0),
            train_data_loader=ResumableLoader(dataset(64, 2), 8, stack),
        )
        engine = BilevelEngine(
            [lower, upper],
            BilevelEngineConfig(train_iters=3),
            {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        )
        engine.run()
        traces.append(
            [
                net.norm.running_mean.clone(),
                net.norm.running_var.clone(),
                net.norm.num_batches_tracked.clone(),
                torch.rand(3),
                torch.tensor([random.random(), np.random.rand()]),
            ]
        )
    for a, b in zip(*traces, strict=True):
        assert torch.equal(a, b)
    assert traces[0][2] == 6  # three lower batches, three upper ones


def test_all_randomness_is_replayed():
    """Python's and NumPy's noise too: exact against the difference of whole runs."""

    class NoisyLower(Lower):
        def training_step(self, batch):
            x, y = batch
            return super().training_step((x * (random.random() + np.random.rand()), y))

    def build(estimator):
        random.seed(0)
        np.random.seed(0)
        return two_levels(estimator, unroll_steps=2, dropout=0.3, classes=(NoisyLower, Upper))

    found = upper_gradient(*build(Unrolled())[::2])
    assert relative_error(found, brute_force(lambda: build(NoHypergradient()))) < 1e-6


def checkpointing(reentrant):
    def prepare(model):
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()

    return prepare


@pytest.mark.parametrize(
    "estimator",
    [
        FiniteDifference(difference="central", epsilon=1e-4),
        FiniteDifference(difference="forward", epsilon=1e-6),
        Unrolled(),
        Unrolled(keep_graph=False),
        Unrolled(product="central_difference", epsilon=1e-4),
        Neumann(iterations=1, alpha=0.1),
        Sama(epsilon=1e-4),
        Alignment(calibrate_every=1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("T1", [1, 2])
def test_gradient_checkpointing_changes_nothing(estimator, T1):
    """Activations are recomputed in the backward pass: at the weights of that pass, too."""
    found = [
        upper_gradient(
            *two_text_levels(
                estimator,
                unroll_steps=T1,
                steps=2,
                dtype=torch.float64,
                prepare=prepare,
                upper_optimizer=lambda p: SGD(p, lr=1.0),
            )[::2]
        )
        for prepare in (lambda model: None, checkpointing(reentrant=False))
    ]
    assert relative_error(found[1], found[0]) < 1e-9


def test_checkpointing_with_fused_attention():
    """What is computed again must come out of the kernel of the first time."""
    found = [
        upper_gradient(
            *two_text_levels(
                Unrolled(),
                unroll_steps=2,
                dtype=torch.float64,
                dropout=0.0,
                attention="sdpa",
                prepare=prepare,
            )[::2]
        )
        for prepare in (lambda model: None, checkpointing(reentrant=False))
    ]
    assert relative_error(found[1], found[0]) < 1e-9


@pytest.mark.parametrize(
    "estimator",
    [
        FiniteDifference(),
        Unrolled(),
        Neumann(),
        ConjugateGradient(),
        Sama(),
        Alignment(),
        Alignment(calibrate_every=0),
    ],
    ids=repr,
)
def test_reentrant_checkpointing_is_refused(estimator):
    with pytest.raises(UserError, match=r'gradient_checkpointing_kwargs=\{"use_reentrant": False'):
        two_text_levels(estimator, prepare=checkpointing(reentrant=True))


def test_sdpa_attention_equals_eager():
    """torch's fused kernels have no double backward: the math kernel is chosen where needed."""
    found = [
        upper_gradient(
            *two_text_levels(
                Unrolled(), attention=kind, dtype=torch.float64, dropout=0.0, unroll_steps=2
            )[::2]
        )
        for kind in ("eager", "sdpa")
    ]
    assert relative_error(found[1], found[0]) < 1e-9


@pytest.mark.parametrize("cls", [Unrolled, Neumann, ConjugateGradient])
def test_attention_without_double_backward(cls):
    """Refused where it is demanded; a central difference where the choice is left open."""

    def pretend(model):
        model.get_base_model().config._attn_implementation = "flash_attention_2"

    with pytest.raises(UserError, match=r"double_backward.*eager or sdpa.*central_difference"):
        two_text_levels(cls(product="double_backward"), prepare=pretend)
    _, lower, _ = two_text_levels(cls(), prepare=pretend)
    assert not lower.recorder.needs.double_backward
    assert not lower.recorder.needs.graph


@pytest.mark.parametrize("T1", [1, 3])
def test_the_masks_replayed_are_those_of_the_latest_step(T1):
    errors = []

    def look(vector, lower, upper, answer):
        exact = mixed_product(lower, upper, lower.recorded.steps[-1].weights, vector)
        errors.append(relative_error(flat(answer), flat(exact)))

    engine, *_ = two_text_levels(
        Spy(FiniteDifference(difference="central", epsilon=1e-4), look),
        unroll_steps=T1,
        steps=3,
        dtype=torch.float64,
    )
    engine.run()
    assert len(errors) == 3
    assert max(errors) < 1e-5


def test_configuration_is_checked():
    for options, words in [
        ({"unroll_steps": 0}, "unroll_steps must be a whole number, 1 or more, got 0"),
        ({"steps": 0}, "steps must be a whole number, 1 or more, got 0"),
        ({"gradient_accumulation": 0}, "gradient_accumulation must be a whole number, 1"),
        ({"warmup_steps": -1}, "warmup_steps must be a whole number, 0 or more"),
        ({"gradient_clipping": -1.0}, "gradient_clipping must be 0"),
    ]:
        with pytest.raises(UserError, match=words):
            ProblemConfig(**options)
    with pytest.raises(UserError, match="unknown precision 'fp8'"):
        two_levels(Unrolled(), lower_options={"precision": "fp8"})
    assert issubclass(UpperProblem, type(LowerProblem).__mro__[-1])
