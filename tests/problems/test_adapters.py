"""Bottleneck adapters against the papers' equations written out by hand, their counts and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, BertConfig, DebertaV2Config

from bilevel import UserError
from problems.adapters import BottleneckAdapters, BottleneckModel, load_adapters
from problems.adapters.modules import BottleneckConfig
from tests.problems.jobs import SmallJob, collate, train


def config(kind: str, **values) -> BottleneckConfig:
    given = {"size": 3, "activation": "relu", "init_std": 0.01, "train_norms": False}
    return BottleneckConfig(kind, **{**given, **values}, head_modules=["classifier"])


def by_hand(layer: nn.Module, x: torch.Tensor, adapters: dict[str, nn.Module], kind: str):
    """One BERT layer in evaluation mode without a mask, its adapters where the papers put them."""

    def bottleneck(name: str, h: torch.Tensor) -> torch.Tensor:
        a = adapters[name]
        return a.up(functional.relu(a.down(h)))

    own = layer.attention.self
    heads = own.num_attention_heads

    def split(h: torch.Tensor) -> torch.Tensor:
        return h.view(*h.shape[:2], heads, -1).transpose(1, 2)

    q, k, v = (split(f(x)) for f in (own.query, own.key, own.value))
    weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
    context = (weights @ v).transpose(1, 2).reshape(x.shape)
    y = base(layer.attention.output.dense)(context)
    if kind == "houlsby":
        y = y + bottleneck("attention", y)
    x = layer.attention.output.LayerNorm(x + y)
    y = base(layer.output.dense)(functional.gelu(layer.intermediate.dense(x)))
    norm = base(layer.output.LayerNorm)
    if kind == "houlsby":
        return norm(x + y + bottleneck("feed_forward", y))
    return norm(x + y + bottleneck("feed_forward", norm(x + y)))


def base(module: nn.Module) -> nn.Module:
    return getattr(module, "base", module)


@pytest.mark.parametrize("kind", ["houlsby", "pfeiffer"])
@torch.no_grad()
def test_a_layer_computes_the_papers_equations(kind: str) -> None:
    model = BottleneckModel(SmallJob().build_model(), config(kind, init_std=0.7)).double().eval()
    layer = model.base.bert.encoder.layer[1]
    if kind == "houlsby":
        adapters = {
            "attention": layer.attention.output.dense.adapter,
            "feed_forward": layer.output.dense.adapter,
        }
    else:
        adapters = {"feed_forward": layer.output.LayerNorm.adapter}
    x = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = layer(x)
    out = out[0] if isinstance(out, tuple) else out
    torch.testing.assert_close(out, by_hand(layer, x, adapters, kind), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", ["houlsby", "pfeiffer"])
@torch.no_grad()
def test_starts_near_the_pretrained_model(kind: str) -> None:
    """A(x) is of order init_std^2, so it is 1e4 times smaller at 0.01 than at 1."""
    job = SmallJob()
    batch = collate(list(job.data.examples))
    plain = job.build_model().eval()(**batch).logits
    near = BottleneckModel(job.build_model(), config(kind)).eval()(**batch).logits
    far = BottleneckModel(job.build_model(), config(kind, init_std=1.0)).eval()(**batch).logits
    assert 0 < 100 * (near - plain).abs().max() < (far - plain).abs().max()


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("houlsby", 8, 313_536),  # AdaLoRA's table: 0.31M
        ("houlsby", 16, 608_640),  # 0.61M
        ("pfeiffer", 16, 304_320),  # 0.30M
        ("pfeiffer", 32, 599_424),  # 0.60M
    ],
)
def test_published_counts_of_deberta_v3_base(kind: str, size: int, expected: int) -> None:
    with torch.device("meta"):
        base_size = DebertaV2Config(
            vocab_size=128100,
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
        )
        plain = AutoModelForSequenceClassification.from_config(base_size)
        model = BottleneckModel(plain, config(kind, size=size))
    found = sum(
        p.numel() for n, p in model.named_parameters() if p.requires_grad and "classifier" not in n
    )
    sites = 24 if kind == "houlsby" else 12
    assert found == expected == sites * (2 * 768 * size + size + 768)


def test_reduction_gives_the_size() -> None:
    method = BottleneckAdapters(size=None, reduction=16, placement="pfeiffer")
    job = SmallJob()
    assert method.adapt(job, job.build_model()).bottleneck.size == 1  # 16 / 16
    big = BertConfig(num_hidden_layers=1, vocab_size=32)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(big)
    assert method.adapt(job, model).bottleneck.size == 48  # 768 / 16


def test_norms_are_trained_and_saved_on_demand(tmp_path: Path) -> None:
    for trained in (True, False):
        job = SmallJob()
        outcome = train(BottleneckAdapters(size=2, train_norms=trained), job)
        outcome.model.save_pretrained(tmp_path)
        names = outcome.model._trained
        assert any("embeddings.LayerNorm" in n for n in names) == trained
        values = json.loads((tmp_path / "adapter_config.json").read_text())
        assert values["bottleneck_type"] == "houlsby"
        assert "peft_type" not in values


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["houlsby", "pfeiffer"])
@torch.no_grad()
def test_a_base_in_half_precision_runs_without_autocast(
    kind: str, precision: torch.dtype, tmp_path: Path
) -> None:
    job = SmallJob()
    with torch.enable_grad():
        method = BottleneckAdapters(placement=kind, size=4, init_std=0.5)
        whole = train(method, job).model.eval()
    whole.save_pretrained(tmp_path)
    half = load_adapters(job.build_model().to(precision), tmp_path)
    batch = {k: v for k, v in collate(list(job.data.examples)).items() if k != "labels"}
    found, expected = half(**batch).logits, whole(**batch).logits
    assert found.dtype == precision
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)
    adapters = [p.dtype for n, p in half.named_parameters() if ".adapter." in n]
    assert set(adapters) == {torch.float32}


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    job = SmallJob()
    BottleneckModel(job.build_model(), config("houlsby")).save_pretrained(tmp_path)
    other = AutoModelForSequenceClassification.from_config(
        BertConfig(**{**job.build_model().config.to_dict(), "num_labels": 5})
    )
    with pytest.raises(UserError, match="another model"):
        load_adapters(other, tmp_path)
    with pytest.raises(UserError, match="no bottleneck"):
        load_adapters(job.build_model(), tmp_path / "nothing")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"placement": "parallel"}, "placement=.*one of"),
        ({"activation": "step"}, "activation=.*one of"),
        ({"size": None}, "size=None.*reduction=None.*one"),
        ({"reduction": 16}, "size=64.*reduction=16.*one"),
        ({"size": 0}, "size=.*1 or more"),
        ({"size": None, "reduction": 0.5}, "reduction=.*1 or more"),
        ({"init_std": 0.0}, "init_std=.*more than 0"),
    ],
)
def test_wrong_settings(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        BottleneckAdapters(**values)
