"""One level: gradients, accumulation, replay without traces, kernels, precision, refusals."""

import random

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from toys import (
    STRICT,
    Gate,
    Lower,
    LowerText,
    Net,
    Recorder,
    Spy,
    Upper,
    UpperText,
    brute_force,
    cosine,
    dataset,
    flat,
    mixed_product,
    relative_error,
    stack,
    two_levels,
    two_text_levels,
    upper_gradient,
)

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

pytestmark = STRICT

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


def alone(module, step, options=None, loader=None, optimizer=None, steps=1):
    """A one-problem engine with ``step(problem, batch)`` as the loss."""

    class Alone(LowerProblem):
        def training_step(self, batch):
            return step(self, batch)

    problem = Alone(
        "alone",
        ProblemConfig(**(options or {})),
        module=module,
        optimizer=optimizer or SGD(module.parameters(), lr=0.1),
        train_data_loader=loader
        if loader is not None
        else ResumableLoader(dataset(32, 0), 4, stack),
    )
    return BilevelEngine([problem], BilevelEngineConfig(train_iters=steps)), problem


def classify(problem, batch):
    x, y = batch
    return nn.functional.cross_entropy(problem.module(x), y)


def linear(bias=True):
    torch.manual_seed(0)
    return nn.Linear(4, 3, bias=bias, dtype=torch.float64)


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize("clipping", [0.0, 0.05])
def test_accumulation_equals_the_big_batch(clipping):
    ends = []
    for gas, size in ((1, 12), (3, 4)):
        loader = ResumableLoader(dataset(48, 0), size, stack, shuffle=False)
        options = {"gradient_accumulation": gas, "gradient_clipping": clipping}
        module = linear()
        engine, _ = alone(module, classify, options, loader, steps=4)
        engine.run()
        ends.append(flat(module.parameters()))
    assert torch.allclose(*ends, rtol=1e-12, atol=1e-14)


def test_clipping_is_by_the_global_norm():
    module, reference = linear(), linear()
    engine, _ = alone(module, classify, {"gradient_clipping": 0.05})
    (batch,) = [next(iter(ResumableLoader(dataset(32, 0), 4, stack)))]
    engine.run()
    classify(type("P", (), {"module": reference}), batch).backward()
    assert nn.utils.clip_grad_norm_(reference.parameters(), 0.05) > 0.05
    SGD(reference.parameters(), lr=0.1).step()
    assert torch.allclose(flat(module.parameters()), flat(reference.parameters()), rtol=1e-12)


