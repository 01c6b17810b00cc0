"""What "qv" and "all" mean in models of other kinds, built without weights."""

import pytest
import torch
import transformers as hf

from bilevel.errors import UserError
from bilevel.lowrank import split_fused
from experiments.models.target_modules import (
    head_modules,
    outputs_of_maps,
    outside_layers,
    target_modules,
)

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 20,
    "pad_token_id": 0,
}
GROUPED = {**SIZE, "num_key_value_heads": 1}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 20}
TOKENS = {"bos_token_id": 1, "eos_token_id": 1}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 20}
BART = {
    **{"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 20},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
}

# model: its configuration, endings that "qv" takes, modules of "qv", modules of "all"
MODELS = {
    "gpt2": (hf.GPT2Config(**GPT2, **TOKENS), ["c_attn"], 2, 2 * 4),
    "llama": (hf.LlamaConfig(**GROUPED), ["q_proj", "v_proj"], 4, 2 * 7),
    "mistral": (hf.MistralConfig(**GROUPED), ["q_proj", "v_proj"], 4, 2 * 7),
    "qwen3": (hf.Qwen3Config(**GROUPED), ["q_proj", "v_proj"], 4, 2 * 7),
    # encoder: 2 layers; decoder: 2 layers with self- and cross-attention
    "bart": (hf.BartConfig(**BART), ["q_proj", "v_proj"], 12, 2 * 6 + 2 * 10),
    "t5": (hf.T5Config(**T5), ["q", "v"], 12, 2 * 6 + 2 * 10),
    "modernbert": (hf.ModernBertConfig(**SIZE, **TOKENS), ["Wqkv"], 2, 2 * 4),
    "gpt-neox": (hf.GPTNeoXConfig(**SIZE, **TOKENS), ["query_key_value"], 2, 2 * 4),
    "phi3": (hf.Phi3Config(**GROUPED, **TOKENS), ["qkv_proj"], 2, 2 * 4),
}


def build(config):
    with torch.device("meta"):
        return hf.AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("kind", MODELS)
def test_targets(kind):
    config, endings, in_qv, in_all = MODELS[kind]
    model = build(config)
    found = target_modules(model, "qv")
    assert {name.rsplit(".", 1)[-1] for name in found} == set(endings)
    assert len(found) == in_qv
    assert len(target_modules(model, "all")) == in_all
    assert all(name.startswith(tuple(head_modules(model))) for name in outside_layers(model))


def test_split_gpt2_has_six_maps_a_layer():
    model = split_fused(build(MODELS["gpt2"][0]))
    layer = "transformer.h.1"
    query_value = [f"{layer}.attn.c_attn.q", f"{layer}.attn.c_attn.v"]
    assert target_modules(model, "qv")[2:] == query_value
    assert target_modules(model, "all")[6:] == [
        f"{layer}.attn.c_attn.q",
        f"{layer}.attn.c_attn.k",
        f"{layer}.attn.c_attn.v",
        f"{layer}.attn.c_proj",
        f"{layer}.mlp.c_fc",
        f"{layer}.mlp.c_proj",
    ]
    assert target_modules(model, ["c_attn.v"])[1] == query_value[1]
    assert head_modules(model) == ["score"]
    with pytest.raises(UserError, match=r"attn\.c_attn\.q, attn\.c_attn\.k, attn\.c_attn\.v"):
        target_modules(model, ["c_attn"])


def test_cross_attention_of_gpt2_is_no_query_value_target():
    config = hf.GPT2Config(**GPT2, **TOKENS, add_cross_attention=True)
    with torch.device("meta"):
        model = split_fused(hf.GPT2LMHeadModel(config))
    assert [n.split(".")[3] for n in target_modules(model, "qv")] == ["attn"] * 4


def test_what_a_map_puts_out_is_not_what_it_takes_in():
    gpt2 = hf.GPT2Model(hf.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9))
    found = outputs_of_maps(gpt2, ["h.0.attn.c_attn", "h.0.mlp.c_proj"])
    assert found == {"h.0.attn.c_attn": 24, "h.0.mlp.c_proj": 8}
    bert = hf.BertModel(
        hf.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
        )
    )
    name = "encoder.layer.0.intermediate.dense"
    assert outputs_of_maps(bert, [name]) == {name: 12}
