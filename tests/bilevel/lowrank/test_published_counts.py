"""Adapter and gate counts of the papers, on RoBERTa-base and -large without their weights."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, RobertaConfig

from bilevel.lowrank.gates import Gates, attach_gates
from bilevel.lowrank.layers import component_costs

SIZES = {
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072},
    "large": {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096},
}
QV = r".*\.(query|value)"
ALL_SIX = r".*encoder\.layer\..*\.(query|key|value|dense)"


@pytest.mark.parametrize(
    ("size", "targets", "r", "parameters", "gates"),
    [
        ("base", QV, 8, 294_912, 192),
        ("base", QV, 4, 147_456, 96),
        ("base", ALL_SIX, 8, 1_327_104, 576),
        ("large", QV, 8, 786_432, 384),
        ("large", ALL_SIX, 8, 3_538_944, 1152),
    ],
)
def test_counts(size, targets, r, parameters, gates):
    with torch.device("meta"):
        base = AutoModelForSequenceClassification.from_config(
            RobertaConfig(num_attention_heads=16 if size == "large" else 12, **SIZES[size])
        )
        model = get_peft_model(base, LoraConfig(r=r, target_modules=targets))
        costs = component_costs(model)
        attached = Gates(list(costs), r)
        attach_gates(model, attached)
    assert r * sum(costs.values()) == parameters
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters
    assert attached.logits.numel() == gates