def test_equal_gradients_are_not_clipped_twice():
    """Autograd hands out one tensor for two parameters that enter only by their sum."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.b = nn.Parameter(torch.ones(3, dtype=torch.float64))

    module = Sum()
    norm = 6**0.5  # of (1, 1, 1, 1, 1, 1)
    engine, _ = alone(
        module, lambda p, batch: (p.module.a + p.module.b).sum(), {"gradient_clipping": norm / 2}
    )
    engine.run()
    for p in (module.a, module.b):
        assert torch.allclose(p.detach(), torch.full((3,), 1 - 0.1 / 2, dtype=p.dtype), rtol=1e-5)


def test_scheduler_steps_once_per_optimiser_step():
    module = linear()
    optimizer = SGD(module.parameters(), lr=1.0)
    engine, problem = alone(
        module, classify, {"gradient_accumulation": 3, "unroll_steps": 2}, optimizer=optimizer
    )
    problem.scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    engine.run()
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert problem.count == 6


@pytest.mark.parametrize("maximize", [False, True])
def test_maximize_ascends(maximize):
    module = linear()
    engine, problem = alone(module, classify, {"maximize": maximize}, steps=40)
    engine.train_iters = 1
    engine.run()
    first = problem.last_loss
    engine.train_iters = 40
    engine.run()
    assert (problem.last_loss > first) == maximize


def test_loss_may_come_in_a_mapping():
    module = linear()
    engine, problem = alone(
        module, lambda p, b: {"loss": classify(p, b), "accuracy": torch.tensor(0.5)}
    )
    engine.run()
    assert problem.last_stats["accuracy"] == 0.5
    assert problem.last_loss.dim() == 0
    assert not problem.last_loss.requires_grad


def test_batches_are_moved_and_may_be_batch_encodings():
    engine, lower, _ = two_text_levels(NoHypergradient())
    first = next(iter(lower.train_data_loader[0]))
    assert isinstance(first, transformers.BatchEncoding)  # what the loader gives
    engine.run()
    assert set(lower.cur_batch) == {"input_ids", "labels", "attention_mask"}


def test_a_loss_may_take_its_batch_apart():
    """``batch.pop("labels")``, as many a Trainer does; the batch is needed again for the replay."""

    class Popping(LowerText):
        def training_step(self, batch):
            labels = batch.pop("labels")
            logits = self.module(**batch).logits
            return nn.functional.cross_entropy(logits, labels)

    found = [
        upper_gradient(*two_text_levels(Unrolled(), unroll_steps=2, classes=(cls, UpperText))[::2])
        for cls in (LowerText, Popping)
    ]
    assert relative_error(*found) < 1e-5


def test_an_empty_loader_is_said():
    engine, _ = alone(linear(), classify, loader=[])
    with pytest.raises(UserError, match="data loader of problem 'alone' is empty"):
        engine.run()


# ------------------------------------------------------------------ parameters


def test_frozen_parameters_stay():
    engine, lower, _ = two_levels(Unrolled(), optimizer=lambda p: AdamW(p, lr=0.1), steps=3)
    frozen, trained = lower.module.frozen.detach().clone(), lower.module.A.detach().clone()
    engine.run()
    assert torch.equal(lower.module.frozen, frozen)
    assert not torch.equal(lower.module.A, trained)
    assert all(p is not lower.module.frozen for p in lower.trainable_parameters())
    assert lower.trainable_parameters() is lower.trainable_parameters()


def test_nothing_to_train_is_said():
    module = linear().requires_grad_(False)
    with pytest.raises(UserError, match="'alone' has no parameter that requires a gradient"):
        alone(module, classify)


def test_parameters_outside_the_module_are_refused():
    class Elsewhere(Lower):
        def configure_optimizer(self):
            raise AssertionError

    engine, _, _ = two_levels(
        Unrolled(),
        optimizer=lambda p: SGD([*p, nn.Parameter(torch.zeros(2, dtype=torch.float64))], lr=0.1),
    )
    with pytest.raises(UserError, match="1 of the 3 trainable parameters are not in"):
        engine.run()


class Regularised(Lower):
    """Reads its parameters from its own list, not from the module."""

    def training_step(self, batch):
        loss = super().training_step(batch)
        strength = self.upper.module.logits.exp().sum()
        return loss + 0.1 * strength * sum(p.pow(2).sum() for p in self.trainable_parameters())


@pytest.mark.parametrize("T1", [1, 2])
@pytest.mark.parametrize("keep", [True, False])
def test_a_loss_may_read_trainable_parameters(keep, T1):
    options = {"classes": (Regularised, Upper), "unroll_steps": T1, "dropout": 0.3}
    found = upper_gradient(*two_levels(Unrolled(keep_graph=keep), **options)[::2])
    expected = brute_force(lambda: two_levels(NoHypergradient(), **options))
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize(
    "estimator",
    [Unrolled(), Unrolled(keep_graph=False), FiniteDifference(difference="central"), Neumann()],
)
def test_parameters_read_past_the_module_are_found_out(estimator):
    """A loss that keeps its own reference to a parameter cannot be replayed at other weights."""

    class Hoarder(Lower):
        def training_step(self, batch):
            self.mine = getattr(self, "mine", None) or [self.module.A]
            return super().training_step(batch) + self.mine[0].pow(2).sum()

    engine, lower, _ = two_levels(estimator, classes=(Hoarder, Upper))
    lower.mine = [lower.module.A]
    with pytest.raises(UserError, match=r"'lower'.*reads .*parameter.*self\.module"):
        engine.run()


def test_upper_parameters_read_past_the_module_are_found_out():
    class Hoarder(Lower):
        def training_step(self, batch):
            return super().training_step(batch) + self.theirs.pow(2).sum() * self.module.A.sum()

    engine, lower, upper = two_levels(FiniteDifference(), classes=(Hoarder, Upper))
    lower.theirs = upper.module.logits
    with pytest.raises(UserError, match=r"'upper'.*reads .*parameter"):
        engine.run()


# ------------------------------------------------------------------ replay

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


# ------------------------------------------------------------------ kernels and checkpointing


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
    assert not lower._needs.double_backward
    assert not lower._needs.graph


# ------------------------------------------------------------------ precision


def test_bf16_on_the_cpu():
    """Autocast, fp32 parameters and gradients, the exact term to bf16's accuracy."""
    cosines = {}
    seen = set()

    class Watched(LowerText):
        def training_step(self, batch):
            output = self.module(**batch)
            seen.add(output.logits.dtype)
            self.state_at_loss = None
            return output.loss

    reference = {}
    for precision in ("fp32", "bf16"):
        for name, estimator in (
            ("direct", NoHypergradient()),
            ("fd", FiniteDifference()),
            ("unrolled", Unrolled()),
        ):
            engine, lower, upper = two_text_levels(
                estimator,
                dropout=0.0,
                optimizer=lambda p: SGD(p, lr=0.3),
                classes=(Watched, UpperText),
                lower_options={"precision": precision},
                upper_options={"precision": precision},
            )
            reference[precision, name] = upper_gradient(engine, upper)
            assert all(p.dtype == torch.float32 for p in lower.trainable_parameters())
    for name in ("fd", "unrolled"):
        a, b = (reference[p, name] - reference[p, "direct"] for p in ("bf16", "fp32"))
        cosines[name] = cosine(a, b)
    print("bf16 against fp32, cosine of the implicit term:", cosines)
    assert seen == {torch.float32, torch.bfloat16}
    assert min(cosines.values()) > 0.98


