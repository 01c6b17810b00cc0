"""BiLoRA: its start, its penalties, its hypergradient, and what it leaves behind."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from peft import PeftModel
from transformers import get_scheduler

from bilevel import UserError
from bilevel.lowrank import export_adapter, gated_layers
from problems.bilora import BiLoRA
from problems.common import OptimizerSettings, trainable
from tests.problems.jobs import ExactJob, SmallJob, collate, logits_of, train
from tests.problems.whole_runs import assert_unrolled_is_exact


def explicit_r1(model):
    """R1 as the paper prints it, matrix by matrix; and the number of matrices."""
    terms = []
    for layer in gated_layers(model).values():
        P, Q = layer.B.detach(), layer.A.detach()
        one = torch.eye(P.shape[1], dtype=P.dtype)
        terms += [((P.T @ P - one) ** 2).sum(), ((Q @ Q.T - one) ** 2).sum()]
    return torch.stack(terms)


@pytest.mark.parametrize(
    "options",
    [{"values": v, "start": "zero"} for v in ("softmax", "real", "binary")]
    + [{"values": "real", "init": 0.0}],
)
def test_the_update_starts_at_zero_where_a_part_of_it_does(options):
    job = SmallJob()
    base = logits_of(job.build_model(), job)
    torch.manual_seed(3)
    model, _ = BiLoRA(rank=4, **options).adapted(job)
    assert torch.equal(logits_of(model, job), base)
    P, Q = next((g.B, g.A) for g in gated_layers(model).values())
    assert bool(P.any()) == ("start" not in options)
    assert Q.any()


@pytest.mark.parametrize(
    ("values", "first"), [("softmax", 1 / 8), ("real", 1 / 16), ("binary", 0.5)]
)
def test_it_starts_as_the_paper_says_it_does(values, first):
    """Softmax values at 1/r, real ones below that; no factor is zero, and R1 weighs something."""
    torch.manual_seed(3)
    method = BiLoRA(rank=8, values=values)
    model, gates = method.adapted(SmallJob())
    assert method.gamma1 > 0
    torch.testing.assert_close(gates.values(), torch.full((4, 8), first))
    drawn = torch.cat([x.flatten() for g in gated_layers(model).values() for x in (g.A, g.B)])
    assert 0.018 < drawn.std() < 0.022
    _, other = BiLoRA(rank=8, values="real", start="zero").adapted(SmallJob())
    assert other.values().eq(1).all()


def test_softmax_values_start_at_one_over_r_and_keep_summing_to_one():
    _, gates = BiLoRA(rank=5).adapted(SmallJob())
    torch.testing.assert_close(gates.values(), torch.full((4, 5), 1 / 5))
    job = SmallJob(epochs=2)
    train(BiLoRA(rank=5, upper=OptimizerSettings(lr=0.1)), job)
    values = job.runs[0]["gates"].values()
    assert (values - 1 / 5).abs().max() > 0.01, "they did not move"
    torch.testing.assert_close(values.sum(1), torch.ones(4))


def test_each_level_owns_its_own_parameters_and_trains_them():
    job = SmallJob()
    outcome = train(BiLoRA(rank=4), job)
    lower, upper = job.runs[0]["problems"]
    names = {id(p): n for n, p in lower.module.named_parameters()}
    owned = {names[id(p)] for p in lower.trainable_parameters()}
    assert all("lora_" in name or "classifier" in name for name in owned)
    assert sum("classifier" in name for name in owned) == 2, "the head belongs to the lower level"
    assert [p is job.runs[0]["gates"].logits for p in upper.trainable_parameters()] == [True]
    assert id(upper.trainable_parameters()[0]) not in names
    assert not torch.equal(upper.module.logits, torch.zeros(4, 4))
    after = dict(lower.module.named_parameters())
    for name, value in job.runs[0]["before"].items():
        assert torch.equal(after[name], value) != (name in owned), name
    assert outcome.trainable_parameters == 4 * 4 * (16 + 16) + 16 * 2 + 2 + 4 * 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda terms: 0.1 * terms.mean()),
        ({"gamma1": 0.3, "r1_reduce": "sum"}, lambda terms: 0.3 * terms.sum()),
        ({"r1_squared": False}, lambda terms: 0.1 * terms.sqrt().mean()),
        ({"gamma1": 0.0}, lambda terms: 0.0 * terms.sum()),
    ],
)
def test_the_lower_loss_has_the_orthogonality_penalty_and_the_upper_has_not(options, expected):
    job = ExactJob(max_steps=3)
    train(BiLoRA(rank=4, **options), job)
    lower, upper = job.runs[0]["problems"]
    batch = collate(list(job.data.examples[:8]))
    task = lower.module(**batch).loss
    terms = explicit_r1(lower.module)
    torch.testing.assert_close(lower.loss(batch) - task, expected(terms), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(upper.loss(batch), task, rtol=0, atol=0)
    watched = job.runs[0]["watch"]()["orthogonality"]
    torch.testing.assert_close(watched.detach(), terms.mean(), rtol=1e-9, atol=0)


def test_the_orthogonality_penalty_makes_the_factors_more_orthogonal():
    ends = []
    for gamma1 in (0.0, 1.0):
        job = SmallJob(epochs=6)
        train(BiLoRA(rank=4, gamma1=gamma1), job)
        ends.append(float(job.runs[0]["watch"]()["orthogonality"]))
    assert ends[1] < 0.5 * ends[0]


def test_penalties_are_in_full_precision():
    job = SmallJob(precision="bf16", max_steps=2)
    train(BiLoRA(rank=4, values="binary"), job)
    lower, upper = job.runs[0]["problems"]
    products = []

    def spy(pairs):
        products.extend(P.T @ P for P, _ in pairs)
        return products[-1].sum()

    lower.penalty = spy
    lower.loss(collate(list(job.data.examples[:8])))
    assert {p.dtype for p in products} == {torch.float32}
    assert lower.precision == upper.precision == "bf16"


def test_the_entropy_penalty_is_on_binary_values_only_and_pushes_them_apart():
    """R2 = - sum(g log g + (1-g) log(1-g)) at 0.6 and 0.4: descent goes up and down."""
    job = ExactJob(max_steps=2)
    train(BiLoRA(rank=4, values="binary", gamma2=0.5), job)
    lower, upper = job.runs[0]["problems"]
    start = torch.logit(torch.tensor([0.6, 0.4, 0.9, 0.5], dtype=torch.float64))
    with torch.no_grad():
        upper.module.logits.copy_(start.expand(4, 4))
    batch = collate(list(job.data.examples[:8]))
    # In the logits' own dtype, which is fp32 like every upper parameter's.
    penalty = upper.loss(batch) - lower.module(**batch).loss
    g = torch.tensor([0.6, 0.4, 0.9, 0.5], dtype=torch.float64)
    expected = -0.5 * 4 * (g * g.log() + (1 - g) * (1 - g).log()).sum()
    torch.testing.assert_close(penalty, expected, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(penalty, upper.module.logits)
    up, down, far, middle = gradient[0].tolist()
    assert up < 0 < down
    assert far < 0
    assert middle == pytest.approx(0, abs=1e-6)

    ends = []
    for gamma2 in (0.0, 1.0):
        job = SmallJob(max_steps=3)
        train(BiLoRA(rank=4, values="softmax", gamma2=gamma2), job)
        ends.append(job.runs[0]["gates"].logits)
    assert torch.equal(*ends)


class Doubled(BiLoRA):
    """With values in float64."""

    def adapted(self, job):
        model, gates = super().adapted(job)
        return model, gates.double()


def plain_run(method, shift, T1):
    """L2 after T1 steps of torch's own AdamW at v + shift, and R2: no engine, no problems."""
    job = ExactJob(n=64)
    torch.manual_seed(0)
    model, gates = method.adapted(job)
    model.train()
    with torch.no_grad():
        gates.logits.add_(shift)
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=T1)
    parts = method.parts(job)
    batches = iter(parts.lower)
    for _ in range(T1):
        loss = model(**next(batches)).loss
        for layer in gated_layers(model).values():
            one = torch.eye(2, dtype=torch.float64)
            for gram in (layer.B.T @ layer.B, layer.A @ layer.A.T):
                loss = loss + method.gamma1 * ((gram - one) ** 2).sum() / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        loss = model(**next(iter(parts.upper))).loss
        g = gates.values()
        if method.values == "binary":
            loss -= method.gamma2 * (g * g.log() + (1 - g) * (1 - g).log()).sum()
    return loss


