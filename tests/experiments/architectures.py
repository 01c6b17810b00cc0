"""Tiny random models of every architecture, with a tokenizer, on the disk; and data for them."""

import copy
import functools
import json
import random
from pathlib import Path

import torch
import transformers as hf
from omegaconf import DictConfig
from tokenizers import processors

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from tests.experiments.word_tokens import word_tokenizer

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WORDS = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(28))]
VOCABULARY = {"vocab_size": len(WORDS), **SPECIAL}
SIZE = {
    **VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
GROUPED = {**SIZE, "num_key_value_heads": 1}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
T5 |= {"vocab_size": len(WORDS), "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
GATED = {**T5, "feed_forward_proj": "gated-gelu"}

CONFIGS = {
    "bert": hf.BertConfig(**SIZE),
    "roberta": hf.RobertaConfig(**SIZE),
    "electra": hf.ElectraConfig(**SIZE, embedding_size=8),
    "distilbert": hf.DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_layers=2, n_heads=2, hidden_dim=24
    ),
    "deberta": hf.DebertaConfig(**SIZE, **DEBERTA),
    "deberta_v2": hf.DebertaV2Config(
        **SIZE, **DEBERTA, share_att_key=True, position_buckets=8, conv_kernel_size=3
    ),
    "deberta_v3": hf.DebertaV2Config(
        **SIZE,
        **DEBERTA,
        share_att_key=True,
        position_buckets=8,
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "modernbert": hf.ModernBertConfig(
        **SIZE, cls_token_id=1, sep_token_id=2, local_attention=8, global_attn_every_n_layers=2
    ),
    "gpt2": hf.GPT2Config(**VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "gpt_neox": hf.GPTNeoXConfig(**SIZE),
    "llama": hf.LlamaConfig(**GROUPED),
    "mistral": hf.MistralConfig(**GROUPED, sliding_window=8),
    "qwen2": hf.Qwen2Config(**GROUPED),
    "qwen3": hf.Qwen3Config(**GROUPED, head_dim=8),
    "phi3": hf.Phi3Config(**GROUPED),
    "bart": hf.BartConfig(
        **VOCABULARY,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=32,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        num_labels=2,
    ),
    "t5": hf.T5Config(**T5),
    "flan_t5": hf.T5Config(**GATED, tie_word_embeddings=False),
    "mt5": hf.MT5Config(**GATED),
}
SEQ2SEQ = ("bart", "t5", "flan_t5", "mt5")
CAUSAL = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "phi3")
ENCODERS = tuple(name for name in CONFIGS if name not in (*SEQ2SEQ, *CAUSAL))

FOLDERS = ("model.pretrained", "task.data_dir")
QUICK = [
    "model=hub",
    "train.max_steps=2",
    "train.batch_size=4",
    "train.lr=1e-2",
    "engine.precision=fp32",
    "engine.evaluate_every=0",
    "engine.checkpoint_every=0",
    "run.figures=false",
]


def auto_class(name: str, text: bool):
    """transformers' auto class of an architecture for text, or for classes."""
    if not text:
        return hf.AutoModelForSequenceClassification
    return hf.AutoModelForSeq2SeqLM if name in SEQ2SEQ else hf.AutoModelForCausalLM


def build(name: str, text: bool = False, noise: float = 0.1, **options):
    """A random model, weights far enough from zero that everything in it matters."""
    torch.manual_seed(0)
    config = type(CONFIGS[name])(**{**CONFIGS[name].to_dict(), **options})
    model = auto_class(name, text).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return model


def tokenizer():
    """One word, one token; the end of text behind every text."""
    end = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return word_tokenizer(WORDS, 32, end, unk_token="<unk>", **special)


def save(name: str, folder: Path, text: bool = False) -> Path:
    """Write a random model and its tokenizer."""
    build(name, text).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_data(folder: Path) -> Path:
    """Files train and test with the columns source, target and label."""
    draw = random.Random(0)
    for split, size in (("train", 32), ("test", 4)):
        rows = []
        for number in range(size):
            source = [f"w{draw.randrange(28)}" for _ in range(draw.randrange(3, 6))]
            target = " ".join(reversed(source))
            rows.append({"source": " ".join(source), "target": target, "label": number % 2})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)
    return folder


def plan_of(words: list[str]) -> Plan:
    """The plan of a run; words that differ only in their folders are composed once."""
    folders = dict(w.split("=", 1) for w in words if w.startswith(FOLDERS))
    config = copy.deepcopy(composed(*(w for w in words if not w.startswith(FOLDERS))))
    config.model.pretrained = folders["model.pretrained"]
    config.task.data_dir = folders["task.data_dir"]
    return Plan.of(config)


@functools.cache
def composed(*words: str) -> DictConfig:
    """The configuration of a run whose folders are not known yet."""
    return compose_config([*words, *(f"{folder}=." for folder in FOLDERS)])


def words(model: Path, data: Path, text: bool) -> list[str]:
    """The words of a run of a second: two steps a stage."""
    options = [*QUICK, f"model.pretrained={model}", f"task.data_dir={data}"]
    if not text:
        return [*options, "task=classification", "task.text_columns=[source]"]
    decoding = ["task.decoding.beams=2", "task.decoding.max_new_tokens=4"]
    return [*options, "task=text_to_text", "task.metrics=[rougeL]", *decoding]
