"""Source weights: their equation, their hypergradient against whole runs, and their resumption."""

import dataclasses

import pytest
import torch

from bilevel import UserError
from bilevel.data import INDEX
from bilevel.hypergradient import Alignment, NoHypergradient, Unrolled
from problems import OptimizerSettings, SourceWeights
from problems.common.weighted import weighted_mean
from problems.source_weights.levels import DRAWN_AT, DrawnBatches, SourceLogits
from tests.problems.jobs import ExactJob, SmallJob, engine_of, make_data, train
from tests.problems.resuming import Interrupted, Resumed, _StoppedError

H = 1e-5


def sourced(data, names=("a", "b", "c")):
    """The data with sources of unequal size, c with flipped labels, and a validation split."""
    sources = [names[0] if i % 4 < 2 else names[i % 4 - 1] for i in range(len(data.examples))]
    rows = [
        {**row, "labels": 1 - row["labels"]} if source == names[2] else row
        for row, source in zip(data.examples, sources, strict=True)
    ]
    trusted = make_data(16, seed=5).examples
    return dataclasses.replace(data, examples=rows, sources=sources, validation=trusted)


class Exact(ExactJob):
    """In float64, of three sources; keeps what the upper level steps with."""

    def __init__(self, *args, start=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.data = sourced(self.data)
        self.start = torch.zeros(3) if start is None else start
        self.gradients = []

    def run(self, training):
        _, upper = training.problems
        upper.module.double()
        upper.module.theta.data = self.start.double()
        self.losses_seen = []

        def keep(problem, loss):
            theta = problem.module.theta
            self.gradients.append(torch.zeros(3) if theta.grad is None else theta.grad.clone())
            self.losses_seen.append(float(loss))

        upper.gradient_hooks.append(keep)
        torch.manual_seed(99)
        return super().run(training)


START = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)


def first_step(method, estimator, theta):
    """The upper level's loss and gradient after T1 lower steps at ``theta``."""
    job = Exact(estimator, n=64, max_steps=1, start=theta)
    train(method, job)
    return job.losses_seen[0], job.gradients[0]


