"""Learned settings: exact against whole runs, the plain loss above, a closed form, a round trip."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from bilevel import BilevelEngine, BilevelEngineConfig, ProblemConfig, UserError
from bilevel.evaluation import draws_masks, evaluating
from bilevel.hypergradient import FiniteDifference, NoHypergradient, Unrolled
from bilevel.settings import from_values, plain
from problems import common
from problems.learned_settings import LearnedSettings, Variables
from problems.learned_settings.groups import groups_of
from problems.learned_settings.starts import Starts
from problems.lora import LoRA
from problems.lora_settings import ModuleSettings, SetFineTuning
from problems.lora_settings.model import GaussianDropout
from tests.bilevel.toys import flat, relative_error
from tests.problems.jobs import ExactJob, SmallJob, collate, engine_of, train

EVERY = (
    *("decay", "learning_rate", "weight_decay", "scale", "dropout", "label_smoothing"),
    "temperature",
)
MODULES = [
    f"bert.encoder.layer.{i}.attention.self.{kind}" for i in (0, 1) for kind in ("query", "value")
]


class Job(ExactJob):
    """With factors that are not zero, so that every setting matters from the first step on."""

    def build_model(self):
        model = super().build_model()
        model.config.hidden_dropout_prob = 0.1
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
        return model


def searched(estimator, T1=4, learn=EVERY, granularity="kind", shift=None):
    """Both problems after a window of T1 steps of AdamW, E moved by ``shift`` before it; dL2/dE."""
    job = Job(estimator, n=64, lr=2e-2)
    torch.manual_seed(0)
    method = LearnedSettings(rank=2, learn=learn, granularity=granularity, unroll_steps=T1)
    training = method.search(job, None)
    lower, upper = training.problems
    upper.module.double()
    for name, parameter in lower.module.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.double()
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
        elif "classifier" in name:
            parameter.data = parameter.data.double()
    for group in upper.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 0.0
    upper.scheduler = None
    if shift is not None:
        place, index, size = shift
        with torch.no_grad():
            upper.module.raw[place][index] += size
    found = []
    upper.gradient_hooks.append(
        lambda problem, loss: found.append(
            {
                n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for n, p in problem.module.raw.items()
            }
        )
    )
    torch.manual_seed(5)
    engine_of(training, steps=1).run()
    return lower, upper, found[0]


def test_unrolled_is_exact():
    """Every setting of every group, within 1e-6 of a central difference of the whole run."""
    found = searched(Unrolled())[2]
    h = 1e-5
    for name, gradient in found.items():
        expected = torch.zeros_like(gradient)
        for i in range(len(gradient)):
            plus, minus = (
                searched(NoHypergradient(), shift=(name, i, s))[1].last_loss for s in (h, -h)
            )
            expected[i] = (plus - minus) / (2 * h)
        assert expected.abs().min() > 0, name
        assert relative_error(gradient, expected) < 1e-6, name


def test_scale_and_temperature_have_a_direct_partial_and_nothing_else_has():
    """At fixed weights: within 1e-6 of a difference of L2; zero for what stands in L1 alone."""
    _, upper, direct = searched(NoHypergradient())
    batch = upper.cur_batch
    for name, gradient in direct.items():
        if name not in ("scale", "temperature"):
            assert not gradient.any(), name
            continue
        for i in range(len(gradient)):
            losses = []
            for size in (1e-5, -1e-5):
                with torch.no_grad():
                    upper.module.raw[name][i] += size
                    losses.append(upper.loss(batch))
                    upper.module.raw[name][i] -= size
            difference = (losses[0] - losses[1]) / 2e-5
            assert float(gradient[i]) == pytest.approx(float(difference), rel=1e-6)
            assert gradient[i] != 0


def test_the_upper_loss_is_the_plain_one_in_evaluation_mode():
    lower, upper, _ = searched(NoHypergradient())
    batch = collate(list(lower.train_data_loader[0].dataset[:8]))
    assert lower.module.training
    with evaluating(lower.module), torch.no_grad():
        outputs = lower.module(**batch)
    plain_loss = functional.cross_entropy(outputs.logits, batch["labels"])
    assert lower.module.training
    for _ in range(2):  # no dropout: the same twice
        torch.testing.assert_close(upper.loss(batch).detach(), plain_loss, rtol=1e-12, atol=0)
    with torch.no_grad():
        for name in ("decay", "learning_rate", "weight_decay", "dropout", "label_smoothing"):
            upper.module.raw[name] += 1.0
    torch.testing.assert_close(upper.loss(batch).detach(), plain_loss, rtol=1e-12, atol=0)
    first, second = lower.loss(batch), lower.loss(batch)
    assert abs(float(first - second)) > 1e-6  # the lower one has dropout


def test_what_is_found_is_what_lora_is_given():
    method = LearnedSettings(rank=2, learn=EVERY, unroll_steps=2, patience=0)
    job = SmallJob(Unrolled(), epochs=2)
    outcome = train(method, job)
    assert job.stages == ["search", "train"]
    settings = from_values(ModuleSettings, outcome.lora["settings"], "settings")
    assert settings.names() == list(EVERY)
    assert set(settings.decay) == set(MODULES)
    assert set(settings.learning_rate) == {*MODULES, "head"}
    assert all(value != 1 for value in settings.learning_rate.values())
    assert set(settings.weight_decay) == {*MODULES, "head"}
    again = from_values(LoRA, outcome.lora, "method")
    assert plain(again.settings) == plain(settings)
    (problem,) = job.runs[1]["problems"]
    assert problem.values == replace(settings, scale={})
    assert len(problem.train_data_loader[0].indices) == len(job.data.examples)
    again.check_model(job.build_model(), MODULES)


class StoppedJob(SmallJob):
    """Says that each stage was best at its second step."""

    def run(self, training):
        super().run(training)
        self.patience = [*getattr(self, "patience", []), training.patience]
        return {"validation_loss": 0.5, "kept_step": 2}


@pytest.mark.parametrize(("split", "fewer", "held_out"), [(0.75, 36, 12), (None, 48, 0)])
def test_the_passes_are_those_of_the_best_on_held_out_data(split, fewer, held_out):
    job = StoppedJob(Unrolled(), epochs=3)
    job.data = replace(job.data, validation=job.data.examples[:16])
    outcome = train(LearnedSettings(rank=2, split=split, patience=2), job)
    assert job.stages == ["search", "stop", "train"]
    assert job.patience == [None, 2, None]
    _, stop, last = job.runs
    assert len(stop["validation"]) == held_out
    for run, examples in ((stop, fewer), (last, 48)):
        (problem,) = run["problems"]
        assert len(problem.train_data_loader[0].indices) == examples
        assert set(problem.values.decay) == set(MODULES)
    # Two steps of the 4 or 6 that a pass over D_train has, in passes over all, of 6 steps.
    assert stop["steps"] == 3 * (4 if split else 6)
    assert last["steps"] == (3 if split else 2)
    assert outcome.validation_trained_on


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("module", MODULES),
        ("kind", ["attention.self.query", "attention.self.value"]),
        ("layer", ["bert.encoder.layer.0", "bert.encoder.layer.1"]),
        ("all", ["all"]),
    ],
)
def test_groups(granularity, expected):
    groups = groups_of(MODULES, granularity)
    assert list(groups) == MODULES
    assert list(dict.fromkeys(groups.values())) == expected
    variables = Variables(("learning_rate", "weight_decay", "decay"), groups, True, Starts())
    assert variables.labels("learning_rate") == [*expected, "head"]
    assert variables.labels("weight_decay") == [*expected, "head"]
    assert variables.labels("decay") == expected
    for module in MODULES:
        assert float(variables.of("decay", module)) == pytest.approx(1e-3)
    assert variables.of("decay", "head") is None
    assert variables.of("scale", MODULES[0]) is None


def test_values_start_where_they_should_and_stay_in_bounds():
    starts = Starts(dropout=0.2, temperature=3.0, scale=0.5)
    variables = Variables(EVERY, groups_of(MODULES, "kind"), True, starts)
    learned = variables.learned()
    assert learned.dropout[MODULES[0]] == pytest.approx(0.2)
    assert (learned.temperature, learned.scale[MODULES[1]]) == pytest.approx((3.0, 0.5))
    with torch.no_grad():
        for raw in variables.raw.values():
            raw.fill_(-30.0)
    assert all(0 <= v < 1e-6 for v in variables.learned().dropout.values())
    with torch.no_grad():
        variables.raw["dropout"].fill_(30.0)
    assert max(variables.learned().dropout.values()) <= 0.5


@pytest.mark.parametrize("estimator", [NoHypergradient(), FiniteDifference()])
@pytest.mark.parametrize("setting", ["learning_rate", "weight_decay"])
def test_an_estimator_that_cannot_learn_settings_of_steps(estimator, setting):
    with pytest.raises(UserError, match=rf"hypergradient={estimator.name}.*unrolled"):
        LearnedSettings(learn=(setting,)).check_hypergradient(estimator)


def test_others_can_learn_what_stands_in_the_loss():
    method = LearnedSettings(rank=2, learn=("decay",))
    method.check_hypergradient(FiniteDifference())
    outcome = train(method, SmallJob(FiniteDifference()))
    assert len(set(outcome.lora["settings"]["decay"].values())) == len(MODULES)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"learn": ()}, "learn"),
        ({"learn": ("decay", "decay")}, "twice"),
        ({"learn": ("decays",)}, "learn"),
        ({"learn": ("dropout",), "lora_dropout": 0.1}, "lora_dropout"),
    ],
)
def test_wrong_names(options, word):
    with pytest.raises(UserError, match=word):
        LearnedSettings(**options)


# ---------------------------------------------------------------- a closed form


class Linear(nn.Module):
    """y = W x, W = 0 frozen; PEFT's update of rank 1, with B = 1, makes ridge regression of it."""

    def __init__(self, inputs):
        super().__init__()
        self.map = nn.Linear(inputs, 1, bias=False)
        nn.init.zeros_(self.map.weight)

    def forward(self, x, y):
        return SimpleNamespace(loss=functional.mse_loss(self.map(x)[:, 0], y))


