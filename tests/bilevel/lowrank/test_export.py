"""Export: stock PEFT, on a fresh copy of the base, must give the logits the model gave."""

import itertools
import warnings

import pytest
import torch
from peft import PeftModel

from bilevel.lowrank.attach import fold_gates
from bilevel.lowrank.export import export_adapter
from bilevel.lowrank.gate_kinds import KINDS
from bilevel.lowrank.layers import component_costs, lora_factors, lora_layers, lora_pattern
from bilevel.lowrank.ranks import budget, fixed, positive, threshold
from tests.bilevel.exported import config, logits, pruned, weights


def reloaded(base, folder, batch, **options) -> torch.Tensor:
    """Return the logits of stock PEFT; a warning (missing keys, unmatched pattern) is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return logits(PeftModel.from_pretrained(base(**options), folder), batch)


# ---------------------------------------------------------------- equal logits


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2"])
def test_stock_peft_gives_equal_logits(
    adapted, with_gates, base, batch, tmp_path, family, kind, folded
):
    model = adapted(family)
    with_gates(model, kind)
    expected = logits(model, batch)
    plain = logits(base(family), batch)
    if folded:
        fold_gates(model)
    report = export_adapter(model, tmp_path)
    assert report.cut == 0
    for folder in (report.adapter, report.compact):
        found = reloaded(base, folder, batch, family=family)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (expected - plain).abs().max() > 1e-2
    torch.testing.assert_close(logits(model, batch), expected, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_in_float32(adapted, with_gates, base, batch, tmp_path, family):
    model = adapted(family).float()
    with_gates(model, "softmax").float()
    expected = logits(model, batch)
    report = export_adapter(model, tmp_path)
    for folder in (report.adapter, report.compact):
        found = logits(PeftModel.from_pretrained(base(family).float(), folder), batch)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert {t.dtype for t in weights(report.adapter).values()} == {torch.float32}


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize(("kind", "rule"), [("softmax", threshold), ("sigmoid", fixed)])
def test_pruned_by_a_rule(adapted, with_gates, base, batch, tmp_path, family, kind, rule):
    model = adapted(family)
    gates = with_gates(model, kind)
    masks = rule.keep(gates)
    report = export_adapter(model, tmp_path, keep=masks)
    assert report.ranks == rule(gates)
    assert len(set(report.ranks.values())) > 1
    before = logits(model, batch)
    pruned(model, masks)
    expected = logits(model, batch)
    assert (before - expected).abs().max() > 1e-4
    for folder in (report.adapter, report.compact):
        found = reloaded(base, folder, batch, family=family)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_hard_concrete_gates_at_zero_are_cut_without_loss(
    adapted, with_gates, base, batch, tmp_path
):
    model = adapted()
    gates = with_gates(model, "hard_concrete")
    name = gates.names[0]
    gates.logits.data[0] = -5.0  # a whole layer
    expected = logits(model, batch)
    report = export_adapter(model, tmp_path)
    assert report.ranks == positive(gates)
    assert report.ranks[name] == 0
    assert report.cut == 0
    for folder in (report.adapter, report.compact):
        torch.testing.assert_close(reloaded(base, folder, batch), expected, rtol=0, atol=1e-12)
    assert name not in config(report.compact)["target_modules"]
    assert name in config(report.adapter)["target_modules"]
    assert not any(name in key for key in weights(report.compact))


def test_a_threshold_cuts_small_gates_and_reports_how_much(
    adapted, with_gates, base, batch, tmp_path
):
    model = adapted()
    gates = with_gates(model, "sigmoid")
    report = export_adapter(model, tmp_path, threshold=0.5)
    assert report.ranks == fixed(gates)
    full, cut = 0.0, 0.0
    masks = fixed.keep(gates)
    for name, layer in lora_layers(model).items():
        with torch.no_grad():
            A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            full += (B @ A).square().sum().item()
            cut += (B[:, ~masks[name]] @ A[~masks[name]]).square().sum().item()
    assert report.cut == pytest.approx((cut / full) ** 0.5, rel=1e-9)
    assert 0.01 < report.cut < 1


@pytest.mark.parametrize("at_least", [0, 1])
def test_parameters_in_the_file_are_those_of_the_budget(adapted, with_gates, tmp_path, at_least):
    model = adapted()
    costs = component_costs(model)
    ranks = {"total": 11 * 36}
    masks = budget.keep(
        with_gates(model, "softmax"), costs=costs, budget=ranks["total"], at_least=at_least
    )
    report = export_adapter(model, tmp_path, keep=masks)
    in_file = sum(t.numel() for key, t in weights(report.compact).items() if ".lora_" in key)
    assert in_file == report.parameters == sum(costs[n] * r for n, r in report.ranks.items())
    assert 0.9 * ranks["total"] < report.parameters <= ranks["total"]


def test_all_layers_at_rank_zero_leave_the_head(adapted, base, batch, tmp_path):
    model = adapted()
    masks = {n: torch.zeros(4, dtype=torch.bool) for n in lora_layers(model)}
    report = export_adapter(model, tmp_path, keep=masks)
    pruned(model, masks)
    expected = logits(model, batch)
    assert (expected - logits(base(), batch)).abs().max() > 1e-2
    assert report.parameters == 0
    assert report.cut == 1
    for folder in (report.adapter, report.compact):
        torch.testing.assert_close(reloaded(base, folder, batch), expected, rtol=0, atol=1e-12)


def test_differing_ranks_and_scales(adapted, base, batch, tmp_path):
    """As after AutoLoRA's retraining: every layer its own rank, and here its own scale too."""
    names = list(lora_layers(adapted()))
    ranks = dict(zip(names, itertools.cycle([1, 3, 0, 2]), strict=False))
    scales = {name: 0.7 + i for i, name in enumerate(names)}
    model = adapted(**lora_pattern(ranks, scales))
    expected = logits(model, batch)
    report = export_adapter(model, tmp_path)
    assert report.ranks == {n: r for n, r in ranks.items() if r}
    for folder in (report.adapter, report.compact):
        torch.testing.assert_close(reloaded(base, folder, batch), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_biases_of_layers_at_rank_zero_stay(adapted, base, batch, tmp_path, bias):
    """PEFT puts no bias into a layer without LoRA, so that it has a component of zeros."""
    model = adapted(bias=bias)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "bias" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(5))
    names = list(lora_layers(model))
    masks = {
        name: torch.zeros(len(lora_factors(layer)[0]), dtype=torch.bool)
        for name, layer in lora_layers(model).items()
    }
    masks[names[0]][0] = True
    report = export_adapter(model, tmp_path, keep=masks)
    assert report.ranks == {name: int(name == names[0]) for name in names}
    pruned(model, masks)
    expected = logits(model, batch)
    for folder in (report.adapter, report.compact):
        torch.testing.assert_close(reloaded(base, folder, batch), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"bias": "lora_only"},
        {"bias": "all"},
        {"modules_to_save": None},
        {"target_modules": r".*\.(query|value)"},
        {"target_modules": "all-linear"},
        {"target_modules": ["query"], "layers_to_transform": [1]},
        {"target_modules": ["query", "key"], "exclude_modules": ["key"]},
        {"init_lora_weights": "gaussian", "task_type": None},
    ],
    ids=str,
)
def test_other_lora_options(adapted, with_gates, base, batch, tmp_path, options):
    model = adapted(**options)
    gates = with_gates(model, "softmax")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "bias" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(5))
    masks = threshold.keep(gates)
    report = export_adapter(model, tmp_path, keep=masks)
    pruned(model, masks)
    expected = logits(model, batch)
    for folder in (report.adapter, report.compact):
        torch.testing.assert_close(reloaded(base, folder, batch), expected, rtol=0, atol=1e-12)
