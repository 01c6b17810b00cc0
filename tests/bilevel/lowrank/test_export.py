"""Export: stock PEFT, on a fresh copy of the base, must give the logits the model gave."""

import errno
import itertools
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from bilevel.errors import UserError
from bilevel.lowrank.export import export_adapter
from bilevel.lowrank.gates import KINDS, Gates, attach_gates, fold_gates
from bilevel.lowrank.layers import component_costs, lora_layers, lora_pattern
from bilevel.lowrank.ranks import budget, fixed, positive, threshold


def with_gates(model, kind, k=4) -> Gates:
    gates = Gates(list(lora_layers(model)), k, kind).double()
    with torch.no_grad():
        gates.logits.copy_(
            2 * torch.randn(gates.logits.shape, generator=torch.Generator().manual_seed(3))
        )
    attach_gates(model, gates)
    return gates


def logits(model, batch) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(**batch).logits


def reloaded(base, folder, batch, **options) -> torch.Tensor:
    """Return the logits of stock PEFT; a warning (missing keys, unmatched pattern) is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return logits(PeftModel.from_pretrained(base(**options), folder), batch)


def pruned(model, masks) -> None:
    """Zero the components outside ``masks`` in the live model: the reference for pruned exports."""
    for name, layer in lora_layers(model).items():
        layer.lora_B["default"].weight.data[:, ~masks[name]] = 0.0


def config(folder: Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


# ---------------------------------------------------------------- equal logits


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2"])
def test_stock_peft_gives_equal_logits(adapted, base, batch, tmp_path, family, kind, folded):
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
def test_in_float32(adapted, base, batch, tmp_path, family):
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
def test_pruned_by_a_rule(adapted, base, batch, tmp_path, family, kind, rule):
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


def test_hard_concrete_gates_at_zero_are_cut_without_loss(adapted, base, batch, tmp_path):
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


def test_a_threshold_cuts_small_gates_and_reports_how_much(adapted, base, batch, tmp_path):
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
def test_parameters_in_the_file_are_those_of_the_budget(adapted, tmp_path, at_least):
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
def test_other_lora_options(adapted, base, batch, tmp_path, options):
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


# ---------------------------------------------------------------- what is in the files


def test_uniform_layout_needs_nothing_but_r_and_alpha(adapted, tmp_path):
    model = adapted()
    masks = threshold.keep(with_gates(model, "softmax"))
    report = export_adapter(model, tmp_path, keep=masks)
    written = config(report.adapter)
    largest = max(report.ranks.values())
    assert written["r"] == written["lora_alpha"] == largest
    assert written["rank_pattern"] == {}
    assert written["alpha_pattern"] == {}
    assert written["use_rslora"] is False
    assert written["target_modules"] is not None
    # Without PEFT: W += B A is the whole update.
    tensors = weights(report.adapter)
    for name, layer in lora_layers(model).items():
        A = tensors[f"base_model.model.{name}.lora_A.weight"]
        B = tensors[f"base_model.model.{name}.lora_B.weight"]
        assert len(A) == B.shape[1] == largest
        with torch.no_grad():
            full_A, full_B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            update = 1.5 * full_B[:, masks[name]] @ full_A[masks[name]]
        torch.testing.assert_close(B @ A, update, rtol=0, atol=1e-12)


def test_compact_layout_has_full_names_true_ranks_and_constant_scales(adapted, tmp_path):
    model = adapted()
    masks = threshold.keep(with_gates(model, "softmax"))
    report = export_adapter(model, tmp_path, keep=masks)
    written = config(report.compact)
    assert all(key.startswith("^bert.") for key in written["rank_pattern"])
    assert set(written["target_modules"]) == set(lora_layers(model))
    tensors = weights(report.compact)
    for name, rank in report.ranks.items():
        assert written["rank_pattern"].get(f"^{name}", written["r"]) == rank
        alpha = written["alpha_pattern"].get(f"^{name}", written["lora_alpha"])
        assert alpha / rank == pytest.approx(1.5, abs=1e-12)
        assert len(tensors[f"base_model.model.{name}.lora_A.weight"]) == rank


def test_no_gate_and_no_stray_tensor_is_saved(adapted, tmp_path):
    model = adapted()
    model.peft_config["default"].base_model_name_or_path = "some/base"
    with_gates(model, "softmax")
    report = export_adapter(model, tmp_path)
    for folder in (report.adapter, report.compact):
        assert sorted(p.name for p in folder.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        kinds = {key.split(".")[-2] for key in weights(folder)}
        assert kinds == {"lora_A", "lora_B", "classifier"}
        assert config(folder)["base_model_name_or_path"] == "some/base"
        assert config(folder)["modules_to_save"] == ["classifier", "score"]
        assert config(folder)["inference_mode"] is True
    assert report.head_parameters == 3 * 16 + 3
    assert report.parameters == 4 * sum(component_costs(model).values())


def test_a_script_without_this_package_gets_the_same_logits(adapted, base, batch, tmp_path):
    model = adapted()
    masks = threshold.keep(with_gates(model, "softmax"))
    report = export_adapter(model, tmp_path, keep=masks)
    pruned(model, masks)
    base().save_pretrained(tmp_path / "base")
    torch.save({"expected": logits(model, batch), **batch}, tmp_path / "batch.pt")
    script = tmp_path / "stock.py"
    script.write_text(
        "import sys, torch\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForSequenceClassification\n"
        "batch = torch.load('batch.pt', weights_only=True)\n"
        "expected = batch.pop('expected')\n"
        "for folder in ('adapter', 'adapter_compact'):\n"
        "    base = AutoModelForSequenceClassification.from_pretrained('base',"
        " dtype=torch.float64)\n"
        "    model = PeftModel.from_pretrained(base, folder).eval()\n"
        "    with torch.no_grad():\n"
        "        difference = (model(**batch).logits - expected).abs().max().item()\n"
        "    assert difference < 1e-12, (folder, difference)\n"
        "assert not any(m.split('.')[0] in ('bilevel', 'betty') for m in sys.modules)\n"
        "print('equal')\n"
    )
    run = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert run.stdout.split() == ["equal"], run.stderr
    assert report.adapter == tmp_path / "adapter"


# ---------------------------------------------------------------- refusals


def test_bad_requests_are_refused(adapted, tmp_path):
    model = adapted()
    names = list(lora_layers(model))
    good = {n: torch.ones(4, dtype=torch.bool) for n in names}
    with pytest.raises(UserError, match="not both"):
        export_adapter(model, tmp_path, keep=good, threshold=0.1)
    with pytest.raises(UserError, match="needs gates"):
        export_adapter(model, tmp_path, threshold=0.1)
    with pytest.raises(UserError, match=f"do not agree on layer '{names[0]}'"):
        export_adapter(model, tmp_path, keep={n: good[n] for n in names[1:]})
    with pytest.raises(UserError, match="must be 4 booleans"):
        export_adapter(model, tmp_path, keep=good | {names[1]: torch.ones(3, dtype=torch.bool)})
    with pytest.raises(UserError, match="must be 4 booleans"):
        export_adapter(model, tmp_path, keep=good | {names[1]: torch.ones(4)})
    model.peft_config["default"].init_lora_weights = "olora"
    with pytest.raises(UserError, match="'olora' changes the base"):
        export_adapter(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_in_one_sentence(adapted, tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="no space left on the disk"):
        export_adapter(adapted(), tmp_path)