@pytest.mark.parametrize("T1", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"values": "softmax", "start": "zero"},
        {"values": "real", "start": "zero"},
        {"values": "binary", "init": 0.4, "gamma2": 1e-3},
        {"values": "softmax", "init": 0.2},
    ],
)
def test_the_hypergradient_is_that_of_the_whole_run(options, T1):
    """Of T1 real steps, in float64."""
    lower = OptimizerSettings(
        lr=1e-2, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1, warmup_ratio=0.0
    )
    method = Doubled(rank=2, unroll_steps=T1, lower=lower, **options)
    assert_unrolled_is_exact(method, lambda shift: plain_run(method, shift, T1))


@pytest.mark.parametrize("values", ["softmax", "binary", "real"])
def test_the_adapter_is_plain_lora_for_stock_peft(values, tmp_path):
    job = SmallJob(epochs=2)
    outcome = train(BiLoRA(rank=4, values=values), job)
    assert set(outcome.ranks.values()) == {4}
    assert outcome.keep is None
    trained = logits_of(outcome.model, job)
    report = export_adapter(outcome.model, tmp_path, keep=outcome.keep)
    for folder in (report.adapter, report.compact):
        loaded = PeftModel.from_pretrained(job.build_model(), str(folder))
        torch.testing.assert_close(logits_of(loaded, job), trained, rtol=0, atol=1e-5)
    fresh = logits_of(job.build_model(), job)
    assert not torch.allclose(fresh, trained, atol=1e-3), "there was something to load"


