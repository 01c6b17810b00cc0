"""Export: what is in the written folders, who can read them, and what is refused."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bilevel.errors import UserError
from bilevel.lowrank.export import export_adapter
from bilevel.lowrank.layers import component_costs, lora_layers
from bilevel.lowrank.ranks import threshold
from tests.bilevel.exported import config, logits, pruned, weights


def test_uniform_layout_needs_nothing_but_r_and_alpha(adapted, with_gates, tmp_path):
    model = adapted()
    masks = threshold.keep(with_gates(model, "softmax"))
    report = export_adapter(model, tmp_path, keep=masks)
    written = config(report.adapter)
    largest = max(report.ranks.values())
    assert written["r"] == written["lora_alpha"] == largest
    assert written["rank_pattern"] == {}
    assert written["alpha_pattern"] == {}
    assert written["use_rslora"] is False
    assert set(written["target_modules"]) == set(lora_layers(model))
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


def test_compact_layout_has_full_names_true_ranks_and_constant_scales(
    adapted, with_gates, tmp_path
):
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


def test_no_gate_and_no_stray_tensor_is_saved(adapted, with_gates, tmp_path):
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


def test_a_script_without_this_package_gets_the_same_logits(
    adapted, with_gates, base, batch, tmp_path
):
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
    with pytest.raises(UserError, match=r"No space left.*free"):
        export_adapter(adapted(), tmp_path)
