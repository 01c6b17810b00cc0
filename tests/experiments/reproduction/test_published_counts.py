"""Adapter and gate counts of the papers, on models of their sizes without weights."""

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from bilevel.lowrank import Gates, attach_gates, component_costs, lora_layers, split_fused
from experiments.models.target_modules import head_modules, target_modules
from problems.common import add_lora, count, trainable

BASE = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12}
LARGE = {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16}
MEDIUM = {"n_layer": 24, "n_embd": 1024, "n_head": 16}
MODELS = {
    "roberta-base": (
        RobertaForSequenceClassification,
        RobertaConfig(**BASE, intermediate_size=3072, vocab_size=50265),
    ),
    "roberta-large": (
        RobertaForSequenceClassification,
        RobertaConfig(**LARGE, intermediate_size=4096, vocab_size=50265),
    ),
    "gpt2-medium": (GPT2ForSequenceClassification, GPT2Config(**MEDIUM)),
    "gpt2-medium with its language model's head": (GPT2LMHeadModel, GPT2Config(**MEDIUM)),
}


@pytest.mark.parametrize(
    ("name", "targets", "r", "parameters", "gates"),
    [
        ("roberta-base", "qv", 8, 294_912, 192),
        ("roberta-base", "qv", 4, 147_456, 96),
        ("roberta-base", "all", 8, 1_327_104, 576),
        ("roberta-large", "qv", 8, 786_432, 384),
        ("roberta-large", "qv", 4, 393_216, 192),
        ("roberta-large", "all", 8, 3_538_944, 1_152),
        ("gpt2-medium", "qv", 4, 393_216, 192),
        ("gpt2-medium with its language model's head", "qv", 4, 393_216, 192),
    ],
)
def test_counts(name, targets, r, parameters, gates):
    kind, config = MODELS[name]
    with torch.device("meta"):
        base = split_fused(kind(config))
        heads = [] if kind is GPT2LMHeadModel else head_modules(base)
        in_head = sum(p.numel() for h in heads for p in base.get_submodule(h).parameters())
        job = SimpleNamespace(
            target_modules=target_modules(base, targets),
            head_modules=heads,
            task_type="SEQ_CLS" if heads else None,
        )
        model = add_lora(job, base, r=r, lora_alpha=16)
        costs = component_costs(model)
        attached = Gates(list(lora_layers(model)), r, "hard_concrete")
        attach_gates(model, attached)
    assert r * sum(costs.values()) == parameters
    assert count(trainable(model)) == parameters + in_head
    assert count(list(attached.parameters())) == gates
    layers = getattr(config, "num_hidden_layers", 24)
    assert len(costs) == layers * {"qv": 2, "all": 6}[targets]
