"""What `qv` and `all` mean in every architecture, written out by hand."""

import copy

import pytest
import torch
import transformers as hf

from bilevel.errors import UserError
from bilevel.lowrank import split_fused
from experiments.models.target_modules import head_modules, target_modules
from problems.bitfit import bias_names
from problems.common.layer_names import layer_parts
from tests.experiments.architectures import CAUSAL, CONFIGS, SEQ2SEQ, auto_class

BERT_QV = "attention.self.query attention.self.value"
BERT_REST = "attention.self.key attention.output.dense intermediate.dense output.dense"
DEBERTA_QV = "attention.self.query_proj attention.self.value_proj"
DEBERTA_REST = "attention.self.key_proj attention.output.dense intermediate.dense output.dense"
LLAMA_QV = "self_attn.q_proj self_attn.v_proj"
LLAMA_REST = "self_attn.k_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj"
BART_QV = "self_attn.q_proj self_attn.v_proj"
BART_REST = "self_attn.k_proj self_attn.out_proj fc1 fc2"
BART_CROSS_QV = "encoder_attn.q_proj encoder_attn.v_proj"
BART_CROSS_REST = "encoder_attn.k_proj encoder_attn.out_proj"
T5_QV = "layer.0.SelfAttention.q layer.0.SelfAttention.v"
T5_REST = "layer.0.SelfAttention.k layer.0.SelfAttention.o"
T5_CROSS_QV = "layer.1.EncDecAttention.q layer.1.EncDecAttention.v"
T5_CROSS_REST = "layer.1.EncDecAttention.k layer.1.EncDecAttention.o"


def llama(qv=LLAMA_QV, rest=LLAMA_REST):
    return {"model.layers": (qv, rest)}


def t5(*feed_forward):
    inside = [" ".join(f"layer.{i}.DenseReluDense.{w}" for w in feed_forward) for i in (1, 2)]
    return {
        "encoder.block": (T5_QV, f"{T5_REST} {inside[0]}"),
        "decoder.block": (f"{T5_QV} {T5_CROSS_QV}", f"{T5_REST} {T5_CROSS_REST} {inside[1]}"),
    }


# architecture -> stack of layers -> in each layer: qv; what `all` adds to it
TARGETS = {
    "bert": {"bert.encoder.layer": (BERT_QV, BERT_REST)},
    "roberta": {"roberta.encoder.layer": (BERT_QV, BERT_REST)},
    "electra": {"electra.encoder.layer": (BERT_QV, BERT_REST)},
    "distilbert": {
        "distilbert.transformer.layer": (
            "attention.q_lin attention.v_lin",
            "attention.k_lin attention.out_lin ffn.lin1 ffn.lin2",
        )
    },
    "deberta": {
        "deberta.encoder.layer": (
            "attention.self.in_proj",
            "attention.self.pos_proj attention.self.pos_q_proj attention.output.dense "
            "intermediate.dense output.dense",
        )
    },
    "deberta_v2": {"deberta.encoder.layer": (DEBERTA_QV, DEBERTA_REST)},
    "deberta_v3": {"deberta.encoder.layer": (DEBERTA_QV, DEBERTA_REST)},
    "modernbert": {"model.layers": ("attn.Wqkv", "attn.Wo mlp.Wi mlp.Wo")},
    "gpt2": {"transformer.h": ("attn.c_attn", "attn.c_proj mlp.c_fc mlp.c_proj")},
    "gpt_neox": {
        "gpt_neox.layers": (
            "attention.query_key_value",
            "attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
        )
    },
    "llama": llama(),
    "mistral": llama(),
    "qwen2": llama(),
    "qwen3": llama(),
    "phi3": llama("self_attn.qkv_proj", "self_attn.o_proj mlp.gate_up_proj mlp.down_proj"),
    "bart": {
        "model.encoder.layers": (BART_QV, BART_REST),
        "model.decoder.layers": (
            f"{BART_QV} {BART_CROSS_QV}",
            f"{BART_REST} {BART_CROSS_REST}",
        ),
    },
    "t5": t5("wi", "wo"),
    "flan_t5": t5("wi_0", "wi_1", "wo"),
    "mt5": t5("wi_0", "wi_1", "wo"),
}
# For classes; for tags, which transformers' BART has not; for text, which encoders do not write.
CASES = [
    *((name, "classes") for name in CONFIGS),
    *((name, "tags") for name in CONFIGS if name != "bart"),
    *((name, "text") for name in (*CAUSAL, *SEQ2SEQ)),
]