def test_fp16_scales_and_skips_overflows():
    """The loss scale cancels in gradients and implicit terms; a skipped step is no step."""
    found = []
    for precision in ("fp32", "fp16"):
        engine, lower, upper = two_text_levels(
            Unrolled(keep_graph=False),
            dropout=0.0,
            unroll_steps=2,
            optimizer=lambda p: SGD(p, lr=0.1),
            upper_optimizer=lambda p: SGD(p, lr=0.0),
            lower_options={"precision": precision},
        )
        recorder = Recorder(upper)
        engine.run()
        found.append(flat(recorder.grads[0]))
        applied = [step.applied for step in lower.window.steps]
    assert applied == [True, True]
    assert relative_error(found[1], found[0]) < 0.05

    terms = []
    engine, lower, _ = two_text_levels(
        Spy(Unrolled(), lambda *given: terms.append(flat(given[-1]))),
        unroll_steps=2,
        lower_options={"precision": "fp16"},
        optimizer=lambda p: SGD(p, lr=0.1),
    )
    lower.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = flat(lower.trainable_parameters())
    engine.run()
    assert [step.applied for step in lower.window.steps] == [False, False]
    assert torch.equal(flat(lower.trainable_parameters()), before)
    assert len(terms) == 1
    assert torch.equal(terms[0], torch.zeros_like(terms[0]))


# ------------------------------------------------------------------ masks


@pytest.mark.parametrize("T1", [1, 3])
def test_the_masks_replayed_are_those_of_the_latest_step(T1):
    errors = []

    def look(vector, lower, upper, answer):
        exact = mixed_product(lower, upper, lower.window.steps[-1].weights, vector)
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
        ({"unroll_steps": 0}, "unroll_steps must be 1 or more, got 0"),
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        ({"gradient_accumulation": 0}, "gradient_accumulation must be 1 or more"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more"),
        ({"gradient_clipping": -1.0}, "gradient_clipping must be 0"),
    ]:
        with pytest.raises(UserError, match=words):
            ProblemConfig(**options)
    with pytest.raises(UserError, match="unknown precision 'fp8'"):
        two_levels(Unrolled(), lower_options={"precision": "fp8"})
    assert issubclass(UpperProblem, type(LowerProblem).__mro__[-1])