# Adam's first step hardly depends on its gradient's size, so a large eps lets something be seen.
STEPS = {
    "sgd": OptimizerSettings("sgd", lr=0.5, warmup_ratio=0.0),
    "adamw": OptimizerSettings("adamw", lr=0.05, eps=1e-2, weight_decay=0.1, warmup_ratio=0.0),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("T1", [1, 3])
def test_the_hypergradient_is_the_difference_of_whole_runs(T1, steps):
    """Within 1e-5 of a central difference (h = 1e-5) of T1 steps; its direct part is none."""
    method = SourceWeights(rank=2, unroll_steps=T1, lower=STEPS[steps])
    expected = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        shift = H * torch.eye(3, dtype=torch.float64)[i]
        above, below = (
            first_step(method, NoHypergradient(), START + sign * shift)[0] for sign in (1, -1)
        )
        expected[i] = (above - below) / (2 * H)
    found = first_step(method, Unrolled(), START)[1]
    assert expected.norm() > 1e-4
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert float(found.sum()) == pytest.approx(0, abs=1e-12)  # softmax: what one gains others lose
    assert not first_step(method, NoHypergradient(), START)[1].any()


def test_drawing_has_the_gradient_that_the_weighted_loss_has():
    """On the batches that were drawn: importance weights, 1 in value, with w's derivative."""
    method = SourceWeights(rank=2, sampling="draw")
    job = Exact(Unrolled(), n=64, start=START, max_steps=1)
    torch.manual_seed(0)
    training = method.prepare(job, None)
    lower, upper = training.problems
    upper.module.double()
    upper.module.theta.data = START.clone()
    engine_of(training)  # the problems find each other
    batch = next(iter(lower.train_data_loader[0]))
    batch[DRAWN_AT] = upper.module.relative(batch[INDEX]).detach()
    lower.module.eval()
    loss = lower.training_step(batch)
    (found,) = torch.autograd.grad(loss, upper.module.theta)
    seen = {k: v for k, v in batch.items() if k not in (INDEX, DRAWN_AT)}
    each, _ = job.example_losses(lower.module(**seen), seen)
    assert float(loss.detach()) == pytest.approx(float(each.mean()), abs=1e-12)
    # d log w_s / d theta_t = [s = t] - p_t, in covariance with the losses
    p = START.softmax(0)
    at = torch.eye(3, dtype=torch.float64)[upper.module.source[batch[INDEX]]]
    expected = ((at - p) * (each - each.mean())[:, None]).mean(0).detach()
    assert (found - expected).norm() < 1e-12


@pytest.mark.parametrize("there", ["b", "ac", "abc"])
def test_a_source_without_a_part_in_a_drawn_batch_has_a_gradient_of_exactly_0(there):
    """In fp32, in which a sum that cancels does not; Adam would make a step of what is left."""
    torch.manual_seed(0)
    sources = [there[i % len(there)] for i in range(17)]
    logits = SourceLogits("abc", sources)
    logits.theta.data = START.float()
    totals = torch.rand(17) * 3
    loss = weighted_mean(totals, torch.ones(17), logits.relative(torch.arange(17)))
    (found,) = torch.autograd.grad(loss, logits.theta)
    counts = [name in there and len(there) > 1 for name in "abc"]
    assert found.bool().tolist() == counts
    # by the definition: w = S softmax(theta), in float64
    theta = START.clone().requires_grad_()
    weights = 3 * theta.softmax(0)[["abc".index(name) for name in sources]]
    exact = (weights * totals).sum() / weights.sum()
    assert float(loss) == pytest.approx(float(exact), rel=1e-6)
    assert (found - torch.autograd.grad(exact, theta)[0]).abs().max() < 1e-6


def test_at_the_start_the_loss_is_the_models_own():
    method = SourceWeights(rank=2)
    job = Exact(Unrolled(), n=64)
    training = method.prepare(job, None)
    training.problems[1].module.double()
    engine_of(training)
    lower = training.problems[0]
    lower.module.eval()
    batch = next(iter(lower.train_data_loader[0]))
    seen = {k: v for k, v in batch.items() if k != INDEX}
    own = float(lower.module(**seen).loss)
    assert float(lower.training_step(batch)) == pytest.approx(own, abs=1e-12)


def test_batches_are_drawn_by_the_weights_of_the_moment():
    sources = ["a", "b"] * 50
    logits = SourceLogits(["a", "b"], sources)
    loader = DrawnBatches(
        [{"x": i} for i in range(100)],
        10,
        lambda rows: {"x": torch.tensor([row["x"] for row in rows])},
        logits=logits,
    )
    batches = iter(loader)
    first = next(batches)
    assert sum(sources[i] == "a" for i in first[INDEX].tolist()) == 5
    logits.theta.data = torch.tensor([1.0, 1.0 - torch.tensor(9.0).log().item()])
    second = next(batches)
    assert sum(sources[i] == "a" for i in second[INDEX].tolist()) == 9
    assert torch.equal(second["x"], second[INDEX])
    assert second[DRAWN_AT].tolist() == pytest.approx(
        [1.8 if sources[i] == "a" else 0.2 for i in second[INDEX].tolist()]
    )


@pytest.mark.parametrize("sampling", ["loss", "draw"])
@pytest.mark.parametrize("roll_back", [False, True])
def test_resumes_to_the_same_bits(sampling, roll_back, tmp_path):
    method = SourceWeights(rank=2, sampling=sampling, roll_back=roll_back, unroll_steps=2)

    def with_sources(kind, *args):
        job = kind(*args)
        job.data = sourced(job.data)
        return job

    whole = train(method, with_sources(SmallJob))
    with pytest.raises(_StoppedError):
        train(method, with_sources(Interrupted, tmp_path / "state", 2))
    torch.manual_seed(99)
    resumed = train(method, with_sources(Resumed, tmp_path / "state"))
    ours, theirs = (dict(o.model.named_parameters()) for o in (resumed, whole))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert resumed.source_weights == whole.source_weights
    assert set(whole.source_weights) == {"a", "b", "c"}
    assert sum(whole.source_weights.values()) == pytest.approx(1)
    assert whole.source_weights["a"] != pytest.approx(1 / 3, abs=1e-4)  # it has moved


def test_a_part_of_the_trusted_source_is_d_val():
    job = SmallJob(n=64)
    job.data = dataclasses.replace(sourced(job.data), validation=None)
    logits = SourceLogits(["a", "b", "c"], job.data.sources)
    parts = SourceWeights(trusted="a", split=0.75).weighted_parts(job, logits)
    of_a = [
        row for row, name in zip(job.data.examples, job.data.sources, strict=True) if name == "a"
    ]
    assert parts.sizes == {"train": 64 - 8, "validation": 8}
    assert all(any(row is other for other in of_a) for row in parts.validation)
    trained = [job.data.examples[i] for i in parts.lower.indices]
    assert not any(row is other for row in trained for other in parts.validation)


def test_a_small_d_val_is_one_batch():
    job = SmallJob(n=64)
    job.data = dataclasses.replace(sourced(job.data), validation=job.data.examples[:3])
    logits = SourceLogits(["a", "b", "c"], job.data.sources)
    assert SourceWeights().weighted_parts(job, logits).upper.batch_size == 3


TWO = {"clean": 10, "web": 10}


@pytest.mark.parametrize(
    ("options", "call", "said"),
    [
        ({"split": 0.5}, None, r"method\.split.*trusted"),
        ({"trusted": "a"}, None, r"method\.trusted=a needs method\.split"),
        ({}, lambda m: m.check_sources(None, False), "none.*source_column"),
        ({}, lambda m: m.check_sources({"a": 9}, False), "one, 'a'"),
        ({}, lambda m: m.check_sources(TWO, True), r"task\.source_weights"),
        (
            {"trusted": "claen", "split": 0.5},
            lambda m: m.check_sources(TWO, False),
            r"no source.*did you mean 'clean'",
        ),
        (
            {"trusted": "a", "split": 0.5},
            lambda m: m.check_sources({"a": 3, "b": 9}, False),
            "4 or more",
        ),
        ({}, lambda m: m.check_validation(0, 8), r"trusted.*method\.trusted"),
        ({}, lambda m: m.check_drawn_validation(), r"task\.trusted.*all sources.*trusted_file"),
        (
            {},
            lambda m: m.check_steps(99, SmallJob(label_smoothing=0.1).settings),
            "label_smoothing",
        ),
        ({}, lambda m: m.check_hypergradient(NoHypergradient()), "none would leave .*unrolled"),
        ({}, lambda m: m.check_hypergradient(Alignment()), "alignment needs gated .*unrolled"),
    ],
)
def test_what_is_refused(options, call, said):
    with pytest.raises(UserError, match=said):
        call(SourceWeights(**options)) if call else SourceWeights(**options)


def test_a_trusted_source_may_be_a_number():
    assert SourceWeights(trusted=2020, split=0.5).trusted == "2020"
