"""plain_lora: the given update and the trained head on an untouched base, read by stock PEFT."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import RobertaConfig, RobertaForSequenceClassification

from bilevel import UserError
from bilevel.lowrank import export_adapter, lora_layers, lora_scales, plain_lora


def fresh() -> RobertaForSequenceClassification:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    return RobertaForSequenceClassification(config).eval()


def trained(**options) -> PeftModel:
    model = get_peft_model(
        fresh(),
        LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["query", "value"], **options),
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(torch.randn_like(p) * 0.3)
                assert "lora" in name or "classifier" in name
    return model.eval()


IDS = torch.arange(2, 18).reshape(2, 8)


def test_equal_logits_and_head_after_export(tmp_path):
    model = trained()
    with torch.no_grad():
        wanted = model(input_ids=IDS).logits
    factors, scales = {}, {}
    for i, (name, layer) in enumerate(lora_layers(model).items()):
        A, B = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
        # the same update with one more component and another scale
        extra = torch.zeros(1, A.shape[1])
        factors[name] = (torch.cat([A, extra]), torch.cat([B, torch.ones(len(B), 1)], 1) / (i + 1))
        scales[name] = lora_scales(model)[name] * (i + 1)
    rebuilt = plain_lora(model, factors, scales).eval()
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(input_ids=IDS).logits, wanted, rtol=0, atol=1e-6)
    report = export_adapter(rebuilt, tmp_path)
    assert set(report.ranks.values()) == {4}
    for folder in (report.adapter, report.compact):
        loaded = PeftModel.from_pretrained(fresh(), str(folder)).eval()
        with torch.no_grad():
            torch.testing.assert_close(loaded(input_ids=IDS).logits, wanted, rtol=0, atol=1e-5)


def test_layers_of_rank_0_are_left_out():
    model = trained()
    names = list(lora_layers(model))
    scales = lora_scales(model)
    factors = {n: (torch.zeros(0, 16), torch.zeros(16, 0)) for n in names}
    factors[names[0]] = (torch.ones(1, 16), torch.ones(16, 1))
    assert list(lora_layers(plain_lora(model, factors, scales))) == names[:1]


def test_factors_of_no_layer_are_refused():
    model = trained()
    factors = {"nowhere": (torch.ones(1, 16), torch.ones(16, 1))}
    with pytest.raises(UserError, match="nowhere"):
        plain_lora(model, factors, {"nowhere": 1.0})
