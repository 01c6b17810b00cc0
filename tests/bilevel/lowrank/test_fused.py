"""GPT-2's fused projection in three parts: the same model, and exports that the stock one reads."""

import copy
import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from bilevel.errors import UserError
from bilevel.lowrank import (
    Gates,
    attach_gates,
    component_costs,
    export_adapter,
    lora_layers,
    lora_pattern,
    merge,
    plain_lora,
)
from bilevel.lowrank.fused import SplitProjection, built_of_conv1d, fuse, split_fused
from bilevel.lowrank.singular import saved_singular_values, singular_values

WIDTH, LAYERS = 16, 3
CONFIG = {
    "vocab_size": 40,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": 2,
    "n_positions": 16,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "initializer_range": 0.2,
}
# transformer.h.N.attn.c_attn.PART: other ranks for q and v, h.1's v and all of h.2 not adapted
RANKS = {(0, "q"): 3, (0, "v"): 1, (1, "q"): 2}
KINDS = [GPT2ForSequenceClassification, GPT2LMHeadModel]


def name(layer: int, part: str) -> str:
    return f"transformer.h.{layer}.attn.c_attn.{part}"


def stock(kind=GPT2ForSequenceClassification, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(GPT2Config(**(CONFIG | options))).eval()


def batch(kind=GPT2ForSequenceClassification) -> dict[str, torch.Tensor]:
    ids = torch.randint(2, 40, (4, 7), generator=torch.Generator().manual_seed(2))
    whole = kind is GPT2LMHeadModel
    return {"input_ids": ids, "labels": ids if whole else torch.tensor([0, 1, 0, 1])}


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=inputs["input_ids"]).logits


def lora(model, **options) -> PeftModel:
    heads = [] if isinstance(model, GPT2LMHeadModel) else ["score"]
    defaults = {"r": 4, "lora_alpha": 6, "fan_in_fan_out": True, "modules_to_save": heads or None}
    qv = [name(layer, part) for layer in range(LAYERS) for part in "qv"]
    return get_peft_model(model, LoraConfig(**(defaults | {"target_modules": qv} | options)))


def train(model, inputs, steps=4) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    model.eval()


def check_both_layouts(report, kind, inputs, expected, atol=1e-5) -> None:
    """Stock PEFT on the stock model, where any warning is an error, gives the expected logits."""
    for folder in (report.adapter, report.compact):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            reloaded = PeftModel.from_pretrained(stock(kind), folder)
        torch.testing.assert_close(logits(reloaded, inputs), expected, rtol=0, atol=atol)
        assert json.loads((folder / "adapter_config.json").read_text())["fan_in_fan_out"] is True


# ---------------------------------------------------------------- splitting


@pytest.mark.parametrize("kind", KINDS)
def test_split_model_computes_the_same(kind):
    model, inputs = stock(kind), batch(kind)
    expected = logits(model, inputs)
    state = torch.get_rng_state()
    split = split_fused(model)
    assert split is model
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(isinstance(m, SplitProjection) for m in model.modules()) == LAYERS
    torch.testing.assert_close(logits(model, inputs), expected, rtol=0, atol=1e-6)
    assert split_fused(model) is model  # twice is once
    assert sum(isinstance(m, SplitProjection) for m in model.modules()) == LAYERS
    cached = model(**inputs, use_cache=True).logits
    torch.testing.assert_close(cached, expected, rtol=0, atol=1e-6)


def test_parts_share_the_fused_weights_memory():
    model = stock()
    weight = model.transformer.h[0].attn.c_attn.weight.detach()
    elements = sum(p.numel() for p in model.parameters())
    parts = split_fused(model).transformer.h[0].attn.c_attn
    for i, part in enumerate((parts.q, parts.k, parts.v)):
        assert part.weight.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
        assert torch.equal(part.weight, weight[:, i * WIDTH : (i + 1) * WIDTH])
        assert part.weight.requires_grad
    assert sum(p.numel() for p in model.parameters()) == elements


def test_copies_and_moves_are_independent_of_the_original():
    model = split_fused(stock())
    expected = logits(model, batch())
    other = copy.deepcopy(model).double()
    torch.testing.assert_close(logits(other, batch()).float(), expected, rtol=0, atol=1e-5)
    other.transformer.h[0].attn.c_attn.q.weight.data.zero_()
    assert torch.equal(logits(model, batch()), expected)


def test_cross_attention_is_left_alone():
    model = split_fused(stock(GPT2LMHeadModel, add_cross_attention=True))
    block = model.transformer.h[0]
    assert isinstance(block.attn.c_attn, SplitProjection)
    assert not isinstance(block.crossattention.c_attn, SplitProjection)


