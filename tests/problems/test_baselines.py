"""Baselines of one level: what they train, how much of it, and that what is saved is what ran."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    RobertaConfig,
)

from bilevel import UserError
from problems.adapters import BottleneckAdapters, load_adapters
from problems.bitfit import BitFit, bias_names
from problems.common import OptimizerSettings, layers, positions
from problems.dora import DoRA
from problems.full import FullFineTuning, trained_names
from problems.ia3 import IA3
from problems.prefix import PrefixTuning
from problems.prompt import PromptTuning
from tests.problems.jobs import SmallJob, collate, train

SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}
CONFIGS = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL, pad_token_id=0),
    "distilbert": DistilBertConfig(
        vocab_size=32, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=20
    ),
    "deberta-v2": DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"]),
}
HEADS = {
    "bert": ["classifier"],
    "roberta": ["classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "deberta-v2": ["pooler", "classifier"],
}
QV = {
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "deberta-v2": ["query_proj", "value_proj"],
}
METHODS = {
    "full": FullFineTuning(),
    "full_frozen_embeddings": FullFineTuning(train="frozen_embeddings"),
    "full_qv": FullFineTuning(train="qv"),
    "full_top": FullFineTuning(train="top", top_layers=1),
    "bitfit": BitFit(),
    "dora": DoRA(rank=2),
    "ia3": IA3(),
    "prompt": PromptTuning(virtual_tokens=3),
    "prefix": PrefixTuning(virtual_tokens=3),
    "prefix_mlp": PrefixTuning(virtual_tokens=3, projection=5),
    "houlsby": BottleneckAdapters(size=4),
    "pfeiffer": BottleneckAdapters(
        placement="pfeiffer", size=None, reduction=3, activation="relu", train_norms=False
    ),
}
# Trained besides the head, by hand: d = 16, f = 24, 2 layers, 32 words, 20 positions, 2 types.
D, F, L = 16, 24, 2
LAYER = 4 * (D * D + D) + (D * F + F) + (F * D + D) + 2 * 2 * D
BERT = (32 + 20 + 2) * D + 2 * D + L * LAYER + (D * D + D)  # with the pooler, which BERT has
COUNTS = {
    "full": BERT,
    "full_frozen_embeddings": BERT - 32 * D,
    "full_qv": L * 2 * D * D,
    "full_top": LAYER,
    "bitfit": D + L * (4 * D + F + D + 2 * D) + D,
    "dora": L * 2 * (2 * (D + D) + D),
    "ia3": L * (2 * D + F),
    "prompt": 3 * D,
    "prefix": 3 * L * 2 * D,
    "prefix_mlp": 3 * D + (D * 5 + 5) + (5 * L * 2 * D + L * 2 * D),
    "houlsby": L * 2 * (2 * D * 4 + 4 + D) + (2 * L + 1) * 2 * D,
    "pfeiffer": L * (2 * D * 5 + 5 + D),
}
BERT_HEAD = 2 * D + 2


class OtherJob(SmallJob):
    """The job on another architecture."""

    def __init__(self, kind: str = "bert", **settings) -> None:
        super().__init__(**settings)
        self.kind = kind
        self.target_modules, self.head_modules = QV[kind], HEADS[kind]

    def build_model(self):
        torch.manual_seed(self.seed)
        config = type(CONFIGS[self.kind])(**CONFIGS[self.kind].to_dict())
        return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")


@torch.no_grad()
def logits(model, job: SmallJob) -> torch.Tensor:
    batch = collate(list(job.data.examples))
    batch.pop("labels")
    return model.eval()(**batch).logits


def reloaded(name: str, job: OtherJob, folder: Path):
    if name in ("houlsby", "pfeiffer"):
        return load_adapters(job.build_model(), folder)
    if name.startswith(("full", "bitfit")):
        return AutoModelForSequenceClassification.from_pretrained(
            folder, attn_implementation="eager"
        )
    return PeftModel.from_pretrained(job.build_model(), folder)


@pytest.mark.parametrize("name", METHODS)
def test_trains_what_it_says_and_no_more(name: str) -> None:
    job = OtherJob()
    outcome = train(METHODS[name], job)
    run = job.runs[0]
    changed = {
        n: p.numel()
        for n, p in run["model"].named_parameters()
        if not torch.equal(p, run["before"][n])
    }
    assert sum(changed.values()) == outcome.trainable_parameters == COUNTS[name] + BERT_HEAD
    assert any("classifier" in n for n in changed)
    assert run["steps"] == 6  # 48 examples in batches of 8
    assert run["problems"][0].train_data_loader[0].indices is None or (
        sorted(run["problems"][0].train_data_loader[0].indices) == list(range(48))
    )
    assert outcome.split == {"train": 48}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", METHODS)
def test_saved_form_has_the_same_logits(name: str, kind: str, tmp_path: Path) -> None:
    job = OtherJob(kind, max_steps=3)
    # A rate that moves the logits far beyond the tolerance.
    method = replace(METHODS[name], optimizer=OptimizerSettings(lr=3e-2))
    if name.startswith("prefix") and kind in ("distilbert", "deberta-v2"):
        with pytest.raises(UserError, match=r"keys.*method=prompt"):
            train(method, job)
        return
    model = train(method, job).model
    options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    model.save_pretrained(tmp_path, **options)
    expected = logits(model, job)
    assert not torch.allclose(expected, logits(job.build_model(), job), atol=1e-3)
    torch.testing.assert_close(
        logits(reloaded(name, job, tmp_path), job), expected, atol=1e-5, rtol=0
    )


def test_bitfit_saves_a_model_that_differs_in_biases_and_head_alone(tmp_path: Path) -> None:
    job = OtherJob()
    outcome = train(BitFit(), job)
    outcome.model.save_pretrained(tmp_path)
    before = dict(job.build_model().named_parameters())
    saved = load_file(tmp_path / "model.safetensors")
    differing = sum(int((saved[n] != p).sum()) for n, p in before.items())
    assert all(
        n.endswith("bias") or n.startswith("classifier")
        for n, p in before.items()
        if not torch.equal(saved[n], p)
    )
    # A bias that no gradient reaches (of the keys: softmax ignores it) moves by rounding at most.
    assert 0.9 * outcome.trainable_parameters < differing <= outcome.trainable_parameters


def test_the_methods_own_learning_rate_goes_before_that_of_lora() -> None:
    job = OtherJob(lr=0.5)  # the model's or train.lr
    train(FullFineTuning(), job)
    optimizer = job.runs[0]["problems"][0].optimizer
    assert optimizer.defaults["lr"] == pytest.approx(2e-5)
    job = OtherJob(lr=0.5)
    train(FullFineTuning(optimizer=OptimizerSettings()), job)
    assert job.runs[0]["problems"][0].optimizer.defaults["lr"] == 0.5
    job = OtherJob(lr=None)
    train(FullFineTuning(optimizer=OptimizerSettings()), job)
    assert job.runs[0]["problems"][0].optimizer.defaults["lr"] == pytest.approx(2e-5)


def test_dora_is_pefts_with_a_rank_for_every_module() -> None:
    outcome = train(DoRA(rank=2), OtherJob())
    assert outcome.model.peft_config["default"].use_dora
    assert set(outcome.ranks) == {
        f"bert.encoder.layer.{i}.attention.self.{part}" for i in (0, 1) for part in QV["bert"]
    }
    assert set(outcome.ranks.values()) == {2}


def test_ia3_leaves_the_attention_output_alone_and_starts_at_the_pretrained_model() -> None:
    job = OtherJob()
    model = IA3().adapt(job, job.build_model())
    vectors = {n: p for n, p in model.named_parameters() if "ia3_l" in n}
    assert not any("attention.output" in n for n in vectors)
    assert {tuple(p.shape) for n, p in vectors.items() if "self" in n} == {(D, 1)}
    assert {tuple(p.shape) for n, p in vectors.items() if "self" not in n} == {(1, F)}
    torch.testing.assert_close(logits(model, job), logits(job.build_model(), job))


def test_ia3_scales_what_the_paper_says() -> None:
    """Keys and values after their maps, the feed-forward's inside before W2: folded in by hand."""
    job = OtherJob()
    model = IA3().adapt(job, job.build_model())
    plain = job.build_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "ia3_l" not in name:
                continue
            p.copy_(1 + 0.5 * torch.randn(p.shape, generator=generator))
            linear = plain.get_submodule(name.split("base_model.model.")[1].split(".ia3_l")[0])
            linear.weight.mul_(p)  # (out, 1): rows; (1, in): columns
            if p.shape[1] == 1:
                linear.bias.mul_(p[:, 0])
    torch.testing.assert_close(logits(model, job), logits(plain, job), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: FullFineTuning(train="some"), "train=.*one of"),
        (lambda: FullFineTuning(top_layers=0), "top_layers=.*1 or more"),
        (lambda: DoRA(rank=0), "rank=.*1 or more"),
        (lambda: PromptTuning(virtual_tokens=0), "virtual_tokens=.*1 or more"),
        (lambda: PromptTuning(init="text"), "init=.*one of"),
        (lambda: PrefixTuning(projection=0), "projection=.*1 or more"),
        (lambda: PrefixTuning(virtual_tokens=0), "virtual_tokens=.*1 or more"),
    ],
)
def test_wrong_settings_before_a_model_is_loaded(method, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method()


def test_more_top_layers_than_there_are() -> None:
    with pytest.raises(UserError, match=r"method.top_layers=3.*2 layers"):
        train(FullFineTuning(train="top", top_layers=3), OtherJob())


def meta(config) -> torch.nn.Module:
    """The model without weights."""
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


def size(model, names: set[str]) -> int:
    parameters = dict(model.named_parameters())
    return sum(parameters[name].numel() for name in names)


def test_published_counts() -> None:
    """LoRA's FT-Top2 on GPT-2 medium 25.19M; BitFit on RoBERTa-base 0.1M; Delta-LoRA's 48M."""
    gpt2 = meta(GPT2Config(n_embd=1024, n_layer=24, n_head=16))
    assert size(gpt2, trained_names(gpt2, "top", 2, [])) == 25_192_448
    every = {name for name, _ in gpt2.named_parameters()}
    frozen = every - trained_names(gpt2, "frozen_embeddings", 2, [])
    assert frozen == {"transformer.wte.weight"}
    roberta = meta(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1))
    biases = {n for n in bias_names(roberta) if not n.startswith("classifier")}
    assert size(roberta, biases) == 12 * (7 * 768 + 3072) + 768 == 102_144
    qv = trained_names(roberta, "qv", 2, ["query", "value"])
    assert size(roberta, qv) == 12 * 2 * 768 * 768


def test_models_that_lack_the_parts() -> None:
    llama = meta(LlamaConfig(**SMALL, pad_token_id=0))
    job = OtherJob()
    job.head_modules = ["score"]
    with pytest.raises(UserError, match=r"Llama.*biases"):
        BitFit().adapt(job, llama)
    gpt2 = meta(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, pad_token_id=0))
    with pytest.raises(UserError, match=r"GPT2.*separate"):
        IA3().adapt(job, gpt2)
    with pytest.raises(UserError, match=r"GPT2.*ends"):
        PromptTuning().adapt(job, gpt2)
    bart = AutoConfig.for_model("bart", d_model=16, vocab_size=32)
    with pytest.raises(UserError, match="2 stacks"):
        layers(meta(bart))


def test_positions_of_the_architectures() -> None:
    """RoBERTa's first positions are its padding's; DeBERTa v2 here has none of its own."""
    assert positions(meta(CONFIGS["bert"])) == 20
    assert positions(meta(CONFIGS["roberta"])) == 19  # padding index 0
    assert positions(meta(RobertaConfig(max_position_embeddings=514))) == 512
    assert positions(meta(DebertaV2Config(**SMALL, position_biased_input=False))) is None