@pytest.mark.parametrize(("values", "bound"), [("real", 1.0), ("softmax", 0.25), ("binary", 0.5)])
def test_pruning_cuts_the_small_components_from_the_saved_adapter(values, bound, tmp_path):
    """The saved adapter is the trained one with the gates below the bound at zero."""
    job = SmallJob(epochs=2)
    method = BiLoRA(
        rank=4, values=values, start="zero", prune_below=bound, upper=OptimizerSettings(lr=0.05)
    )
    outcome = train(method, job)
    gates = job.runs[0]["gates"]
    small = gates.values().detach().abs() < bound
    assert small.any()
    assert not small.all()
    assert list(outcome.ranks.values()) == (~small).sum(1).tolist()
    report = export_adapter(outcome.model, tmp_path, keep=outcome.keep)
    assert report.ranks == outcome.ranks
    assert report.cut > 0
    whole = logits_of(outcome.model, job)
    with torch.no_grad():
        for layer in gated_layers(outcome.model).values():
            layer.A[small[layer.index]] = 0  # a zero gate is a zero row of gate * A
    cut = logits_of(outcome.model, job)
    for folder in (report.adapter, report.compact):
        loaded = PeftModel.from_pretrained(job.build_model(), str(folder))
        torch.testing.assert_close(logits_of(loaded, job), cut, rtol=0, atol=1e-5)
    assert not torch.allclose(whole, cut, atol=1e-4), "the cut changed something"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"values": "sigmoid"}, "values=.*one of"),
        ({"start": "ones"}, "start=.*one of"),
        ({"r1_reduce": "max"}, "r1_reduce=.*one of"),
        ({"gamma1": -1.0}, "gamma1=.*0 or more"),
        ({"gamma2": -0.1}, "gamma2=.*0 or more"),
        ({"prune_below": 0.0}, "prune_below=.*more than 0"),
        ({"prune_below": 1.0}, "prune_below=1.0.*less than 1"),
        ({"prune_below": -1.0, "values": "real"}, "prune_below=.*more than 0"),
        ({"values": "real", "start": "zero", "init": 0.0}, "nothing.*move"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        BiLoRA(**options)


def test_real_values_of_zero_beside_a_zero_factor_would_never_move():
    """Why that is refused: all three gradients are exactly zero, until the factors are drawn."""
    for start, moves in (("zero", False), ("normal", True)):
        job = SmallJob()
        method = partial(BiLoRA, rank=4, values="real", start=start)
        torch.manual_seed(0)
        model, gates = method(init=None).adapted(job)
        with torch.no_grad():
            gates.logits.zero_()
        model(**collate(list(job.data.examples[:8]))).loss.backward()
        layers = gated_layers(model).values()
        gradients = [gates.logits.grad, *(x.grad for g in layers for x in (g.A, g.B))]
        assert any(bool(g.any()) for g in gradients) == moves


@pytest.mark.parametrize(
    ("values", "start", "times"),
    [("softmax", "normal", 4), ("binary", "zero", 2), ("real", "normal", 8), ("real", "zero", 1)],
)
def test_the_learning_rate_makes_up_for_small_first_values(values, start, times):
    def rates(**options):
        job = SmallJob(lr=1e-3)
        train(BiLoRA(rank=4, values=values, start=start, **options), job)
        lower = job.runs[0]["problems"][0]
        sizes = [sum(p.numel() for p in g["params"]) for g in lower.optimizer.param_groups]
        return dict(zip(sizes, lower.scheduler.base_lrs, strict=True))

    vectors, head = 4 * 4 * (16 + 16), 16 * 2 + 2
    assert rates() == {vectors: pytest.approx(times * 1e-3), head: pytest.approx(1e-3)}
    assert rates(lower=OptimizerSettings(lr=2e-3)) == {vectors + head: pytest.approx(2e-3)}