def test_a_quantised_projection_cannot_be_split():
    model = stock()
    quantised = torch.nn.Linear(WIDTH, 3 * WIDTH)
    quantised.source_cls = type(model.transformer.h[0].attn.c_attn)  # as transformers marks it
    model.set_submodule("transformer.h.1.attn.c_attn", quantised)
    with pytest.raises(UserError, match=r"transformer\.h\.1\.attn\.c_attn is quantised"):
        split_fused(model)


def test_models_without_fused_projections_stay(base):
    for family, conv in (("bert", False), ("gpt2", True)):
        model = base(family)
        assert built_of_conv1d(model) is conv
    model = base("bert")
    before = [n for n, _ in model.named_modules()]
    assert [n for n, _ in split_fused(model).named_modules()] == before


# ---------------------------------------------------------------- fusing


def test_fused_factors_are_the_blocks_of_the_parts():
    torch.manual_seed(3)
    factors = {
        "h.v": (torch.randn(2, WIDTH), torch.randn(WIDTH, 2)),
        "other": (torch.randn(3, WIDTH), torch.randn(5, 3)),
        "h.q": (torch.randn(1, WIDTH), torch.randn(WIDTH, 1)),
    }
    model = torch.nn.Module()
    model.h = SplitProjection(stock().transformer.h[0].attn.c_attn)
    model.other = torch.nn.Linear(WIDTH, 5)
    for scales in ({"h.q": 2.0, "h.v": 0.5, "other": 3.0}, {"h.q": 2.0, "h.v": 2.0, "other": 3.0}):
        fused, fused_scales = fuse(model, factors, scales)
        assert set(fused) == set(fused_scales) == {"h", "other"}
        assert fused["other"][0] is factors["other"][0]
        assert fused_scales["other"] == 3.0
        A, B = fused["h"]
        update = {n: scales[n] * B @ A for n, (A, B) in factors.items()}
        zeros = torch.zeros(WIDTH, WIDTH)
        expected = torch.cat([update["h.q"], zeros, update["h.v"]])
        torch.testing.assert_close(fused_scales["h"] * B @ A, expected)
        assert len(A) == 3
    # one scale for both: the factors themselves, so that training can go on from them
    assert fused_scales["h"] == 2.0
    assert torch.equal(B[:WIDTH, :1], factors["h.q"][1])
    assert torch.equal(B[2 * WIDTH :, 1:], factors["h.v"][1])


def test_a_part_without_components_does_not_decide_the_scale():
    model = torch.nn.Module()
    model.h = SplitProjection(stock().transformer.h[0].attn.c_attn)
    factors = {
        "h.q": (torch.ones(0, WIDTH), torch.ones(WIDTH, 0)),
        "h.v": (torch.ones(1, WIDTH), torch.ones(WIDTH, 1)),
    }
    fused, scales = fuse(model, factors, {"h.q": 5.0, "h.v": 0.25})
    assert scales == {"h": 0.25}
    assert torch.equal(fused["h"][1], torch.cat([torch.zeros(2 * WIDTH, 1), factors["h.v"][1]]))
    fused, scales = fuse(model, {"h.q": factors["h.q"]}, {"h.q": 5.0})
    assert [len(A) for A, _ in fused.values()] == [0]


# ---------------------------------------------------------------- export to the stock model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", ["alpha over own rank", "one for all"])
def test_trained_with_other_ranks_for_query_and_value(kind, scale, tmp_path):
    ranks = {name(*key): r for key, r in RANKS.items()}
    scales = {n: 6 / r if scale == "alpha over own rank" else 1.5 for n, r in ranks.items()}
    model = lora(split_fused(stock(kind)), **lora_pattern(ranks, scales))
    inputs = batch(kind)
    before = logits(model, inputs)
    train(model, inputs)
    expected = logits(model, inputs)
    assert (expected - before).abs().max() > 1e-2
    report = export_adapter(model, tmp_path)
    assert report.ranks == ranks
    assert report.parameters == sum(r * 2 * WIDTH for r in ranks.values())
    check_both_layouts(report, kind, inputs, expected)
    compact = load_file(report.compact / "adapter_model.safetensors")
    sizes = {n: len(w) for n, w in compact.items() if "lora_A" in n}
    prefix = "base_model.model.transformer.h"
    assert sizes == {f"{prefix}.{i}.attn.c_attn.lora_A.weight": r for i, r in ((0, 4), (1, 2))}
    assert torch.equal(logits(model, inputs), expected)  # the model stays as it is


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "real", "hard_concrete"])
def test_gates_are_exported_with_their_part(kind, tmp_path):
    model = lora(split_fused(stock()))
    gates = Gates(list(lora_layers(model)), 4, kind)
    attach_gates(model, gates)
    torch.manual_seed(4)
    torch.nn.init.normal_(gates.logits, std=2.0)
    train(model, batch())
    expected = logits(model, batch())
    report = export_adapter(model, tmp_path)
    assert report.cut == 0
    check_both_layouts(report, GPT2ForSequenceClassification, batch(), expected)


