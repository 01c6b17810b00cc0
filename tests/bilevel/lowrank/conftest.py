"""Tiny random transformers with LoRA adapters, in float64 and without dropout unless asked for."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    RobertaConfig,
)

from bilevel.lowrank.attach import attach_gates
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.layers import lora_layers

VOCABULARY = 50


def _config(family: str, dropout: float):
    heads = {"num_labels": 3, "pad_token_id": 1}
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2}
    sizes |= {"intermediate_size": 24, **heads}
    if family in ("bert", "roberta"):
        kind, positions = (BertConfig, 16) if family == "bert" else (RobertaConfig, 20)
        return kind(
            **sizes,
            num_attention_heads=2,
            max_position_embeddings=positions,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    if family == "llama":
        return LlamaConfig(
            **sizes,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16,
            bos_token_id=2,
            eos_token_id=3,
        )
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=16,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=2,
        eos_token_id=3,
        **heads,
    )


# Layers of unequal input and output sizes in every family, and the name of its head.
TARGETS = {
    "bert": (["query", "value", "intermediate.dense"], ["classifier"]),
    "roberta": (["query", "value", "intermediate.dense"], ["classifier"]),
    "llama": (["q_proj", "v_proj", "down_proj"], ["score"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["score"]),
}


def _base(family: str = "bert", dropout: float = 0.0) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(
            _config(family, dropout), attn_implementation="eager"
        )
    return model.double()


def _adapted(family: str = "bert", r: int = 4, dropout: float = 0.0, **options) -> PeftModel:
    """Return a model whose adapter (B too) and head are random, so that everything matters."""
    targets, heads = TARGETS[family]
    defaults = {
        "task_type": "SEQ_CLS",
        "lora_alpha": 6,
        "target_modules": targets,
        "modules_to_save": heads,
        "fan_in_fan_out": family == "gpt2",
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(_base(family, dropout), LoraConfig(r=r, **(defaults | options)))
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "input_ids": torch.randint(4, VOCABULARY, (3, 6), generator=generator),
        "attention_mask": torch.tensor([[1] * 6, [1] * 6, [1] * 4 + [0] * 2]),
        "labels": torch.tensor([0, 1, 2]),
    }


def _with_gates(model: PeftModel, kind: str, k: int = 4) -> Gates:
    """Attach gates with random logits, always the same ones."""
    gates = Gates(list(lora_layers(model)), k, kind).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        gates.logits.copy_(2 * torch.randn(gates.logits.shape, generator=generator))
    attach_gates(model, gates)
    return gates


@pytest.fixture
def with_gates() -> Callable[..., Gates]:
    return _with_gates


@pytest.fixture
def base() -> Callable[..., PreTrainedModel]:
    return _base


@pytest.fixture
def adapted() -> Callable[..., PeftModel]:
    return _adapted


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return _batch()