def empty(name, kind):
    """The model without weights."""
    auto = (
        hf.AutoModelForTokenClassification if kind == "tags" else auto_class(name, kind == "text")
    )
    with torch.device("meta"):
        return auto.from_config(copy.deepcopy(CONFIGS[name]))  # T5's tagger changes it


def expected(name, kind):
    """The names that are meant: qv, all. T5's tagger has no decoder, its classifier a prefix."""
    stacks = TARGETS[name]
    if kind == "tags":
        stacks = {stack: parts for stack, parts in stacks.items() if "decoder" not in stack}
    prefix = "transformer." if "encoder.block" in stacks and kind != "text" else ""
    found = ([], [])
    for stack, (qv, rest) in stacks.items():
        for layer in range(2):
            where = f"{prefix}{stack}.{layer}."
            found[0].extend(where + part for part in qv.split())
            found[1].extend(where + part for part in f"{qv} {rest}".split())
    return found


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_targets(name, kind):
    model = empty(name, kind)
    qv, every = expected(name, kind)
    assert sorted(target_modules(model, "qv")) == sorted(qv)
    assert sorted(target_modules(model, "all")) == sorted(every)


def test_gpt2_split_for_training():
    """Query and value are maps of their own then, and `all` has the key too."""
    model = split_fused(hf.GPT2LMHeadModel(CONFIGS["gpt2"]))
    where = "transformer.h.1.attn.c_attn."
    assert [n for n in target_modules(model, "qv") if ".1." in n] == [where + "q", where + "v"]
    assert {n.removeprefix(where) for n in target_modules(model, "all")} >= {"q", "k", "v"}
    assert len(target_modules(model, "all")) == 2 * 6


# IA3's vectors (key, value, inside of the feed-forward), adapters behind attention and
# feed-forward, or behind the norm after both; and biases: what each architecture has.
PARTS = {
    "ia3": ("key", "value", "feed_forward_output"),
    "houlsby": ("attention_output", "feed_forward_output"),
    "pfeiffer": ("feed_forward_norm",),
}
POST_NORM = ("ia3", "houlsby", "pfeiffer", "bitfit")
HAS = {
    **dict.fromkeys(("bert", "roberta", "electra", "distilbert"), POST_NORM),
    **dict.fromkeys(("deberta_v2", "deberta_v3"), POST_NORM),
    "deberta": ("houlsby", "pfeiffer", "bitfit"),
    "modernbert": (),
    "gpt2": ("houlsby", "bitfit"),
    "gpt_neox": ("bitfit",),
    **dict.fromkeys(("llama", "mistral", "qwen3"), ("ia3", "houlsby")),
    "qwen2": ("ia3", "houlsby", "bitfit"),
    "phi3": ("houlsby",),
    "bart": ("ia3", "houlsby", "bitfit"),
    **dict.fromkeys(("t5", "flan_t5", "mt5"), ("ia3", "houlsby")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_which_methods_find_their_places(name):
    model = empty(name, "classes")
    heads = tuple(head_modules(model))
    found = ["bitfit"] if any(not n.startswith(heads) for n in bias_names(model)) else []
    for method, parts in PARTS.items():
        try:
            rows = layer_parts(model, parts)
        except UserError:
            continue
        found.append(method)
        assert len(rows) == (4 if name in SEQ2SEQ else 2)
    assert sorted(found) == sorted(HAS[name])


def test_a_decoders_layer_has_two_attentions():
    rows = layer_parts(empty("bart", "text"), ("key", "feed_forward_output"))
    assert rows[1] == {
        "key": ["model.encoder.layers.1.self_attn.k_proj"],
        "feed_forward_output": ["model.encoder.layers.1.fc2"],
    }
    where = "model.decoder.layers.1."
    assert rows[3] == {
        "key": [f"{where}self_attn.k_proj", f"{where}encoder_attn.k_proj"],
        "feed_forward_output": [f"{where}fc2"],
    }


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "gpt2"])
def test_no_other_fused_projection_is_split(name):
    model = empty(name, "classes")
    before = [n for n, _ in model.named_modules()]
    assert [n for n, _ in split_fused(model).named_modules()] == before