def test_keep_masks_cut_components_of_each_part(tmp_path):
    model = lora(split_fused(stock()))
    train(model, batch())
    generator = torch.Generator().manual_seed(5)
    layers = lora_layers(model)
    keep = {n: torch.rand(4, generator=generator) > 0.5 for n in layers}
    keep[name(0, "v")] = torch.zeros(4, dtype=torch.bool)  # a part cut completely,
    for part in "qv":
        keep[name(2, part)] = torch.zeros(4, dtype=torch.bool)  # and a whole projection
    report = export_adapter(model, tmp_path, keep=keep)
    assert report.ranks == {n: int(mask.sum()) for n, mask in keep.items()}
    assert 0 < report.cut < 1
    for n, layer in layers.items():
        layer.lora_B["default"].weight.data[:, ~keep[n]] = 0.0
    expected = logits(model, batch())
    check_both_layouts(report, GPT2ForSequenceClassification, batch(), expected)
    config = json.loads((report.compact / "adapter_config.json").read_text())
    assert len(config["target_modules"]) == 2


def test_all_six_maps_with_costs_of_their_own(tmp_path):
    model = lora(split_fused(stock()), target_modules=["q", "k", "v", "c_proj", "c_fc"], r=2)
    costs = component_costs(model)
    assert len(costs) == 6 * LAYERS
    assert {costs[name(0, part)] for part in "qkv"} == {2 * WIDTH}
    train(model, batch())
    expected = logits(model, batch())
    report = export_adapter(model, tmp_path)
    assert report.parameters == 2 * sum(costs.values())
    check_both_layouts(report, GPT2ForSequenceClassification, batch(), expected)


def test_merged_into_the_stock_model(tmp_path):
    model = lora(split_fused(stock()))
    train(model, batch())
    report = export_adapter(model, tmp_path)
    inputs = {"input_ids": batch()["input_ids"]}
    merged, difference = merge(report.compact, stock(), [inputs])
    assert difference < 1e-5
    assert set(merged.state_dict()) == set(stock().state_dict())
    torch.testing.assert_close(logits(merged, inputs), logits(model, inputs), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("error:fan_in_fan_out")
def test_plain_lora_on_a_split_model_exports_too(tmp_path):
    """Methods whose training form is another rebuild plain LoRA first."""
    model = lora(split_fused(stock()))
    train(model, batch())
    torch.manual_seed(6)
    ranks = {name(*key): r for key, r in RANKS.items()}
    factors = {n: (torch.randn(r, WIDTH), torch.randn(WIDTH, r)) for n, r in ranks.items()}
    rebuilt = plain_lora(model, factors, dict.fromkeys(ranks, 0.3))
    expected = logits(rebuilt, batch())
    report = export_adapter(rebuilt, tmp_path)
    assert report.ranks == ranks
    check_both_layouts(report, GPT2ForSequenceClassification, batch(), expected)


def test_trained_biases_of_a_split_projection_are_refused(tmp_path):
    model = lora(split_fused(stock()), bias="lora_only")
    with pytest.raises(UserError, match="bias='none'"):
        export_adapter(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_singular_values_of_what_is_saved(tmp_path):
    """Those of the stock projection's update, decomposed as a whole, of its exported adapter."""
    model = lora(split_fused(stock()), rank_pattern={name(0, "v"): 2})
    train(model, batch())
    found = saved_singular_values(model)
    assert len(singular_values(model)) == 2 * LAYERS
    report = export_adapter(model, tmp_path)
    stored = PeftModel.from_pretrained(stock(), report.compact)
    layers = {n: m for n, m in lora_layers(stored).items() if n.endswith("c_attn")}
    assert set(found) == set(layers)
    for layer, module in layers.items():
        sigma = torch.linalg.svdvals(module.get_delta_weight("default").detach().double())
        rank = 6 if ".0." in layer else 8
        assert len(found[layer]) == rank
        torch.testing.assert_close(found[layer], sigma[:rank], rtol=0, atol=1e-6)