class Whole:
    """The same batch for ever: a quadratic problem."""

    def __init__(self, x, y):
        self.batch = {"x": x, "y": y}

    def __iter__(self):
        while True:
            yield self.batch


def ridge(seed=2):
    """x, y of both levels: 20 noisy examples in 4 dimensions to train on, 100 to choose by."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    truth = draw(4) * 0.5
    found = []
    for n in (20, 100):
        x = draw(n, 4)
        found.append((x, x @ truth + 1.5 * draw(n)))
    return found


def best_decay(train, held_out):
    """argmin over d of L2(w(d)), w(d) = (X'X/n + d I)^-1 X'y/n, by golden section on log d."""
    (x, y), (x2, y2) = train, held_out

    def loss(log):
        d = 10.0**log
        hessian = x.T @ x / len(x) + d * torch.eye(4, dtype=x.dtype)
        w = torch.linalg.solve(hessian, x.T @ y / len(x))
        return float((x2 @ w - y2).square().mean())

    low, high = -4.0, 2.0
    shrink = (5**0.5 - 1) / 2
    while high - low > 1e-9:
        a, b = high - shrink * (high - low), low + shrink * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return 10.0 ** ((low + high) / 2)


def test_the_learned_decay_is_the_optimum_of_a_closed_form():
    """To 1 %, from a twentieth of it, by the method's own levels on PEFT's own LoRA."""
    train_data, held_out = ridge()
    config = LoraConfig(r=1, lora_alpha=1, target_modules=["map"])
    torch.manual_seed(0)
    model = get_peft_model(Linear(4), config).double()
    with torch.no_grad():
        model.base_model.model.map.lora_B["default"].weight.fill_(1.0)
    model.base_model.model.map.lora_B["default"].weight.requires_grad_(False)
    expected = best_decay(train_data, held_out)
    assert 0.1 < expected < 1
    starts = Starts(decay=expected / 20)
    variables = Variables(("decay",), {"map": "all"}, False, starts).double()
    weights = [p for p in model.parameters() if p.requires_grad]
    lower = SetFineTuning(
        "lower",
        ProblemConfig(hypergradient=Unrolled(), unroll_steps=8),
        module=model,
        optimizer=torch.optim.SGD(weights, lr=0.3, momentum=0.2),
        train_data_loader=Whole(*train_data),
        values=variables,
    )
    raw = list(variables.parameters())
    upper = common.EvaluatedHeldOut(
        "upper",
        ProblemConfig(),
        module=variables,
        optimizer=torch.optim.Adam(raw, lr=0.3, betas=(0.8, 0.9)),
        train_data_loader=Whole(*held_out),
    )
    upper.scheduler = torch.optim.lr_scheduler.ExponentialLR(upper.optimizer, 0.94)
    engine = BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(train_iters=80, strategy="cpu"),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    engine.run()
    learned = variables.learned().decay["map"]
    assert learned == pytest.approx(expected, rel=0.01)
    # And the weights are those of the ridge regression with it.
    (x, y) = train_data
    hessian = x.T @ x / len(x) + learned * torch.eye(4, dtype=x.dtype)
    closed = torch.linalg.solve(hessian, x.T @ y / len(x))
    assert relative_error(flat(weights), closed) < 1e-3


@pytest.mark.parametrize("learn", [("decay", "dropout"), ("decay",)])
def test_learned_dropout_draws_where_the_backbone_does_not(learn):
    """So that the processes of a distributed run draw noise of their own."""

    class Still(SmallJob):
        def build_model(self):
            model = super().build_model()
            config = model.config
            config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            return model

    training = LearnedSettings(rank=2, learn=learn).search(Still(), None)
    assert draws_masks(training.problems[0].module) is ("dropout" in learn)
    assert draws_masks(GaussianDropout(lambda: torch.tensor(0.1)))
